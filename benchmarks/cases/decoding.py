"""Tasks: cost of decoding a message in memory, and how it grows with the number of earlier turns."""

import json
import statistics
from collections import Counter
from collections.abc import Callable
from time import perf_counter

from exporter.counting import derive
from exporter.counting.increments import Increment
from exporter.phonic.decode import Message, decode
from exporter.phonic.live.incremental import IncrementalDecoder
from exporter.phonic.schema import Snapshot

from ..calls import PLACEHOLDER, snapshots
from ..options import Options
from ..report import Goal, Plot, Report, Table, number, ratio, spread
from .updates import Unequal

JSON, FULL, TAIL, FULL_DERIVE, TAIL_DERIVE = (
    "json.loads",
    "full decode",
    "tail decode",
    "full + derive",
    "tail + derive",
)
_TURNS = (5, 20, 50, 200, 500)


class _Deriving:
    """Decodes and derives the snapshots of one call, and keeps the increments."""

    def __init__(self, read: Callable[[str], Snapshot | None]) -> None:
        self._read = read
        self._progress = derive.NOTHING
        self.increments: list[Increment] = []

    def __call__(self, message: str) -> None:
        snapshot = self._read(message)
        if snapshot is not None:
            self._progress, increments = derive.derive(self._progress, snapshot)
            self.increments += increments


def _fully(message: str) -> Snapshot | None:
    return decode(message).snapshot


def _tail() -> IncrementalDecoder:
    return IncrementalDecoder(PLACEHOLDER.decode())


def _tail_messages() -> Callable[[str], Message]:
    decoder = _tail()

    def only(message: str) -> Message:
        [found] = decoder.read(message)
        if not isinstance(found, Message):
            raise Unequal("not a message read at once")
        return found

    return only


def _tail_snapshots() -> Callable[[str], Snapshot | None]:
    read = _tail_messages()
    return lambda message: read(message).snapshot


_METHODS: dict[str, Callable[[], Callable[[str], object]]] = {
    JSON: lambda: json.loads,
    FULL: lambda: decode,
    TAIL: _tail_messages,
    FULL_DERIVE: lambda: _Deriving(_fully),
    TAIL_DERIVE: lambda: _Deriving(_tail_snapshots()),
}


def _play(method: Callable[[str], object], messages: list[bytes]) -> list[float]:
    """Return the seconds of each message of a call.

    Each message is a new string, because decoders cache data in the strings that they read.
    """
    seconds = []
    for message in messages:
        text = message.decode()
        start = perf_counter()
        method(text)
        seconds.append(perf_counter() - start)
    return seconds


def check(messages: list[bytes]) -> None:
    """Check that full and incremental decoding count the same. Raises: Unequal."""
    full, tail = _Deriving(_fully), _Deriving(_tail_snapshots())
    for message in messages:
        full(message.decode())
        tail(message.decode())
    if not full.increments or Counter(full.increments) != Counter(tail.increments):
        raise Unequal("full and tail decoding add different things")


def growth(options: Options) -> Report:
    rounds = options.rounds_or(7)
    rows, data = [], {}
    lines: dict[str, list[tuple[float, float]]] = {}
    means: dict[tuple[str, int], list[float]] = {}
    for kind, non_ascii in (("ASCII", False), ("not ASCII", True)):
        for turns in _TURNS[:3] if options.quick else _TURNS:
            messages = snapshots(turns, non_ascii=non_ascii)
            check(messages)
            played: dict[str, list[list[float]]] = {name: [] for name in _METHODS}
            for _ in range(rounds):
                for name, begin in _METHODS.items():
                    played[name].append(_play(begin(), messages))
            each = {name: [statistics.fmean(one) * 1e6 for one in seconds] for name, seconds in played.items()}
            size = sum(map(len, messages)) / turns
            speed = str(ratio(each[JSON], each[TAIL]))
            rows.append(
                (f"{turns} turns, {kind}", number(size / 1000), *(str(spread(each[n])) for n in _METHODS), speed)
            )
            data[f"{kind} {turns}"] = each
            if not non_ascii:
                means |= {(name, turns): values for name, values in each.items()}
                for name in _METHODS:
                    last = [statistics.median(one[-5:]) * 1e6 for one in played[name]]
                    lines.setdefault(name, []).append((turns, statistics.median(last)))
    goals = []
    if (TAIL, 200) in means:
        grown = ratio(means[TAIL, 200], means[TAIL, 50]).median
        goals.append(Goal(what="Tail decoding: 200-turn call to 50-turn call", measured=grown, at_most=2.0))
    return Report(
        name="decoding",
        title="Decoding: growth with settled turns",
        method=f"Whole calls, a snapshot after each turn, in one process; mean microseconds for a message, median "
        f"(lowest to highest) of {rounds} interleaved rounds. `full` reads every turn, `tail` skips those whose "
        "bytes were decoded before; both add the same.",
        tables=[
            Table(title="µs a message", columns=("call", "mean KB", *_METHODS, "json.loads to tail"), rows=rows)
        ],
        plots=[
            Plot(
                title="Cost of the last message of a call",
                x_label="turns",
                y_label="µs",
                lines=lines,
                is_log=True,
            )
        ],
        goals=goals,
        data=data,
    )
