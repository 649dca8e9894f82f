"""Pure: the settings of the simulator, and the scenario and faults that they describe.

As in `exporter.settings`, help texts are field metadata, and one function checks the values.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import attrs
from cyclopts import Parameter

from ..errors import ConfigError, out_of_bounds, raise_all
from ..recording.file import Recording, UnreadableRecording, read
from .faults import PLANNED, TRANSPORT, Fault, parse_fault
from .scenario import Scenario

LISTEN_ADDRESS: Final = "127.0.0.1:10059"

# Wide enough for a test that plays a day in a minute, and narrow enough not to overload the machine.
_BOUNDS: Final[dict[str, tuple[float, float]]] = {
    "workspaces": (1, 100),
    "projects": (1, 100),
    "agents": (1, 10_000),
    "calls-per-minute": (0.01, 100_000),
    "turns": (1, 1000),
    "pace": (0.001, 10),
    "warm-up": (0, 86_400),
}


def _setting(default: Any, meaning: str) -> Any:
    """Declare a setting with its help text."""
    return attrs.field(default=default, metadata={"help": meaning})


@attrs.frozen(kw_only=True)
class SimulatorSettings:
    """Settings of the simulated Phonic."""

    listen_address: str = attrs.field(
        default="",
        metadata={
            "help": "Address to listen on, host:port; port 0 takes a free port.",
            "shown": f"{LISTEN_ADDRESS}, in a demo a free port of 127.0.0.1",
        },
    )
    api_key: str = _setting("ph_simulated_key", "API key to accept.")
    seed: int = _setting(1, "Random seed; the same settings and seed play the same conversations.")
    workspaces: int = _setting(
        1,
        "Number of workspaces, told apart by their keys: the second has the key of --simulator.api-key and -2, "
        "the third -3, and each other calls. A demo watches the first.",
    )
    projects: int = _setting(3, "Number of projects; the first is called main.")
    agents: int = _setting(6, "Number of agents, spread over the projects.")
    calls_per_minute: float = _setting(12.0, "Mean number of calls that begin per minute.")
    turns: int = _setting(14, "Median number of turns per call.")
    pace: float = _setting(
        1.0,
        "Factor on turns and pauses, not on reported timings: 1 is realistic, 0.02 makes calls of a few seconds.",
    )
    warm_up: float = _setting(
        300.0, "Seconds of calls before the start, so that some calls are live at the start."
    )
    total: int | None = _setting(None, "Number of calls after which no more begin. Without it: endless.")
    fault: tuple[str, ...] = _setting(
        (),
        "Fault to simulate: kind=value or kind=value@from:to in seconds after the start; repeatable. "
        f"Kinds: {', '.join((*PLANNED, *TRANSPORT))}.",
    )
    replay: Annotated[Path | None, Parameter(name="--replay")] = attrs.field(
        default=None, metadata={"help": "Play this recording (see `record`) instead of simulated calls."}
    )
    patient: bool = _setting(False, "Do not end a call before an observer has been sent its last snapshot.")
    refuse_ended: bool = _setting(
        False,
        "Answer a live socket to an ended call with an error and close code 1008, not with conversation-saved.",
    )


def scenario_of(settings: SimulatorSettings) -> tuple[Scenario, tuple[Fault, ...]]:
    """Return the scenario with its planned faults, and the transport faults.

    Raises: ConfigError, which names the wrong flag, or an ExceptionGroup with one for each.
    """
    wrong = list(_wrong(settings))
    faults = []
    for text in settings.fault:
        try:
            faults.append(parse_fault(text))
        except ValueError as bad:
            wrong.append(ConfigError("--simulator.fault", str(bad)))
    raise_all(wrong)
    scenario = Scenario(
        seed=settings.seed,
        projects=settings.projects,
        agents=settings.agents,
        calls_per_minute=settings.calls_per_minute,
        turns=settings.turns,
        pace=settings.pace,
        warm_up_s=settings.warm_up,
        total=settings.total,
        faults=tuple(fault for fault in faults if fault.kind in PLANNED),
    )
    return scenario, tuple(fault for fault in faults if fault.kind not in PLANNED)


def others_of(settings: SimulatorSettings, scenario: Scenario) -> dict[str, Scenario]:
    """Return the scenarios of all workspaces but the first, by their API keys. They differ by their seeds."""
    return {
        f"{settings.api_key}-{number}": attrs.evolve(scenario, seed=scenario.seed + 1000 * (number - 1))
        for number in range(2, settings.workspaces + 1)
    }


def recorded(file: Path) -> Recording:
    """Read the recording that ``--replay`` names. Blocks on the disk.

    Raises: ConfigError.
    """
    try:
        with file.open(encoding="utf-8") as lines:
            return read(lines)
    except UnreadableRecording as bad:
        raise ConfigError("--replay", f"{str(file)!r}: {bad}") from None
    except (OSError, UnicodeError) as bad:
        reason = bad.strerror if isinstance(bad, OSError) else "is not UTF-8"
        raise ConfigError("--replay", f"cannot read {str(file)!r}: {reason}") from None


def _wrong(settings: SimulatorSettings) -> Iterator[ConfigError]:
    values = {name: getattr(settings, name.replace("-", "_")) for name in _BOUNDS}
    yield from out_of_bounds(values, _BOUNDS, prefix="simulator.")
    if settings.total is not None and settings.total < 0:
        yield ConfigError("--simulator.total", "must not be negative")
    if not settings.api_key.isascii() or not settings.api_key.isprintable() or not settings.api_key.strip():
        yield ConfigError("--simulator.api-key", "must be printable ASCII and not empty")
    _, colon, port = (settings.listen_address or LISTEN_ADDRESS).rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65_535:
        yield ConfigError("--simulator.listen-address", f"must be host:port, such as {LISTEN_ADDRESS}")
