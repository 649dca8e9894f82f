"""A second of the fuzzing that `tests.fuzz.frames` can do for hours, always of the same inputs."""

import pytest

from tests.fuzz.frames import run


@pytest.mark.usefixtures("calm_collector")
def test_frames_and_their_json_hold_for_a_second() -> None:
    assert run(1.0, seed=0) > 10
