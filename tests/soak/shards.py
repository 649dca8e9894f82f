"""Wiring: exporters that share shards in a PostgreSQL, through faults: ``python -m tests.soak.shards --seed 7``.

Several processes, more than there are shards, follow the calls of one simulator. A real Prometheus scrapes them
all with the rule that names the instance after the shard. Faults (`troubles`) strike the processes, their
connections and the engine; the number of shards changes. In the end, the engine's sums, Prometheus' sums and those
of the plan must agree (`sums`), no counter may have fallen, and every shard must have been one instance.

Nothing is held back before a fault, unlike in `harness`: a conversation may end before anyone follows it again.
Then its timings are lost, and must be reported as lost.
"""

import argparse
import itertools
import json
import math
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

import attrs
import httpx
import trio

from exporter.metrics.catalog import CATALOG, Family
from exporter.metrics.catalog import Kind as FamilyKind
from exporter.scrape_rule import RELABELINGS
from exporter.simulator.plan import plan
from exporter.simulator.settings import SimulatorSettings, scenario_of
from tests.links import State
from tests.postgres import Postgres, running

from . import mutations
from .fleet import Launch, Member, TakeOver, Watch, fleet, until
from .harness import KEY, Failed, Phone, simulating
from .oracle import SampleKey, Totals, differences, expected, is_history
from .scraping import SCRAPE_S, Prometheus, scraping
from .sums import LOST, compare_with_plan, turns_of, without
from .troubles import FAULTS, RESHARDING, Kind, Trouble, troubles

_TAKEN_AFTER_S: Final = 0.5  # a shard is taken so long after its lease has run out, or was released
_BUSY: Final = 5  # a take-over has about so many steps, each of which a busy machine can delay as it delays a look
_STATE_INTERVAL_S: Final = 1.5  # scrapes cause the writes; see `harness`
_ASK_S: Final = 0.7
MEAN_GAP_S: Final = 4.5  # of `troubles`, with the time that a change of the number of shards takes
RESHARDING_S: Final = 12.0
_WINDOW: Final = "1d"
_STATES: Final = frozenset({"held", "unheld", "draining", "drained"})


@attrs.frozen(kw_only=True)
class Run:
    """What to play. ``troubles``: how many. ``has_rule``: whether Prometheus names instances after shards.
    ``over_s``: how long after the last of them everything may take to be over; then what there is is compared.

    ``mutation`` is Python that runs first in the processes of the exporter: a defect that must be detected.
    """

    seed: int
    prometheus: str
    troubles: int = 12
    kinds: tuple[Kind, ...] = (*FAULTS, *RESHARDING)
    members: int = 4
    shards: int = 2
    lease_s: float = 2.0
    calls_per_minute: float = 140.0
    pace: float = 0.1
    agents: int = 8
    over_s: float = 100.0
    hold_s: float = 24 * SCRAPE_S  # a busy machine misses many scrapes in a row
    has_rule: bool = True
    mutation: str = ""

    def seconds(self) -> float:
        """Return about how long the troubles take."""
        changes = sum(kind in RESHARDING for kind in self.kinds)
        return self.troubles * MEAN_GAP_S + changes * RESHARDING_S

    def simulator(self) -> SimulatorSettings:
        endless = SimulatorSettings(
            listen_address="127.0.0.1:0",
            api_key=KEY,
            seed=self.seed,
            projects=3,
            agents=self.agents,
            calls_per_minute=self.calls_per_minute,
            turns=10,
            pace=self.pace,
            warm_up=0,  # what ends between the first start and the first call would be counted, but not planned
            fault=("latency-spike=0.05", "error-wave=0.05", "slow-open=1", "unlisted-agents=1"),
            patient=True,
            refuse_ended=bool(self.seed % 2),
        )
        begun = takewhile(lambda each: each.created_ms <= 0, plan(scenario_of(endless)[0]))
        counted = round(self.calls_per_minute * self.seconds() / 60)
        return attrs.evolve(endless, total=counted + sum(is_history(each) for each in begun))

    def troubles_of(self) -> list[Trouble]:
        return troubles(self.seed, count=self.troubles, lease_s=self.lease_s, kinds=self.kinds)


