"""The push API's protection: host names, origins, and the budget for new ids."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.enums import Started
from exporter.web.push import BudgetedTargets, budget
from exporter.web.same_origin import SameOrigin, same_origin

SAME_ORIGIN = same_origin(
    external_url="https://Calls.example.com:8443/phonic",
    listen_hosts=["", "metrics.example.net"],
    machine="Box.lan",
)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:10058",
        "10.1.2.3:80",
        "[::1]:10058",
        "[fd00::1]",
        "localhost:10058",
        "LOCALHOST",
        "a.localhost",
        "phonic-exporter",
        "phonic-exporter:10058",
        "phonic-exporter.monitoring.svc",
        "phonic-exporter.monitoring.svc.cluster.local:10058",
        "ip-10-0-0-1.ec2.internal",
        "printer.local",
        "calls.example.com",
        "CALLS.example.com:8443",
        "calls.example.com.",
        "metrics.example.net",
        "box.lan",
    ],
)
def test_names_that_an_attacker_cannot_register_are_trusted(host: str) -> None:
    assert SAME_ORIGIN.objection({"host": [host]}) is None


@pytest.mark.parametrize(
    "host",
    [
        "attacker.example",
        "attacker.example:10058",
        "127.0.0.1.attacker.example",
        "localhost.attacker.example",
        "calls.example.com.attacker.example",
        "127.1.attacker.example:80",
        "",
        ":80",
        "[::1",
        "a:b",
        "a.b:99999",
        "user@localhost",
        "localhost/x",
        "localhost?x",
        "localhost#x",
        "\xff.example",
    ],
)
def test_other_names_are_not_trusted(host: str) -> None:
    assert SAME_ORIGIN.objection({"host": [host]})


@pytest.mark.parametrize("hosts", [[], ["localhost", "localhost"]])
def test_requests_need_exactly_one_host(hosts: list[str]) -> None:
    assert SAME_ORIGIN.objection({"host": hosts})


@pytest.mark.parametrize(
    ("host", "origin", "is_allowed"),
    [
        ("localhost:10058", "http://localhost:10058", True),
        ("localhost:10058", "HTTPS://LOCALHOST:10058", True),
        ("127.0.0.1:10058", "https://calls.example.com:8443", True),
        ("localhost:10058", "http://localhost:3000", False),
        ("localhost:10058", "https://attacker.example", False),
        ("localhost:10058", "null", False),
        ("localhost:10058", "", False),
        ("localhost:10058", "file://localhost:10058", False),
        ("localhost:10058", "http://[::1", False),
        ("localhost:10058", "https://calls.example.com", False),
    ],
)
def test_browsers_may_push_from_our_own_pages_only(host: str, origin: str, is_allowed: bool) -> None:
    assert (SAME_ORIGIN.objection({"host": [host], "origin": [origin]}) is None) is is_allowed


@pytest.mark.parametrize(
    ("site", "is_allowed"), [("same-origin", True), ("none", True), ("same-site", False), ("cross-site", False)]
)
def test_sec_fetch_site_of_another_site_is_refused(site: str, is_allowed: bool) -> None:
    assert (SAME_ORIGIN.objection({"host": ["localhost"], "sec-fetch-site": [site]}) is None) is is_allowed


def test_external_url_may_be_a_path() -> None:
    without_host = same_origin(external_url="/phonic/", listen_hosts=[], machine="")
    assert without_host == SameOrigin()


@given(st.text(), st.text())
def test_any_header_gets_a_decision_and_a_foreign_origin_is_refused(host: str, origin: str) -> None:
    for each in (SAME_ORIGIN, SameOrigin()):
        each.objection({"host": [host]})
        assert each.objection({"host": ["localhost"], "origin": [origin]})


# --- budget


@attrs.define
class World:
    """Push targets with known real ids; its clock is a number."""

    watched: set[str] = attrs.field(factory=set)
    real: set[str] = attrs.field(factory=set)
    finished: set[str] = attrs.field(factory=set)
    now: float = 1000.0

    def start(self, conversation_id: str, workspace: str | None) -> Started:  # noqa: ARG002
        if conversation_id in self.watched:
            return Started.ALREADY_WATCHED
        if conversation_id in self.finished:
            return Started.FINISHED
        self.watched.add(conversation_id)
        return Started.STARTED

    def stop(self, conversation_id: str) -> bool:
        known = conversation_id in self.watched
        self.watched.discard(conversation_id)
        return known

    def targets(self, *, requests_per_second: float = 4, watch_limit: int = 5000) -> BudgetedTargets:
        return BudgetedTargets(
            self,
            budget(requests_per_second=requests_per_second, watch_limit=watch_limit),
            is_watched=self.watched.__contains__,
            is_real=self.real.__contains__,
            now=lambda: self.now,
        )


def test_made_up_ids_cost_at_most_a_tenth_of_the_requests() -> None:
    world = World()
    targets = world.targets(requests_per_second=50)
    started = 0
    for second in range(600):
        world.now = 1000.0 + second
        for number in range(10):
            conversation_id = f"conv_{second}_{number}"
            started += targets.start(conversation_id) is Started.STARTED
            world.watched.discard(conversation_id)  # Phonic has rejected it
    burst = 100
    assert started <= burst + 600 * 50 * 0.1 / 3 + 1


def test_ids_that_phonic_confirms_do_not_use_up_the_budget() -> None:
    world = World()
    targets = world.targets()
    for number in range(1000):
        conversation_id = f"conv_{number}"
        assert targets.start(conversation_id) is Started.STARTED
        world.real.add(conversation_id)


def test_unconfirmed_ids_fill_at_most_a_tenth_of_the_watch_limit() -> None:
    world = World()
    targets = world.targets(watch_limit=300)
    outcomes = []
    for number in range(100):
        world.now += 1000
        outcomes.append(targets.start(f"conv_{number}"))
    assert outcomes == [Started.STARTED] * 30 + [Started.LIMIT_REACHED] * 70
    assert targets.stop("conv_0")
    assert targets.start("conv_x") is Started.STARTED


def test_repeated_and_finished_ids_cost_nothing() -> None:
    world = World(finished={"conv_over"})
    targets = world.targets()
    for _ in range(100):
        assert targets.start("conv_a") in (Started.STARTED, Started.ALREADY_WATCHED)
        assert targets.start("conv_over") is Started.FINISHED
    assert targets.start("conv_b") is Started.STARTED


def test_new_ids_beyond_the_budget_must_retry_later() -> None:
    world = World()
    targets = world.targets()
    outcomes = {targets.start(f"conv_{number}") for number in range(20)}
    assert outcomes == {Started.STARTED, Started.TOO_FAST}
    world.now += 60
    assert targets.start("conv_later") is Started.STARTED
