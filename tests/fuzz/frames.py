"""Fuzzes what a peer of the live feed sends: WebSocket frames, and the JSON in them.

``python -m tests.fuzz.frames 60`` searches for a minute without atheris, among almost valid inputs. For any bytes:
the fast path reads what the library would, however the bytes are cut; a frame is read or refused, without other
errors and in short steps; the resulting progress can be serialised.
"""

import json
import sys
from random import Random
from time import monotonic, thread_time
from typing import Any

from exporter.counting.derive import NOTHING, derive
from exporter.phonic.decode import InvalidMessage, Message
from exporter.phonic.live.incremental import IncrementalDecoder
from exporter.phonic.schema import Snapshot
from tests.feeds import snapshot
from tests.unit.test_fast_path import NOT_PLAIN, cut, frame
from tests.unit.test_fast_path import check as hear

LONGEST_STEP = 0.1
"""Seconds of CPU."""
ID = "conv_1"
_TOKENS = (
    *'{}[]:,"\\', "null", "true", "NaN", "1e999", "-1", "0", "9" * 40, '""', '"\\ud800"', "\ufeff", "\x00", " ",
    '"items":[', '"timings":{', '"id":"conv_1"', '"item_idx":', '"tool_call_ids":[',
    '"duration_ms":', '"role":"user"', "\n",
    '{"type":"conversation-updated","conversation":{', '{"type":"conversation-ended"}', "\U0001f600",
)  # fmt: skip


def check(data: bytes) -> None:
    """Try the bytes as frames, cut in two where the first byte says, and as a binary and a text message."""
    hear(cut(data, [data[0]] if data else []))
    decoder = IncrementalDecoder(ID)
    progress = _read(decoder, NOTHING, data)
    _read(decoder, progress, data.decode("utf-8", "replace"))


def run(seconds: float, seed: int | None = None) -> int:
    """Search for some seconds; return the number of inputs tried. Raises: the error of the first that fails."""
    begun, number = monotonic(), 0
    first = seed if seed is not None else Random().randrange(1 << 32)
    while monotonic() - begun < seconds:
        current = first + number
        try:
            one(Random(current))
        except Exception as error:
            error.add_note(f"seed {current}")
            raise
        number += 1
    return number


def one(rng: Random) -> None:
    """Try one input of each kind."""
    data = _frames(rng)
    hear(cut(data, [rng.randrange(1 << 20) for _ in range(rng.randrange(8))]))
    decoder = IncrementalDecoder(ID)
    progress = NOTHING
    for _ in range(rng.randrange(1, 4)):
        document = _mutated(rng, _document(rng))
        text = document if rng.randrange(8) else document.encode("utf-8", "surrogatepass")
        progress = _read(decoder, progress, text)


def _frames(rng: Random) -> bytes:
    made = []
    for _ in range(rng.randrange(6)):
        kind = rng.randrange(4)
        if kind == 0:
            made.append(rng.choice(NOT_PLAIN))
        elif kind == 1:
            made.append(rng.randbytes(rng.randrange(20)))
        else:
            payload = rng.choice((rng.randbytes(rng.randrange(130)), b"x" * rng.choice((0, 1, 125, 126, 65536))))
            made.append(frame(payload, rng.choice((0, 1, 1, 1, 2, 8, 9, 10)), final=bool(rng.randrange(4))))
    return b"".join(made)


def _document(rng: Random) -> str:
    kind = rng.randrange(3)
    if kind == 0:
        return snapshot(ID, rng.choice((0, 1, 5, 40)))
    if kind == 1:
        return "".join(rng.choice(_TOKENS) for _ in range(rng.randrange(40)))
    items = rng.choice(("{},", "0,", "[[],", '{"item_idx":1},', '{"timings":{"a":1}},')) * rng.choice((10, 11_000))
    return f'{{"type":"conversation-updated","conversation":{{"id":"{ID}","items":[{items}null]}}}}'


def _mutated(rng: Random, text: str) -> str:
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(text) + 1)
        end = min(len(text), at + rng.choice((0, 0, 1, 5, 100)))
        text = text[:at] + rng.choice(("", *_TOKENS)) + text[end:]
    return text


def _read(decoder: IncrementalDecoder, progress: Any, text: str | bytes) -> Any:
    start = thread_time()
    try:
        for found in decoder.read(text):
            took = thread_time() - start
            if took > LONGEST_STEP:
                raise AssertionError(f"a step of {took:.3f} s")
            piece = found.snapshot if isinstance(found, Message) else found
            if isinstance(piece, Snapshot):
                progress, _ = derive(progress, piece)
            start = thread_time()
    except InvalidMessage:
        pass
    json.dumps(sorted(progress.tools)).encode()  # the progress can be serialised
    return progress


if __name__ == "__main__":
    sys.stdout.write(f"{run(float(sys.argv[1]))} inputs held\n")