@attrs.define(kw_only=True)
class Outcome:
    """``wrong`` has one line for each thing that is not as it must be; the other fields tell what happened."""

    wrong: list[str] = attrs.field(factory=list)
    faults: Counter[str] = attrs.field(factory=Counter)
    answers: Counter[str] = attrs.field(factory=Counter)
    """What ``GET /api/v1/shards`` answered: status codes, and states of shards."""
    take_overs: list[float] = attrs.field(factory=list)
    """Seconds from a fault of a holder until another process held its shard."""
    hand_overs: list[float] = attrs.field(factory=list)
    """Seconds from SIGTERM of a holder until another process held its shard."""
    gaps: list[float] = attrs.field(factory=list)
    """Seconds from a fault of a holder until Prometheus had scraped the next one."""
    longest_delay: float = 0.0
    """Seconds that the machine was late during one of these."""
    conversations: int = 0
    turns: int = 0
    lost: int = 0
    """Turns whose timings were reported as lost."""
    compared: int = 0
    seconds: float = 0.0

    def table(self) -> str:
        faults = ", ".join(f"{count} {kind}" for kind, count in sorted(self.faults.items()))
        answers = ", ".join(f"{count} {what}" for what, count in sorted(self.answers.items()))
        return "\n".join(
            (
                f"{self.conversations} conversations, {self.turns} turns, {self.lost} without their timings; "
                f"{self.compared} samples compared, in {self.seconds:.0f} s",
                f"faults: {faults}",
                f"take-overs: {_spread(self.take_overs)}; after SIGTERM: {_spread(self.hand_overs)}; until "
                f"Prometheus had scraped it: {_spread(self.gaps)}; the machine was up to "
                f"{self.longest_delay:.2f} s late",
                f"GET /api/v1/shards: {answers}",
            )
        )


def _spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "none"
    middle = statistics.median(seconds)
    return f"{len(seconds)}, median {middle:.1f} s, longest {max(seconds):.1f} s"


async def play(run: Run, directory: Path, say: Callable[[str], None]) -> Outcome:
    """Play a run, and report all that is wrong. Logs of all processes stay in ``directory``."""
    begun = time.monotonic()
    outcome = Outcome()
    async with AsyncExitStack() as stack:
        enter = stack.enter_context
        client = enter(httpx.Client(timeout=30, trust_env=False))
        server = enter(running())
        count = _Number(run.shards)
        launch = Launch(
            server=server,
            database=server.new_database(),
            lease_s=run.lease_s,
            hold_s=run.hold_s,
            state_interval_s=_STATE_INTERVAL_S,
            shards=lambda: count.value,
            mutation=run.mutation,
        )
        members = await stack.enter_async_context(fleet(run.members, launch, directory))
        targets = [f"127.0.0.1:{member.port}" for member in members]
        rules = [json.dumps(each.in_prometheus) for each in RELABELINGS] if run.has_rule else ()
        prometheus = enter(scraping(run.prometheus, targets, directory, client, rules=rules))
        watch = Watch(server, launch.database)
        story = _Story(run, members, server, launch.database, prometheus, watch, count, outcome, say)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run)
            nursery.start_soon(story.ask)
            try:
                # Calls begin after the first start of an exporter: what is over before is history, not counted.
                await story.begin()
                phone = await trio.to_thread.run_sync(enter, simulating(run.simulator(), directory, client))
                for member in members:
                    member.api.lead(int(phone.url.rpartition(":")[2]))
                await story.tell(phone)
            except* Failed as failed:
                outcome.wrong[:0] = _reasons(failed)
            nursery.cancel_scope.cancel()
    outcome.seconds = time.monotonic() - begun
    return outcome


