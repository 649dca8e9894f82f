"""The pages for people in a real Chromium: the numbers of ``/metrics``, by keyboard, on a phone, after a kill."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from playwright.sync_api import Browser, Locator, Page

from tests.e2e.browser import browsing, page_of
from tests.e2e.pages import Page as Scraped
from tests.e2e.pages import scrape_until
from tests.e2e.programs import ANY_PORT, KEY, STUCK_SECONDS, program
from tests.e2e.upstream import ENDED, EXAMPLE, PROJECT, live_object, record, updated, upstream

SHOTS = os.environ.get("PHONIC_PICTURES")
OVER = "conv_over"
HOSTILE = "<script>alert(1)</script>"


def told(page: Page, heading: str) -> str:
    """The value under a heading of the facts of a call."""
    return page.locator("dl.facts div", has=page.get_by_text(heading, exact=True)).locator("dd").inner_text()


def rows_of(page: Page) -> list[list[str]]:
    return [row.locator("td").all_inner_texts() for row in page.locator("tbody tr").all()]


def seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} s"


def follow(page: Page, link: Locator) -> None:
    """Click, and wait until the page behind it is complete."""
    with page.expect_navigation():
        link.click()


def overflow(page: Page) -> int:
    """How many pixels a page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


def exporter(url: str, state: Path, *more: str) -> list[str]:
    return [
        "--phonic.base-url", url, "--web.listen-address", ANY_PORT, "--state.file", str(state),
        "--watch.no-discover", "--watch.conversation", EXAMPLE, "--watch.conversation", OVER, *more,
    ]  # fmt: skip


async def counted(url: str, http: httpx.AsyncClient) -> Scraped:
    """A page once both calls are known: one live, one over."""
    with trio.fail_after(STUCK_SECONDS):
        return await scrape_until(
            http,
            url,
            lambda page: (
                page.total("phonic_conversations_ended_total") == 1
                and page.total("phonic_conversations_live") == 1
            ),
        )


async def test_on_call_finds_the_slow_turn_in_two_clicks_and_by_keyboard(tmp_path: Path) -> None:
    over = live_object(OVER)
    over["items"][2]["started_at"] = "2025-07-30T23:45:09.500Z"  # 4 s after the user's turn ended
    over["agent"]["name"] = HOSTILE
    async with upstream(projects=[{**PROJECT, "active_conversations": 2}]) as phonic:
        phonic.records[EXAMPLE] = record(ended_at=None, ended_by=None, analysis=None)
        phonic.records[OVER] = record(OVER, ended_at=None, ended_by=None, analysis=None)
        phonic.say(EXAMPLE, updated(live_object()))
        phonic.say(OVER, updated(over))
        async with program(*exporter(phonic.url, tmp_path / "x.db"), PHONIC_API_KEY=KEY) as first:
            url = await first.url()
            async with httpx.AsyncClient() as http:
                with trio.fail_after(STUCK_SECONDS):
                    await scrape_until(http, url, lambda page: page.total("phonic_conversations_live") == 2)
                phonic.records[OVER] = record(OVER, ended_by="user")
                phonic.say(OVER, ENDED)
                metrics = await counted(url, http)
                call = (await http.get(f"{url}/api/v1/conversations/{OVER}")).json()
                unknown = await http.get(f"{url}/api/v1/conversations/conv_x")
            first.signal(signal.SIGKILL)
            await first.wait()
        async with program(*exporter(phonic.url, tmp_path / "x.db"), PHONIC_API_KEY=KEY) as second:
            url = await second.url()
            async with httpx.AsyncClient() as http:
                await counted(url, http)
                again = (await http.get(f"{url}/api/v1/conversations/{OVER}")).json()
                found = await browsing(lambda browser: look(browser, url, again))
    assert (unknown.status_code, unknown.json()) == (404, {"error": "unknown or forgotten"})
    assert again == call
    slow = call["turns"][2]
    assert (slow["response_seconds"], slow["largest_stage"]) == (4.0, "end_of_turn")
    assert (call["ended_by"], call["agent"]) == ("user", HOSTILE)
    assert found["landing responses"] == metrics.total("phonic_turn_response_seconds_count")
    assert found["landing live"] == metrics.total("phonic_conversations_live")


