"""One second of the fuzzing of `tests.fuzz.frames`, with fixed inputs."""

import pytest

from tests.fuzz.frames import run


@pytest.mark.usefixtures("calm_collector")
def test_fuzzing_frames_for_a_second_finds_nothing() -> None:
    assert run(1.0, seed=0) > 10