def _reasons(failed: BaseExceptionGroup[Failed]) -> list[str]:
    """The texts of all errors of a group."""
    return [
        reason
        for each in failed.exceptions
        for reason in (_reasons(each) if isinstance(each, BaseExceptionGroup) else [str(each)])
    ]


@attrs.define
class _Number:
    value: int


@attrs.frozen
class _Struck:
    """A holder of ``shard`` was struck at this Unix time, while ``spare`` others were free to take it."""

    at: float
    shard: str
    epoch: int
    spare: int
    kind: Kind | None
    """None: it was asked to stop."""


@attrs.define(eq=False)
class _Story:
    _run: Run
    _members: list[Member]
    _server: Postgres
    _database: str
    _prometheus: Prometheus
    _watch: Watch
    _count: _Number
    _outcome: Outcome
    _say: Callable[[str], None]
    _struck: list[_Struck] = attrs.field(factory=list)
    _strikes: list[float] = attrs.field(factory=list)
    """When a process was struck, whether it held a shard or not."""
    _outages: list[tuple[float, float]] = attrs.field(factory=list)
    """Times in which the engine was down."""

    async def begin(self) -> None:
        """Have one process create the shards, and hold one of them for a moment. Raises: Failed."""
        first = self._members[0]
        await first.start()
        await until(lambda: self._watch.history, "a shard is held", self._tell_all)
        await first.stop()

    async def tell(self, phone: Phone) -> None:
        """Play everything, then compare. Raises: Failed if it cannot go on."""
        async with trio.open_nursery() as nursery:
            for member in self._members:
                nursery.start_soon(member.start)
        await self._all_held("at the start")
        async with trio.open_nursery() as nursery:
            for trouble in self._run.troubles_of():
                await trio.sleep(trouble.after_s)
                if trouble.kind in RESHARDING:
                    await self._reshard(trouble.kind)
                elif trouble.kind is Kind.CRASH_ENGINE:
                    await self._crash_engine(trouble)
                else:
                    await self._strike(trouble, nursery)
        await self._until_over(phone)
        await self._compare()

    async def ask(self) -> None:
        """Ask one process after the other for the shards, until cancelled."""
        number = 0
        while True:
            await trio.sleep(_ASK_S)
            number += 1
            member = self._members[number % len(self._members)]
            if not member.is_well:
                continue
            try:
                answer = await member.shards()
            except httpx.HTTPError as failed:
                self._outcome.answers[type(failed).__name__] += 1
                continue
            self._outcome.answers[str(answer.status_code)] += 1
            if answer.status_code == 200:
                shards = answer.json()["shards"]
                self._outcome.wrong += _contradictions(shards)
                self._outcome.answers.update({each["state"] for each in shards})
                if not any(f":{member.pid}:" in (each["holder"] or "") for each in shards):
                    self._outcome.answers["by a standby"] += 1
            elif answer.status_code != 503:
                self._outcome.wrong.append(f"GET /api/v1/shards answers {answer.status_code}: {answer.text}")

    # --- what happens

    async def _strike(self, trouble: Trouble, nursery: trio.Nursery) -> None:
        """Choose a process, and let the trouble begin; it ends by itself."""
        shards = sum(not row.is_drained or row.pid > 0 for row in self._watch.rows.values())
        await until(
            lambda: sum(member.is_well for member in self._members) > shards,
            "a process can be spared",
            self._tell_all,
        )
        holders = {self._watch.holder(shard) for shard in self._watch.rows}
        well = [member for member in self._members if member.is_well]
        fit = [member for member in well if (member.pid in holders) == trouble.strikes_holder] or well
        member = fit[int(trouble.draw * len(fit))]
        what = f"{trouble.kind.value} of {member.number} for {trouble.seconds:.1f} s"
        if trouble.kind in (Kind.PARTITION_ENGINE, Kind.PARTITION_API):
            what += f" ({trouble.way.value})"
        self._outcome.faults[trouble.kind.value] += 1
        self._note(member, trouble.kind, what)
        member.is_well = False
        nursery.start_soon(self._play, trouble, member)

    async def _play(self, trouble: Trouble, member: Member) -> None:
        match trouble.kind:
            case Kind.KILL:
                await member.kill()
                await trio.sleep(trouble.seconds)
                await member.start()
            case Kind.KILL_CUT_OFF:
                for each in self._members:
                    await each.api.become(State.CUT)
                await member.kill()
                await trio.sleep(trouble.seconds)
                for each in self._members:
                    await each.api.become(State.PASSES)
                await member.start()
            case Kind.STALL:
                member.signal(signal.SIGSTOP)
                await trio.sleep(trouble.seconds)
                member.signal(signal.SIGCONT)
                member.is_well = True
            case _:
                link = member.engine if trouble.kind is Kind.PARTITION_ENGINE else member.api
                await link.become(trouble.way)
                await trio.sleep(trouble.seconds)
                await link.become(State.PASSES)
                member.is_well = True

    def _note(self, member: Member, kind: Kind | None, what: str) -> None:
        """Remember what the process holds when it is struck."""
        held = [row for row in self._watch.rows.values() if row.pid == member.pid]
        self._say(f"{what}, which holds {', '.join(row.shard for row in held) or 'nothing'}")
        holders = {row.pid for row in self._watch.rows.values()}
        well = {each.pid for each in self._members if each.is_well}
        waiting = sum(row.pid not in well and not row.is_drained for row in self._watch.rows.values())
        spare = len(well - holders) - waiting
        self._strikes.append(time.time())
        self._struck += [_Struck(time.time(), row.shard, row.epoch, spare, kind) for row in held]

    async def _crash_engine(self, trouble: Trouble) -> None:
        self._say(f"{trouble.kind.value} for {trouble.seconds:.1f} s")
        self._outcome.faults[trouble.kind.value] += 1
        down = time.time()
        await trio.to_thread.run_sync(self._server.crash)
        await trio.sleep(trouble.seconds)
        await trio.to_thread.run_sync(self._server.start)
        self._outages.append((down, time.time()))

    async def _reshard(self, kind: Kind) -> None:
        """Restart one process after the other with another number of shards."""
        self._outcome.faults[kind.value] += 1
        self._count.value += 1 if kind is Kind.ADD else -1
        self._say(f"{kind.value}: {self._count.value} shards")
        await until(lambda: all(member.is_well for member in self._members), "all are well", self._tell_all)
        for member in self._members:
            self._note(member, None, f"stop of {member.number}")
            await member.stop()
            await member.start()
        if kind is Kind.ADD:
            await self._all_held("after a shard was added")

    async def _all_held(self, when: str) -> None:
        wanted = {str(number) for number in range(self._count.value)}
        await until(
            lambda: all(self._watch.holder(shard) for shard in wanted),
            f"all shards are held {when}",
            self._tell_all,
        )

    # --- the end

    async def _until_over(self, phone: Phone) -> None:
        """Wait until everything has ended, is counted and was scraped."""
        self._say("until all is over")
        wanted = without(self._expected())
        ended = partial(_total, name="phonic_conversations_ended_total")
        deadline = trio.current_time() + self._run.over_s
        while trio.current_time() < deadline:
            if (
                phone.state()["complete"]
                and ended(await self._engine()) >= ended(wanted)
                and not await self._unfinished()
            ):
                break
            await trio.sleep(0.3)
        at = time.time()
        await until(lambda: self._has_scraped_all_since(at), "Prometheus has seen the last numbers")

    async def _unfinished(self) -> list[str]:
        """What is still to come: conversations that are live, and series that are held at 0."""
        shards = (await self._members[0].shards()).json()["shards"]
        left = [f"{each['conversations']} in shard {each['shard']}" for each in shards if each["conversations"]]
        for member in self._members:
            family = (await member.page()).get("phonic_exporter_label_sets_held")
            left += [f"{each.value} label sets" for each in (family.samples if family else ()) if each.value]
        return left

    def _has_scraped_all_since(self, at: float) -> bool:
        found = self._prometheus.query("timestamp(phonic_exporter_build_info) - 0.001")
        return sum(float(each["value"][1]) > at for each in found) == len(self._members)

    async def _compare(self) -> None:
        outcome = self._outcome
        wanted, engine = self._expected(), await self._engine()
        conversations = self._conversations()
        seen = _Seen(self._prometheus)
        outcome.conversations = sum(not is_history(each) for each in conversations)
        outcome.turns = round(_total(engine, name="phonic_turns_total"))
        outcome.lost = round(_total(engine, name=LOST))
        outcome.wrong += seen.wrong()
        scraped = without(seen.increases())
        outcome.wrong += [f"engine and Prometheus: {line}" for line in differences(without(engine), scraped)]
        together = without(engine, "shard")
        outcome.wrong += [
            f"plan and engine: {line}" for line in compare_with_plan(together, wanted, turns_of(conversations))
        ]
        outcome.compared = len(together.keys() | wanted.keys())
        outcome.wrong += self._never()
        self._measure(seen)

    def _measure(self, seen: "_Seen") -> None:
        """How long shards were without a holder; adds to ``wrong`` where that was too long."""
        outcome, epochs = self._outcome, seen.epochs()
        for struck in self._struck:
            again = (each.at for each in self._struck if (each.shard, each.epoch) == (struck.shard, struck.epoch))
            after = next((each for each in self._watch.history if _follows(each, struck)), None)
            if after is None or max(again) > struck.at or struck.kind is Kind.PARTITION_API:
                continue  # it kept its shard for a time, or for ever
            if sum(struck.at < strike < after.at for strike in self._strikes) >= struck.spare:
                continue  # perhaps nobody could take it
            if any(down <= after.at and struck.at <= up for down, up in self._outages):
                continue
            took = after.at - struck.at
            (outcome.hand_overs if struck.kind is None else outcome.take_overs).append(took)
            scraped = next((at for at, epoch in epochs.get(struck.shard, ()) if epoch > struck.epoch), None)
            if scraped is not None and struck.kind is not None:
                outcome.gaps.append(scraped - struck.at)
            delay = self._watch.delay(struck.at, after.at)
            outcome.longest_delay = max(outcome.longest_delay, delay)
            if took > self._run.lease_s + _TAKEN_AFTER_S + _BUSY * delay:
                what = "SIGTERM" if struck.kind is None else struck.kind.value
                outcome.wrong.append(
                    f"shard {struck.shard} was without a holder for {took:.1f} s after a {what}, on a machine "
                    f"that was {delay:.2f} s late"
                )

    def _never(self) -> Iterator[str]:
        """What must never be in a log."""
        for member in self._members:
            for log in member.logs():
                for line in log.read_text().splitlines():
                    if "Traceback" in line or "crashed" in line:
                        yield f"{log.name}: {line}"

    def _conversations(self) -> list[Any]:
        return list(plan(scenario_of(self._run.simulator())[0]))

    def _expected(self) -> Totals:
        return expected(self._conversations(), ())

    async def _engine(self) -> Totals:
        return await trio.to_thread.run_sync(engine_sums, self._server, self._database)

    def _tell_all(self) -> str:
        return "\n".join([f"{self._watch.rows}", *(member.tell() for member in self._members if member.process)])


