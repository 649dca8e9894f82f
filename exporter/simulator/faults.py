"""Pure: the faults of the simulated Phonic: their notation, and what they do to a frame.

There are two kinds. *Planned* faults change what happens in conversations (slow answers, error endings). They are
part of the plan, so that a test's oracle knows them. *Transport* faults change only how conversations are
transmitted: an observer that reads to the end learns the same values with and without them.
"""

import random
import re
from collections.abc import Iterable, Iterator
from typing import Final

import attrs

PLANNED: Final = {
    "slow-model": "factor on the model time of turns",
    "slow-input": "factor on the time before the model's input",
    "slow-end-of-turn": "factor on the time until the end of the user's turn is recognised",
    "slow-tools": "share of answers with tool calls that come 2 to 4 s later",
    "latency-spike": "share of turns whose model takes 2 to 6 s longer",
    "no-answer": "share of answers that never come: the caller hangs up after 6 to 20 s",
    "barge-in": "share of assistant turns that the caller interrupts, at least",
    "tool-failures": "share of the calls of the tool create_ticket that fail, at least",
    "error-wave": "share of conversations that end in an error",
}
FACTORS: Final = ("slow-model", "slow-input", "slow-end-of-turn")
TRANSPORT: Final = {
    "drop": "share of updates after which the socket is dropped: reset, 1001, 1011 or 1012",
    "duplicate": "share of updates sent twice",
    "stale": "share of updates followed by the previous one",
    "gap": "share of updates left out; never the first or the last of a connection",
    "garbage": "share of updates preceded by garbage: invalid JSON, a wrong shape, impossible timings",
    "silence": "share of sockets that send nothing",
    "storm": "share of sockets dropped when the window opens",
    "outage": "share of requests and handshakes answered with 503; open sockets are dropped",
    "slow-open": "share of handshakes answered a second late",
    "unlisted-agents": "share of agents missing from the list of agents",
    "reject-401": "share of handshakes refused with this status",
    "reject-403": "share of handshakes refused with this status",
    "reject-404": "share of handshakes refused with this status",
    "reject-429": "share of handshakes refused with this status",
    "reject-500": "share of handshakes refused with this status",
    "reject-503": "share of handshakes refused with this status",
    "rest-500": "share of requests answered with 500",
    "rest-429": "share of requests answered with 429 and Retry-After",
    "rest-timeout": "share of requests never answered",
    "rest-html": "share of requests answered with a page of HTML",
    "rest-truncated": "share of requests whose body is cut in half",
}
REST_FAULTS: Final = tuple(kind for kind in TRANSPORT if kind.startswith("rest-"))
REJECTIONS: Final = tuple(kind for kind in TRANSPORT if kind.startswith("reject-"))

_NEVER: Final = float("inf")
_NOTATION = re.compile(r"(?P<kind>[a-z0-9-]+)=(?P<value>[0-9.]+)(?:@(?P<since>[0-9.]*):(?P<until>[0-9.]*))?")
_TIMING = re.compile(
    rb'("(?:phonic_api_output_to_modal_input|model_generation_time|phonic_api_output_to_first_audio_chunk)":)\d+'
)
_IMPOSSIBLE: Final = (b"-1", b'"450"', b"true", b"1e999", b"NaN", b"null", b"[450]", b"900000000")
_NOISE: Final = (
    b"not json",
    b"",
    b'{"type":"conversation-updated"',
    b'"conversation-updated"',
    b"[1,2,3]",
    b"null",
    b'{"type":42}',
    b'{"type":"conversation-updated","conversation":7}',
    b'{"type":"conversation-mood","mood":"fine"}',
)


@attrs.frozen(kw_only=True)
class Fault:
    """A fault: ``value`` is a share from 0 to 1, or a factor. Active in a window of plan time."""

    kind: str
    value: float
    since_ms: float = -_NEVER
    until_ms: float = _NEVER

    def active(self, at_ms: float) -> bool:
        """Whether the window includes a plan time in ms."""
        return self.since_ms <= at_ms < self.until_ms


def parse_fault(text: str) -> Fault:
    """Parse ``kind=value`` or ``kind=value@from:to`` (seconds after the start; either may be left out).

    Raises: ValueError with a reason for the user.
    """
    match = _NOTATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"expected kind=value or kind=value@from:to, got {text!r}")
    kind = match["kind"]
    if kind not in PLANNED and kind not in TRANSPORT:
        raise ValueError(f"unknown fault {kind!r}; known are {', '.join((*PLANNED, *TRANSPORT))}")
    try:
        value = float(match["value"])
        since_ms = float(match["since"]) * 1000 if match["since"] else -_NEVER
        until_ms = float(match["until"]) * 1000 if match["until"] else _NEVER
    except ValueError:
        raise ValueError(f"not a number in {text!r}") from None
    if kind in FACTORS:
        if not 0 < value <= 100:
            raise ValueError(f"{kind} is a factor above 0, at most 100")
    elif value > 1:
        raise ValueError(f"{kind} is a share from 0 to 1")
    if kind == "storm" and since_ms < 0:
        raise ValueError("storm needs the second at which it starts: storm=1@30:")
    if since_ms >= until_ms:
        raise ValueError(f"the window of {text!r} is empty")
    return Fault(kind=kind, value=value, since_ms=since_ms, until_ms=until_ms)


def strength(faults: Iterable[Fault], kind: str, at_ms: float) -> float:
    """Return the largest value of the active faults of this kind, or 0."""
    return max((fault.value for fault in faults if fault.kind == kind and fault.active(at_ms)), default=0.0)


def next_edge_ms(faults: Iterable[Fault], after_ms: float) -> float:
    """Return the plan time at which the next window opens or closes, or infinity."""
    edges = (edge for fault in faults for edge in (fault.since_ms, fault.until_ms) if edge > after_ms)
    return min(edges, default=_NEVER)


def chosen(faults: Iterable[Fault], kinds: Iterable[str], at_ms: float, rng: random.Random) -> str | None:
    """Return the first of ``kinds`` that occurs, or None.

    Draws one random number per kind, so that the rate of one kind does not change when another occurs.
    """
    draws = [(kind, rng.random()) for kind in kinds]
    active = tuple(faults)
    return next((kind for kind, draw in draws if draw < strength(active, kind, at_ms)), None)


def disturbed(
    frame: bytes, previous: bytes | None, faults: Iterable[Fault], at_ms: float, rng: random.Random, *, last: bool
) -> Iterator[tuple[str, bytes]]:
    """Yield what is sent for one update, as pairs of kind and frame.

    Args:
        frame: the update.
        previous: the previous update of this connection; None for the first one.
        faults: transport faults.
        at_ms: plan time.
        rng: random numbers of this connection.
        last: whether no newer update follows; then neither a gap nor a stale frame may hide this one.
    """
    active = tuple(faults)
    gap, garbage, duplicate, stale = (
        rng.random() < strength(active, kind, at_ms) for kind in ("gap", "garbage", "duplicate", "stale")
    )
    if garbage:
        yield "garbage", _garbage(frame, rng)
    if gap and not last and previous is not None:
        return
    yield "conversation-updated", frame
    if duplicate:
        yield "duplicate", frame
    if stale and not last and previous is not None:
        yield "stale", previous


def _garbage(frame: bytes, rng: random.Random) -> bytes:
    """Return invalid text, or the frame with one impossible timing."""
    places = list(_TIMING.finditer(frame))
    if not places or rng.random() < 0.5:
        return rng.choice(_NOISE)
    place = rng.choice(places)
    return frame[: place.start()] + place[1] + rng.choice(_IMPOSSIBLE) + frame[place.end() :]
