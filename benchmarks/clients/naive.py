"""Tasks: a naive exporter: default settings of the libraries, `json`, and prometheus_client for every turn.

It counts the same as the exporter, under the same names, from the messages of one connection. It parses each
snapshot and visits all turns; a set of those already counted keeps it from counting a turn twice.
"""

import json
import sys
from datetime import datetime
from typing import Any

import trio
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    start_http_server,
)

from exporter.metrics import catalog
from exporter.metrics.catalog import Family

from .feeds import follow

_LABELS = ("project", "agent")
_TIMINGS = (
    ("model_generation_time", catalog.MODEL_GENERATION),
    ("phonic_api_output_to_first_audio_chunk", catalog.FIRST_AUDIO),
    ("phonic_api_output_to_modal_input", catalog.MODEL_INPUT),
)


class Naive:
    """Counts with metrics of prometheus_client in ``registry``."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._seen: set[tuple[str, ...]] = set()
        self._updates = Counter("phonic_exporter_updates", "Snapshots.", registry=self.registry)
        self._conversations = self._counter(catalog.CONVERSATIONS)
        self._turns = self._counter(catalog.TURNS)
        self._silent_turns = self._counter(catalog.SILENT_TURNS)
        self._overlaps = self._counter(catalog.OVERLAPS)
        self._tool_calls = self._counter(catalog.TOOL_CALLS)
        self._turn_duration = self._histogram(catalog.TURN_DURATION)
        self._response = self._histogram(catalog.RESPONSE)
        self._timings = [(key, self._histogram(family)) for key, family in _TIMINGS]
        self._live_info = self._gauge(catalog.LIVE_INFO)
        self._live_turns = self._gauge(catalog.LIVE_TURNS)
        self._live_duration = self._gauge(catalog.LIVE_DURATION)
        self._live_generation = self._gauge(catalog.LIVE_GENERATION)
        self._live_first_audio = self._gauge(catalog.LIVE_FIRST_AUDIO)
        self._live_last_update = self._gauge(catalog.LIVE_LAST_UPDATE)

    def receive(self, identity: str, message: str | bytes) -> None:
        """Count what is new in a message of the live socket."""
        conversation = json.loads(message)["conversation"]
        items: list[dict[str, Any]] = conversation["items"]
        labels = {"project": conversation["project_id"], "agent": conversation["agent"]["name"]}
        self._updates.inc()
        if self._is_new(identity):
            self._conversations.labels(**labels).inc()
        for at, item in enumerate(items):
            self._turn(identity, labels, items, at, item)
        self._live_info.labels(identity, labels["project"], labels["agent"], conversation["origin"]).set(1)
        self._live_turns.labels(identity).set(len(items))
        self._live_duration.labels(identity).set(conversation["duration_ms"] / 1000)
        self._live_last_update.labels(identity).set_to_current_time()

    def _turn(
        self, identity: str, labels: dict[str, str], items: list[dict[str, Any]], at: int, item: dict[str, Any]
    ) -> None:
        turn, role = item["id"], item["role"]
        if self._is_new(turn):
            self._turns.labels(**labels, role=role).inc()
        if at < len(items) - 1 and self._is_new(turn, "settled"):
            self._turn_duration.labels(**labels, role=role).observe(item["duration_ms"] / 1000)
        for key, histogram in self._timings:
            value = item.get("timings", {}).get(key)
            if value is not None and self._is_new(turn, key):
                histogram.labels(**labels).observe(value / 1000)
        if item.get("timings"):
            self._live_generation.labels(identity).set(item["timings"]["model_generation_time"] / 1000)
            first_audio = item["timings"]["phonic_api_output_to_first_audio_chunk"]
            self._live_first_audio.labels(identity).set(first_audio / 1000)
        for call in item["tool_call_ids"]:
            if self._is_new(call):
                self._tool_calls.labels(**labels).inc()
        if item["assistant_chose_not_to_respond"]:
            if self._is_new(turn, "silent"):
                self._silent_turns.labels(**labels).inc()
        elif role == "assistant" and at and items[at - 1]["role"] == "user" and self._is_new(turn, "response"):
            self._respond(labels, items[at - 1], item)

    def _respond(self, labels: dict[str, str], user: dict[str, Any], assistant: dict[str, Any]) -> None:
        start, user_start = (datetime.fromisoformat(each["started_at"]) for each in (assistant, user))
        seconds = round((start - user_start).total_seconds() - user["duration_ms"] / 1000, 6)
        if seconds < 0:
            self._overlaps.labels(**labels).inc()
        else:
            self._response.labels(**labels).observe(seconds)

    def _is_new(self, *identity: str) -> bool:
        if identity in self._seen:
            return False
        self._seen.add(identity)
        return True

    def _counter(self, family: Family) -> Counter:
        return Counter(family.name, family.help, family.label_names(_LABELS), registry=self.registry)

    def _gauge(self, family: Family) -> Gauge:
        return Gauge(family.name, family.help, family.labels, registry=self.registry)

    def _histogram(self, family: Family) -> Histogram:
        labels = family.label_names(_LABELS)
        return Histogram(family.name, family.help, labels, buckets=family.buckets, registry=self.registry)


def serve(naive: Naive) -> None:
    """Serve the page from a thread, and print its URL."""
    server, _ = start_http_server(0, "127.0.0.1", naive.registry)
    print(f"http://127.0.0.1:{server.server_port}/metrics", file=sys.stderr, flush=True)


def main() -> None:
    naive = Naive()
    serve(naive)
    trio.run(follow, sys.argv[1], naive.receive)


if __name__ == "__main__":
    main()