def _follows(each: TakeOver, struck: _Struck) -> bool:
    return each.shard == struck.shard and each.epoch > struck.epoch and each.at >= struck.at


def _total(totals: Totals, *, name: str) -> float:
    return sum(value for (each, _), value in totals.items() if each == name)


def _contradictions(shards: list[dict[str, Any]]) -> list[str]:
    """Return what cannot be in an answer of ``GET /api/v1/shards``."""
    wrong = []
    holders = [each["holder"] for each in shards if each["holder"]]
    if len(holders) > len(set(holders)):
        wrong.append(f"a process holds two shards: {shards}")
    for each in shards:
        if each["state"] not in _STATES or each["shard"] != str(int(each["shard"])):
            wrong.append(f"not a shard: {each}")
        if (each["state"] == "held") != (each["holder"] is not None) and each["state"] in ("held", "unheld"):
            wrong.append(f"state and holder do not agree: {each}")
        if (
            each["epoch"] < 0
            or each["conversations"] < 0
            or (each["conversations"] and each["state"] == "drained")
        ):
            wrong.append(f"impossible: {each}")
    return wrong


# --- sums


def engine_sums(server: Postgres, database: str) -> Totals:
    """Return the samples of all shards, with their label ``shard``, as the engine has them."""
    families = {family.name: family for family in CATALOG}
    totals: Totals = defaultdict(float)
    with server.connect(database) as connection:
        label_names = {
            str(shard): _plain(names)
            for shard, names in connection.execute("SELECT shard, label_names FROM phonic_shard")
        }
        rows = connection.execute("SELECT shard, family, labels, layout, numbers FROM phonic_series").fetchall()
    for shard, name, values, layout, numbers in rows:
        family = families[name]
        names = family.label_names(label_names[str(shard)])
        labels = frozenset([("shard", str(shard)), *zip(names, _plain(values), strict=True)])
        for key, value in _samples(family, labels, _plain(layout), _plain(numbers)):
            totals[key] += value
    return totals