def look(browser: Browser, url: str, call: dict[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    with page_of(browser) as page:
        page.goto(url)
        found["landing responses"] = float(
            page.locator("section", has_text="Response").first.locator("span").first.inner_text().split()[0]
        )
        found["landing live"] = float(
            page.get_by_role("heading", name="Live conversations").inner_text().split("(")[1][:-1]
        )
        health = {row[0]: row[1] for row in _health(page)}
        assert health == {
            "API key": "well", "Discovery": "well", "Live feeds": "well", "State file": "well", "Clock": "well",
        }  # fmt: skip
        # One click to the list, where the slowest of those that are over stands first, one more to its turns.
        follow(page, page.get_by_role("link", name="Conversations", exact=True))
        assert [row[0] for row in rows_of(page)] == [EXAMPLE, OVER]
        follow(page, page.get_by_role("link", name=OVER))
        check_call(page, call)
        page.get_by_role("link", name="in turn 2").click()
        assert "mostly end of turn" in page.locator("tr#turn-2.slow").inner_text()
    with page_of(browser) as page:  # the same by keyboard
        page.goto(f"{url}/conversations")
        page.keyboard.press("Tab")
        assert focused(page) == "Skip to content"
        while focused(page) != OVER:
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/conversations/{OVER}")
    with page_of(browser) as page:  # search
        page.goto(f"{url}/conversations")
        page.get_by_role("searchbox").fill("over")
        follow(page, page.get_by_role("button", name="Search"))
        assert [row[0] for row in rows_of(page)] == [OVER]
    backgrounds = set()
    for dark in (False, True):
        for path in (
            "/",
            "/conversations",
            f"/conversations/{OVER}",
            f"/conversations/{EXAMPLE}",
        ):
            with page_of(browser, width=400, dark=dark, scripts=True) as page:
                response = page.goto(url + path)
                assert response is not None
                assert overflow(page) <= 0, path
                backgrounds.add(str(page.evaluate("getComputedStyle(document.body).backgroundColor")))
    assert len(backgrounds) == 2
    return found


def check_call(page: Page, call: dict[str, Any]) -> None:
    """The page of a call says what its JSON says."""
    assert told(page, "Agent") == call["agent"] == HOSTILE
    assert told(page, "Ended by") == call["ended_by"]
    assert told(page, "Duration") == seconds(call["duration_seconds"])
    rows = rows_of(page)
    assert [int(row[0]) for row in rows] == [turn["index"] for turn in call["turns"]]
    for row, turn in zip(rows, call["turns"], strict=True):
        assert row[1] == turn["role"]
        assert row[2] == seconds(turn["offset_seconds"])
        assert row[3] == seconds(turn["duration_seconds"])
        assert row[4].removesuffix(" slow") == seconds(turn["response_seconds"])
        assert row[5:9] == [
            seconds(turn[f"{stage}_seconds"])
            for stage in ("end_of_turn", "model_input", "model_generation", "first_audio")
        ]
    assert page.locator("svg rect").count() > len(rows)
    assert page.locator("svg rect.over").count() == 1


def _health(page: Page) -> list[list[str]]:
    table = page.get_by_role("region", name="Health")
    return [
        [row.locator("th").inner_text(), *row.locator("td").all_inner_texts()] for row in table.locator("tr").all()
    ]


def focused(page: Page) -> str:
    return page.locator(":focus").inner_text() if page.locator(":focus").count() else ""


def shoot(page: Page, name: str, *, full: bool = True) -> None:
    if SHOTS is not None:
        page.screenshot(path=Path(SHOTS) / f"page-{name}.png", full_page=full)


async def test_pages_of_a_simulated_workspace_show_calls_that_are_live_and_over(tmp_path: Path) -> None:
    """Also draws the pictures of the documentation, into the folder that PHONIC_PICTURES names."""
    flags = (
        "--web.listen-address",
        ANY_PORT,
        "--state.file",
        str(tmp_path / "x.db"),
        "--simulator.warm-up",
        "120",
    )
    async with program(
        "demo", *flags, "--simulator.pace", "0.5", "--metrics.slo-response", "0.5", "--simulator.seed", "7"
    ) as running:
        url = await running.url()
        async with httpx.AsyncClient() as http:
            with trio.fail_after(STUCK_SECONDS):
                await scrape_until(http, url, lambda page: page.total("phonic_conversations_ended_total") >= 5)
        names = await browsing(lambda browser: walk(browser, url))
    assert len(names) > 5


def walk(browser: Browser, url: str) -> list[str]:
    """Open every page once; returns the conversations that are listed."""
    with page_of(browser) as page:
        page.goto(url)
        assert page.locator("section svg").count() == 3
        shoot(page, "landing")
        page.goto(f"{url}/conversations")
        links = page.locator("tbody a").all_inner_texts()
        over = page.get_by_role("region", name="Conversations that are over")
        follow(page, over.locator("tbody tr:not(.slow) a").first)  # the slowest behind the failed ones
        assert page.locator("tr.slow").count() > 0
        shoot(page, "conversation")
        slowest = page.url
    with page_of(browser, width=400, dark=True) as page:
        page.goto(slowest)
        shoot(page, "phone", full=False)
    return links


async def test_pages_are_behind_the_authentication_of_the_web_config(tmp_path: Path) -> None:
    config = tmp_path / "web.yml"
    # bcrypt of "secret", cost 4
    config.write_text("basic_auth_users:\n  ops: $2b$04$S2w2cqN3CSYpBv0W8fxYd.QyBFBnGPQmXjZKYJ5pB9wVnPn2b8OtC\n")
    async with upstream() as phonic:
        flags = exporter(phonic.url, tmp_path / "x.db", "--web.config.file", str(config))
        async with program(*flags, PHONIC_API_KEY=KEY) as running, httpx.AsyncClient() as http:
            url = await running.url()
            for path in ("/", "/conversations", f"/conversations/{OVER}", f"/api/v1/conversations/{OVER}"):
                assert (await http.get(url + path)).status_code == 401, path


@pytest.mark.parametrize("identity", ["../../etc/passwd", "conv_" + "x" * 200, "%00", "conv_'"])
async def test_ids_that_none_can_be_are_unknown_and_ask_nothing(identity: str, tmp_path: Path) -> None:
    async with (
        upstream() as phonic,
        httpx.AsyncClient() as http,
        program(*exporter(phonic.url, tmp_path / "x.db"), PHONIC_API_KEY=KEY) as running,
    ):
        url = await running.url()
        for path in ("/conversations/", "/api/v1/conversations/"):
            response = await http.get(url + path + identity)
            assert response.status_code == 404
            assert "Traceback" not in response.text


async def test_call_is_forgotten_where_history_is_off(tmp_path: Path) -> None:
    async with upstream(projects=[{**PROJECT, "active_conversations": 1}]) as phonic:
        phonic.records[OVER] = record(OVER, ended_at=None, ended_by=None, analysis=None)
        phonic.say(OVER, updated(live_object(OVER)))
        flags = exporter(phonic.url, tmp_path / "x.db", "--history.conversations", "0")
        async with program(*flags, PHONIC_API_KEY=KEY) as running, httpx.AsyncClient() as http:
            url = await running.url()
            with trio.fail_after(STUCK_SECONDS):
                await scrape_until(http, url, lambda page: page.total("phonic_conversations_live") == 1)
                live = (await http.get(f"{url}/api/v1/conversations/{OVER}")).json()
                phonic.records[OVER] = record(OVER, ended_by="user")
                phonic.say(OVER, ENDED)
                await scrape_until(http, url, lambda page: page.total("phonic_conversations_ended_total") == 1)
                while (response := await http.get(f"{url}/api/v1/conversations/{OVER}")).status_code != 404:  # noqa: ASYNC110
                    await trio.sleep(0.1)
    assert live["state"] == "live"
    assert json.loads(response.text) == {"error": "unknown or forgotten"}
