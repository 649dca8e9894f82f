"""Pure: what can be set about the simulator, and what it becomes.

The classes of `exporter.settings` are the model: help texts are field metadata, values arrive unchecked, and one
function judges them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import attrs
from cyclopts import Parameter

from ..errors import ConfigError
from ..recording.file import Recording, UnreadableRecording, read
from .faults import PLANNED, TRANSPORT, Fault, parse_fault
from .scenario import Scenario

LISTEN_ADDRESS: Final = "127.0.0.1:10059"

# The ends are wide enough for a test that plays a day in a minute, and narrow enough to keep the machine alive.
_BOUNDS: Final[dict[str, tuple[float, float]]] = {
    "projects": (1, 100),
    "agents": (1, 10_000),
    "calls-per-minute": (0.01, 100_000),
    "turns": (1, 1000),
    "pace": (0.001, 10),
    "warm-up": (0, 86_400),
}


def _setting(default: Any, meaning: str) -> Any:
    """An attrs field with the text for --help."""
    return attrs.field(default=default, metadata={"help": meaning})


@attrs.frozen(kw_only=True)
class SimulatorSettings:
    """What the simulated Phonic plays, and where."""

    listen_address: str = attrs.field(
        default="",
        metadata={
            "help": "Address to serve on, host:port; port 0 takes a free one.",
            "shown": f"{LISTEN_ADDRESS}, in a demo any free port of 127.0.0.1",
        },
    )
    api_key: str = _setting("ph_simulated_key", "API key to accept.")
    seed: int = _setting(1, "Seed: the same settings play the same conversations.")
    projects: int = _setting(3, "Number of projects; the first is called main.")
    agents: int = _setting(6, "Number of agents, spread over the projects.")
    calls_per_minute: float = _setting(12.0, "Mean number of calls that begin in a minute.")
    turns: int = _setting(14, "Median number of turns of a call.")
    pace: float = _setting(
        1.0, "Factor on turns and pauses, not on reported timings: 1 is life-like, 0.02 makes calls of seconds."
    )
    warm_up: float = _setting(300.0, "Seconds of calls before the start, so that some are under way.")
    total: int | None = _setting(None, "Number of calls after which no more begin. None: endless.")
    fault: tuple[str, ...] = _setting(
        (),
        "What goes wrong: kind=value or kind=value@from:to in seconds after the start; repeatable. "
        f"Kinds: {', '.join((*PLANNED, *TRANSPORT))}.",
    )
    replay: Annotated[Path | None, Parameter(name="--replay")] = attrs.field(
        default=None, metadata={"help": "Play this recording (see `record`) in place of simulated calls."}
    )
    patient: bool = _setting(False, "End no call before an observer has been sent its last snapshot.")
    refuse_ended: bool = _setting(
        False,
        "Answer a live socket to an ended call with an error and close code 1008, not with conversation-saved.",
    )


def staged(settings: SimulatorSettings) -> tuple[Scenario, tuple[Fault, ...]]:
    """The scenario, planned faults included, and the transport faults.

    Raises ConfigError naming the wrong flag, or a group with one for each.
    """
    wrong = list(_wrong(settings))
    faults = []
    for text in settings.fault:
        try:
            faults.append(parse_fault(text))
        except ValueError as bad:
            wrong.append(ConfigError("--simulator.fault", str(bad)))
    if len(wrong) == 1:
        raise wrong[0]
    if wrong:
        raise ExceptionGroup("settings", wrong)
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


def recorded(file: Path) -> Recording:
    """Read the recording that ``--replay`` names. Raises ConfigError."""
    try:
        with file.open(encoding="utf-8") as lines:
            return read(lines)
    except UnreadableRecording as bad:
        raise ConfigError("--replay", f"{str(file)!r}: {bad}") from None
    except (OSError, UnicodeError) as bad:
        reason = bad.strerror if isinstance(bad, OSError) else "is not UTF-8"
        raise ConfigError("--replay", f"cannot read {str(file)!r}: {reason}") from None


def _wrong(settings: SimulatorSettings) -> Iterator[ConfigError]:
    for name, (low, high) in _BOUNDS.items():
        if not low <= getattr(settings, name.replace("-", "_")) <= high:  # also refuses NaN
            yield ConfigError(f"--simulator.{name}", f"must be from {low:g} to {high:.12g}")
    if settings.total is not None and settings.total < 0:
        yield ConfigError("--simulator.total", "must not be negative")
    if not settings.api_key.isascii() or not settings.api_key.isprintable() or not settings.api_key.strip():
        yield ConfigError("--simulator.api-key", "must be printable ASCII and not empty")
    _, colon, port = (settings.listen_address or LISTEN_ADDRESS).rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65_535:
        yield ConfigError("--simulator.listen-address", f"must be host:port, such as {LISTEN_ADDRESS}")