class _Seen:
    """What Prometheus has seen of the series of shards."""

    def __init__(self, prometheus: Prometheus) -> None:
        self._prometheus = prometheus
        self._names = [*prometheus.names(), LOST]

    def wrong(self) -> list[str]:
        """Return series that fell or did not begin at 0, and shards with several instances."""
        wrong = []
        instances: dict[str, set[str]] = defaultdict(set)
        for name in self._names:
            fell = self._ask(f"resets({name}{{shard!=''}}[{_WINDOW}]) > 0")
            born = self._ask(f"min_over_time({name}{{shard!=''}}[{_WINDOW}]) > 0")
            wrong += [f"Prometheus saw {value:.0f} falls of {name}{labels}" for labels, value in fell]
            wrong += [f"{name}{labels} began at {value}" for labels, value in born]
            for labels, _ in self._ask(
                f"count by (shard, instance) (last_over_time({name}{{shard!=''}}[{_WINDOW}]))"
            ):
                instances[labels["shard"]].add(labels["instance"])
        wrong += [
            f"shard {labels['shard']} was shown by an earlier holder after a later one had shown it"
            for labels, _ in self._ask(f"resets(phonic_exporter_shard_lease_epoch[{_WINDOW}]) > 0")
        ]
        wrong += [
            f"shard {shard} has the instances {sorted(found)}"
            for shard, found in sorted(instances.items())
            if found != {f"shard-{shard}"}
        ]
        return wrong

    def increases(self) -> Totals:
        """Return the increase of each series since its first sample. Correct only without resets."""
        totals: Totals = defaultdict(float)
        for name in self._names:
            raw = f"{name}{{shard!=''}}[{_WINDOW}]"
            for labels, value in self._ask(f"max_over_time({raw}) - min_over_time({raw})"):
                totals[_key(name, labels)] += value
        return totals

    def epochs(self) -> dict[str, list[tuple[float, float]]]:
        """Return when Prometheus saw which epoch of each shard first."""
        found: dict[str, dict[float, float]] = defaultdict(dict)
        for each in self._prometheus.query(f"phonic_exporter_shard_lease_epoch[{_WINDOW}]"):
            for at, epoch in each["values"]:
                seen = found[each["metric"]["shard"]]
                seen[float(epoch)] = min(float(at), seen.get(float(epoch), float(at)))
        return {shard: sorted((at, epoch) for epoch, at in seen.items()) for shard, seen in found.items()}

    def _ask(self, expression: str) -> list[tuple[dict[str, str], float]]:
        return [(each["metric"], float(each["value"][1])) for each in self._prometheus.query(expression)]


