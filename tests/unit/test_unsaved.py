"""What a failed write held comes back as if it had never been taken."""

import hypothesis.strategies as st
from hypothesis import given

from exporter.state.history import Remembered
from exporter.state.unsaved import Unsaved


def remembered() -> Remembered:
    raise AssertionError  # only a write asks


step = st.tuples(st.sampled_from(("update", "finish", "forget", "failed write")), st.sampled_from("abc"))


@given(st.lists(step))
def test_changes_of_failed_writes_are_kept_as_if_there_had_been_no_write(steps: list[tuple[str, str]]) -> None:
    plain: Unsaved[int] = Unsaved()
    current: Unsaved[int] = Unsaved()
    taken: Unsaved[int] | None = None
    for at, (what, conversation_id) in enumerate(steps):
        if what == "failed write" and taken is None:
            taken, current = current, Unsaved()
        elif what == "failed write" and taken is not None:
            current.put_back(taken)
            taken = None
        for each in (plain, current):
            if what == "update":
                each.conversations[conversation_id] = at
            elif what == "finish":
                each.finish(conversation_id, float(at), remembered)
            elif what == "forget":
                each.forget(conversation_id)
    if taken is not None:
        current.put_back(taken)
    assert current.conversations == plain.conversations
    assert current.finished == plain.finished
    assert current.remembered == plain.remembered
    assert current.forgotten == plain.forgotten
    assert bool(current) == bool(plain)
