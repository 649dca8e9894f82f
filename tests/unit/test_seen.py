"""The turns that people see say what counting has of them."""

from hypothesis import given
from hypothesis import strategies as st

from exporter.counting.derive import Progress, Turn, _largest_part
from exporter.counting.seen import last_response, seen_turns

milliseconds = st.none() | st.integers(0, 600_000).map(float)
turns = st.tuples(
    st.integers(0, 2**18 - 1).filter(lambda flags: flags & 3 != 3),
    milliseconds,
    milliseconds,
    milliseconds,
    milliseconds,
    st.none() | st.integers(0, 2**51),
    milliseconds,
    st.integers(0, 9),
    st.integers(0, 9),
)


@given(turns)
def test_page_names_the_stage_that_the_counter_of_slow_turns_names(turn: Turn) -> None:
    (seen,) = seen_turns(Progress(turns={0: turn}))
    assert seen.largest_stage == (None if turn[6] is None else _largest_part(turn))


@given(st.dictionaries(st.integers(0, 100), turns))
def test_turns_are_in_the_order_of_their_indexes_and_the_last_response_is_the_newest(
    found: dict[int, Turn],
) -> None:
    progress = Progress(turns=found)
    seen = seen_turns(progress)
    assert [each.index for each in seen] == sorted(found)
    responses = [each.response for each in seen if each.response is not None]
    assert last_response(progress) == (responses[-1] if responses else None)