def _key(name: str, labels: dict[str, str]) -> SampleKey:
    return name, frozenset(
        (label, repr(float(value)) if label == "le" else value)
        for label, value in labels.items()
        if label not in ("job", "instance", "__name__")
    )


def _samples(
    family: Family, labels: frozenset[tuple[str, str]], layout: Sequence[float], numbers: Sequence[int]
) -> Iterator[tuple[SampleKey, float]]:
    """Yield the samples of one row: a counter, or the sum in billionths and the count of each bucket."""
    if family.kind is FamilyKind.COUNTER:
        (total,) = numbers
        yield (family.sample_name, labels), total
        return
    nanos, *counts = numbers
    yield (f"{family.name}_sum", labels), nanos / 1e9
    yield (f"{family.name}_count", labels), sum(counts)
    for bound, below in zip((*layout, math.inf), itertools.accumulate(counts), strict=True):
        yield (f"{family.name}_bucket", labels | {("le", repr(float(bound)))}), below


def _plain(column: Any) -> Any:
    """Return what a column holds, whether that is an array or JSON."""
    return json.loads(column) if isinstance(column, str | bytes) else column


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.shards", description="Shards through faults.")
    parser.add_argument("--seed", type=int, action="append", help="repeatable; drawn at random by default")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--lease", type=float, default=3.0, help="seconds")
    parser.add_argument("--prometheus", default="prometheus", help="path of a Prometheus")
    parser.add_argument("--logs", type=Path, help="directory for all logs; a temporary one by default")
    parser.add_argument(
        "--mutations", action="store_true", help="also play each known defect, which must be found"
    )
    given = parser.parse_args()
    for seed in given.seed or [random.randrange(1_000_000)]:
        many = max(6, round((given.minutes * 60 - 2 * RESHARDING_S) / MEAN_GAP_S))
        run = Run(seed=seed, prometheus=given.prometheus, troubles=many, lease_s=given.lease)
        repeat = f"python -m tests.soak.shards --seed {seed} --minutes {given.minutes:g} --lease {given.lease:g}"
        directory = Path(tempfile.mkdtemp(prefix=f"shards-{seed}-", dir=given.logs))
        say(f"{repeat}: logs in {directory}")
        outcome = trio.run(play, run, directory, say)
        say(outcome.table())
        if outcome.wrong:
            say("\n".join(outcome.wrong[:60]))
            say(f"FAILED, {len(outcome.wrong)} times. To repeat it: {repeat}")
            return 1
        say(f"seed {seed}: all sums agree")
    return _mutations(given.prometheus) if given.mutations else 0


