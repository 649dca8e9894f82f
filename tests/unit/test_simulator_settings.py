"""The simulator's settings: each has an effect, and wrong ones are named."""

from typing import Any

import attrs
import pytest

from exporter.errors import ConfigError
from exporter.simulator.faults import PLANNED, TRANSPORT, Fault, parse_fault
from exporter.simulator.plan import plan, workspace
from exporter.simulator.scenario import Scenario
from exporter.simulator.settings import SimulatorSettings, scenario_of


def test_defaults_are_those_of_a_scenario() -> None:
    assert scenario_of(SimulatorSettings()) == (Scenario(), ())


@pytest.mark.parametrize(
    ("change", "measure"),
    [
        ({"seed": 2}, lambda some: some[0].id),
        ({"agents": 1}, lambda some: len({each.agent.id for each in some if each.agent})),
        ({"projects": 1}, lambda some: len({each.project.id for each in some})),
        ({"calls_per_minute": 60.0}, lambda some: some[-1].created_ms),
        ({"turns": 3}, lambda some: sum(len(each.turns) for each in some)),
        ({"pace": 0.1}, lambda some: sum(each.duration_ms for each in some)),
        ({"warm_up": 0.0}, lambda some: some[0].created_ms),
        ({"total": 7}, len),
        ({"fault": ("error-wave=1",)}, lambda some: sum(each.ended_by == "error" for each in some)),
    ],
)
def test_each_setting_of_the_plan_changes_it(change: dict[str, Any], measure: Any) -> None:
    usual = SimulatorSettings(total=40)
    changed = attrs.evolve(usual, **change)
    assert measure(list(plan(scenario_of(usual)[0]))) != measure(list(plan(scenario_of(changed)[0])))


def test_faults_are_split_into_planned_and_transport() -> None:
    scenario, faults = scenario_of(SimulatorSettings(fault=("drop=0.01", "slow-model=3@60:120", "outage=1@5:")))
    assert scenario.faults == (Fault(kind="slow-model", value=3.0, since_ms=60_000, until_ms=120_000),)
    assert faults == (
        Fault(kind="drop", value=0.01),
        Fault(kind="outage", value=1.0, since_ms=5000),
    )


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"agents": 0}, "--simulator.agents"),
        ({"projects": 0}, "--simulator.projects"),
        ({"calls_per_minute": 0.0}, "--simulator.calls-per-minute"),
        ({"calls_per_minute": float("nan")}, "--simulator.calls-per-minute"),
        ({"turns": 0}, "--simulator.turns"),
        ({"pace": 0.0}, "--simulator.pace"),
        ({"warm_up": -1.0}, "--simulator.warm-up"),
        ({"total": -1}, "--simulator.total"),
        ({"api_key": ""}, "--simulator.api-key"),
        ({"api_key": "line\nbreak"}, "--simulator.api-key"),
        ({"listen_address": "10059"}, "--simulator.listen-address"),
        ({"listen_address": "127.0.0.1:99999"}, "--simulator.listen-address"),
        ({"fault": ("drop",)}, "--simulator.fault"),
        ({"fault": ("rain=1",)}, "--simulator.fault"),
        ({"fault": ("drop=1.5",)}, "--simulator.fault"),
        ({"fault": ("drop=1..5",)}, "--simulator.fault"),
        ({"fault": ("drop=1@9:3",)}, "--simulator.fault"),
        ({"fault": ("slow-model=0",)}, "--simulator.fault"),
        ({"fault": ("storm=1",)}, "--simulator.fault"),
    ],
)
def test_a_wrong_setting_is_named(change: dict[str, Any], flag: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        scenario_of(SimulatorSettings(**change))
    assert wrong.value.flag == flag
    assert "\n" not in str(wrong.value)


@pytest.mark.parametrize("kind", [*PLANNED, *TRANSPORT])
def test_every_fault_can_be_parsed(kind: str) -> None:
    assert parse_fault(f"{kind}=1@10:20") == Fault(kind=kind, value=1, since_ms=10_000, until_ms=20_000)


def test_the_first_project_is_main_and_every_agent_has_one() -> None:
    company = workspace(Scenario(projects=9, agents=12))
    assert company.projects[0].name == "main"
    assert len({project.name for project in company.projects}) == 9
    assert {agent.project.id for agent in company.agents} <= {project.id for project in company.projects}
