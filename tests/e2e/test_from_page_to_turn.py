"""From the page to the slow turn: a real Prometheus and Alertmanager notify, two clicks in a real browser follow.

The agent of a simulated workspace answers slowly, because the end of the caller's turn is noticed late. The alert
about that carries a link. The call that it leads to is over by then, and the exporter was killed meanwhile.
"""

import contextlib
import signal
from pathlib import Path

import attrs
import httpx
import pytest
import trio
import yaml
from playwright.sync_api import Browser

from dashboards import files
from tests.e2e import scenario
from tests.e2e.between import Inbox, inbox
from tests.e2e.browser import browsing, page_of
from tests.e2e.pages import scrape_until
from tests.e2e.programs import ANY_PORT, STUCK_SECONDS, program
from tests.e2e.prometheus import alertmanager, prometheus
from tests.e2e.test_pages_in_browser import follow

pytestmark = pytest.mark.e2e

KEY = "ph_scenario"
ALERT = "PhonicResponseBudgetBurnFast"
CALLS = (
    "--simulator.agents=1",
    "--simulator.projects=1",
    "--simulator.calls-per-minute=90",
    "--simulator.turns=4",
)


async def test_alert_leads_to_the_slow_turn_and_its_cause_in_two_clicks_also_after_a_kill(tmp_path: Path) -> None:
    pace = attrs.evolve(scenario.QUICK, faults={"slow": ("slow-end-of-turn=8",)})
    async with contextlib.AsyncExitStack() as running:
        http = await running.enter_async_context(httpx.AsyncClient(timeout=STUCK_SECONDS))
        simulator = await running.enter_async_context(
            program(
                "simulate",
                f"--simulator.listen-address={ANY_PORT}",
                f"--simulator.api-key={KEY}",
                "--simulator.fault=slow-end-of-turn=8",
                *CALLS,
            )
        )
        line = await simulator.line("event=simulating")
        phone = line.partition("base_url=")[2].split()[0]
        first = await running.enter_async_context(scenario.exporter(tmp_path, "slow", phone))
        url = await first.url()
        objectives = attrs.evolve(pace.objectives(), job="slow")
        objectives = attrs.evolve(objectives, links=attrs.evolve(objectives.links, exporter=url))
        rendered = files.render(objectives)
        notified = await running.enter_async_context(inbox())
        routing = scenario.notifying(rendered["alertmanager/alertmanager.yml"], notified.url)
        alerts_at = await running.enter_async_context(alertmanager(tmp_path, routing, http))
        config = scenario.configured(pace, tmp_path, rendered, alerts_at, {"slow": url})
        await running.enter_async_context(prometheus(tmp_path, "", http, config=config))
        with trio.fail_after(240):
            link = await link_of(notified)
            await scrape_until(http, url, lambda page: page.total("phonic_conversations_ended_total") > 3)
        first.signal(signal.SIGKILL)
        await first.wait()
        # At the same address, as a supervisor would start it again.
        second = await running.enter_async_context(
            scenario.exporter(tmp_path, "slow", phone, listen=url.removeprefix("http://"))
        )
        await second.url()
        row, page = await browsing(lambda browser: two_clicks(browser, link))
        call, _, index = page.rpartition("#turn-")
        api = call.partition("?")[0].replace("/conversations/", "/api/v1/conversations/")
        (turn,) = [each for each in (await http.get(api)).json()["turns"] if each["index"] == int(index)]
    assert turn["response_seconds"] > 1.5
    assert f"{turn['response_seconds']:.3f} s slow" in row
    assert turn["largest_stage"] != "unknown"
    assert f"mostly {turn['largest_stage'].replace('_', ' ')}" in row


async def link_of(notified: Inbox) -> str:
    """The link in the first notification about slow responses."""
    seen = 0
    while True:
        for notification in notified.received[seen:]:
            for alert in notification["alerts"]:
                if alert["labels"]["alertname"] == ALERT:
                    return str(alert["annotations"]["conversations_url"])
        seen = len(notified.received)
        await notified.wait(seen + 1)


def two_clicks(browser: Browser, link: str) -> tuple[str, str]:
    """The row of the slowest turn of the slowest call of those that are over, and where it stands."""
    with page_of(browser) as page:
        page.goto(link)
        over = page.get_by_role("region", name="Conversations that are over")
        follow(page, over.locator("tbody tr:not(.slow) a").first)
        page.get_by_role("link", name="in turn").click()
        number = page.url.rpartition("turn-")[2]
        return page.locator(f"tr#turn-{number}").inner_text(), page.url


def test_the_link_is_in_the_annotations_of_every_alert_about_calls() -> None:
    rules = yaml.safe_load(files.render(scenario.QUICK.objectives())["prometheus/alerts.yml"])
    found = {
        rule["alert"]: rule["annotations"].get("conversations_url", "")
        for group in rules["groups"]
        for rule in group["rules"]
    }
    assert "/conversations" in found[ALERT]
    assert "/conversations" in found["PhonicCallersGivingUp"]