def _mutations(prometheus: str) -> int:
    """Play a short run with each defect; return 1 if the comparison misses one."""
    for name, run in defects(prometheus).items():
        outcome = trio.run(play, run, Path(tempfile.mkdtemp(prefix="shards-mutation-")), say)
        signs = defect_signs(name, outcome)
        if not signs:
            say("\n".join(outcome.wrong[:20]))
            say(f"FAILED: the defect was not found: {name}")
            return 1
        say(f"defect found, as it must be: {name}: {len(signs)} times, such as {signs[0]}")
    return 0


def defect_signs(name: str, outcome: Outcome) -> list[str]:
    """Return those of the lines in which a run with this defect must differ."""
    sign = "has the instances" if name == "no relabel rule" else "falls of"
    return [line for line in outcome.wrong if sign in line]


def defects(prometheus: str) -> dict[str, Run]:
    """Return short runs with a defect each, which must be found."""
    run = Run(
        seed=2,  # all its troubles strike a holder
        prometheus=prometheus,
        troubles=3,
        kinds=(Kind.KILL_CUT_OFF,),
        members=3,
        shards=1,
        over_s=30.0,
        hold_s=4 * SCRAPE_S,
    )
    return {
        # A long lease makes writes rare.
        "show counted": attrs.evolve(run, lease_s=4.0, mutation=mutations.SHOW_COUNTED),
        "no relabel rule": attrs.evolve(run, has_rule=False),
        "no epoch check": attrs.evolve(run, kinds=(Kind.STALL,), mutation=mutations.NO_EPOCH_CHECK),
    }


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
