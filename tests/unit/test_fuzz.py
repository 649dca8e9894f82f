"""Short runs of each fuzz target: its corpus, and bytes that hypothesis derives from it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import NAMES, corpus, target

pytestmark = pytest.mark.usefixtures("quiet_logs")


@pytest.mark.parametrize(("name", "data"), [(name, data) for name in NAMES for data in corpus(name)])
def test_input_of_the_corpus_breaks_nothing(name: str, data: bytes) -> None:
    target(name)(data)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_no_bytes_break_anything(name: str, data: st.DataObject) -> None:
    known = st.sampled_from(corpus(name))
    piece = st.binary(max_size=40) | known | known.flatmap(lambda whole: st.sampled_from(whole.split() or [b""]))
    mutated = st.builds(_with, known, st.integers(0, 400), st.integers(0, 8), piece)
    target(name)(data.draw(mutated | st.binary(max_size=200) | st.lists(piece, max_size=6).map(b"".join)))


def _with(whole: bytes, at: int, removed: int, piece: bytes) -> bytes:
    """Return ``whole`` with some of its bytes replaced by ``piece``."""
    return whole[:at] + piece + whole[at + removed :]
