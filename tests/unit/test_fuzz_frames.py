"""A second of the fuzzing that `tests.fuzz.frames` can do for hours, always of the same inputs."""

import gc

from tests.fuzz.frames import run


def test_frames_and_their_json_hold_for_a_second() -> None:
    gc.collect()
    gc.freeze()  # as the running exporter does: what the other tests have made is no part of a step
    try:
        assert run(1.0, seed=0) > 10
    finally:
        gc.unfreeze()
