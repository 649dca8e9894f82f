"""The pages for people: complete without a script, everything in them text, bounded in size and time."""

import re
from html.parser import HTMLParser
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.counting.turns import CallState, SeenCall, SeenTurn
from exporter.web.pages import MOST_LISTED, POLICY, Latency, LiveRow, Pages, Part, PastRow
from exporter.web.timeline import BLOCK, MOST_ROWS, timeline

PAGES = Pages(telemetry_path="/metrics", version="1.2.3", prefix="/p")
HOSTILE = "</style><script>alert('x')</script><img src=x onerror=alert(1)>\"'&{{ 7*7 }}{% raw %}"
seconds = st.none() | st.floats(0, 1e6)
turns = st.builds(
    SeenTurn,
    index=st.integers(0, 100_000),
    role=st.sampled_from(["assistant", "user", "other"]),
    offset=st.none() | st.floats(-1e3, 1e6),
    duration=seconds,
    response=seconds,
    model_input=seconds,
    model_generation=seconds,
    first_audio=seconds,
    end_of_turn=seconds,
    tool_calls=st.integers(0, 5),
)


def call(count: int, **changes: object) -> SeenCall:
    seen = tuple(
        SeenTurn(
            index=index,
            role="user" if index % 2 else "assistant",
            offset=3.0 * index,
            duration=2.0,
            response=None if index % 2 or not index else 0.5 + index % 7 / 4,
            first_audio=0.3,
            model_generation=0.2,
            end_of_turn=0.2,
        )
        for index in range(count)
    )
    values = {
        "conversation_id": "conv_1",
        "state": CallState.ENDED,
        "duration": 3.0 * count,
        "turns": seen,
        **changes,
    }
    return SeenCall(**values)  # type: ignore[arg-type]


class Tags(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def every_page(text: str) -> list[str]:
    row = LiveRow(
        conversation_id=text,
        project=text,
        agent=text,
        state=text,
        duration=1.0,
        turns=1,
        last_response=1.0,
        waiting=2.0,
    )
    past = PastRow(
        conversation_id=text,
        project=text,
        agent=text,
        ended_at=text,
        ended_by=text,
        duration=None,
        turns=0,
        slowest=None,
        is_failed=True,
    )
    part = Part(name=text, is_well=False, text=text)
    empty = Latency(name=text, count=0, p50=None, p95=None, p99=None, bars=())
    seen = call(3, conversation_id=text, project=text, agent=text, origin=text, ended_by=text, lost=text)
    return [
        PAGES.landing(
            parts=[part], live=[row], live_count=1, latencies=[empty], uptime=90_000.0, links=[(f"/{text}", text)]
        ),
        PAGES.conversations(live=[row], live_count=1, past=[past], remembered=1, remembers=True, query=text),
        PAGES.conversation(seen, objective=1.5),
        PAGES.missing(text, is_readable=True),
        PAGES.missing(text, is_readable=False),
    ]


@pytest.mark.parametrize("number", range(4))
def test_hostile_text_is_shown_and_never_markup(number: int) -> None:
    plain, hostile = every_page("word")[number], every_page(HOSTILE)[number]
    assert [tag for tag, _ in Tags(hostile).found] == [tag for tag, _ in Tags(plain).found]
    assert "49" not in hostile.replace("alert", "")
    assert all(not name.startswith("on") for _, attributes in Tags(hostile).found for name in attributes)


@pytest.mark.parametrize("number", range(4))
def test_page_has_no_script_and_loads_nothing(number: int) -> None:
    tags = Tags(every_page("word")[number]).found
    assert {tag for tag, _ in tags} & {"script", "link", "img", "iframe", "object"} == set()
    assert all("src" not in attributes and "style" not in attributes for _, attributes in tags)
    assert all((attributes.get("href") or "/p/").startswith(("/p/", "#", "?")) for _, attributes in tags)


def test_policy_allows_the_style_sheet_and_nothing_else() -> None:
    assert POLICY.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in POLICY


def test_only_a_page_with_something_live_refreshes_itself() -> None:
    live = PAGES.conversation(call(3, state=CallState.LIVE), objective=1.5)
    assert '<meta http-equiv="refresh"' in live
    assert '<meta http-equiv="refresh"' not in PAGES.conversation(call(3), objective=1.5)


def test_page_of_200_turns_is_written_in_less_than_50_ms() -> None:
    seen = call(200)
    PAGES.conversation(seen, objective=1.5)
    best = min(_time(seen) for _ in range(5))
    assert best < 0.05


def _time(seen: SeenCall) -> float:
    began = perf_counter()
    PAGES.conversation(seen, objective=1.5)
    return perf_counter() - began


def test_page_of_5000_turns_shows_a_part_and_leads_to_all_others() -> None:
    seen = call(5000)
    page = PAGES.conversation(seen, objective=1.5)
    assert len(page) < 400_000
    assert len(re.findall(r'<tr id="turn-', page)) == MOST_ROWS
    shown, first = set(), 0
    while True:
        page = PAGES.conversation(seen, objective=1.5, first=first)
        shown |= {int(each) for each in re.findall(r'<tr id="turn-(\d+)"', page)}
        following = re.search(r'rel="next" href="\?from=(\d+)"', page)
        if following is None:
            break
        first = int(following[1])
    assert shown == set(range(5000))


def test_the_slowest_turn_is_one_click_away_on_whichever_part_it_is() -> None:
    seen = call(500)
    slowest = seen.slowest
    assert slowest is not None
    page = PAGES.conversation(seen, objective=1.5, first=400)
    link = re.search(r'href="(\?from=(\d+))?#turn-(\d+)"', page)
    assert link is not None
    assert int(link[3]) == slowest.index
    target = PAGES.conversation(seen, objective=1.5, first=int(link[2] or 400))
    assert f'<tr id="turn-{slowest.index}"' in target


def test_lists_are_bounded() -> None:
    rows = [
        LiveRow(
            conversation_id=f"conv_{number}",
            project=None,
            agent=None,
            state="live",
            duration=None,
            turns=0,
            last_response=None,
            waiting=None,
        )
        for number in range(MOST_LISTED)
    ]
    page = PAGES.conversations(live=rows, live_count=5000, past=[], remembered=0, remembers=False, query="")
    assert len(page) < 200_000
    assert "Live (5000)" in page


@given(st.lists(turns, max_size=60), st.integers(-5, 100), st.floats(0.1, 60))
def test_drawing_has_a_row_for_each_turn_within_the_width(
    seen: list[SeenTurn], first: int, objective: float
) -> None:
    drawing = timeline(call(0, turns=tuple(seen)), objective=objective, first=first)
    assert len(drawing.rows) == max(0, min(MOST_ROWS, len(seen) - drawing.first))
    for block in drawing.blocks:
        assert len(block.rows) <= BLOCK
        assert [row.y for row in block.rows] == [number * 18 for number in range(len(block.rows))]
        for piece in (piece for row in block.rows for piece in row.pieces):
            assert -0.01 <= piece.x <= 100.01
            assert piece.width > 0
            assert piece.x + piece.width <= 100.2
        assert all(0 <= tick.x < 100.01 for tick in block.ticks)
        assert len(block.ticks) <= 8
