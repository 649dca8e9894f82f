"""One cause is one notification: a real Alertmanager with the shipped routing, and a webhook that counts."""

from collections.abc import Iterable
from pathlib import Path

import httpx
import pytest
import trio
import yaml

from dashboards import slo, stack
from dashboards.alerts import alerts
from tests.e2e.between import Inbox, inbox
from tests.e2e.programs import STUCK_SECONDS
from tests.e2e.prometheus import RELEASES, Release, alertmanager

pytestmark = pytest.mark.e2e

SEVERITY = {alert.name: alert.severity for alert in alerts(slo.load())}
AGENTS = [("main", "front desk"), ("main", "billing"), ("sales", "outbound")]
JOB = "phonic-exporter"
EVERY_RELEASE = pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)


def routing(url: str) -> str:
    """Return the shipped configuration with short waits, whose receivers notify ``url``."""
    config = stack.alertmanager()
    config["route"] |= {"group_wait": "500ms", "group_interval": "1s"}
    for route in config["route"]["routes"]:
        route.pop("group_interval", None)
    for receiver in config["receivers"]:
        receiver["webhook_configs"] = [{"url": f"{url}/{receiver['name']}", "send_resolved": False}]
    return yaml.safe_dump(config)


def firing(names: Iterable[str], **labels: str) -> list[dict[str, dict[str, str]]]:
    return [{"labels": {"alertname": name, "severity": SEVERITY[name], "job": JOB, **labels}} for name in names]


def of_every_agent(*names: str) -> list[dict[str, dict[str, str]]]:
    return [alert for project, agent in AGENTS for alert in firing(names, project=project, agent=agent)]


SLOW_MODEL = of_every_agent("PhonicCallersWaiting", "PhonicResponseBudgetBurnFast", "PhonicResponseBudgetBurnSlow")
NO_ANSWERS = of_every_agent(
    "PhonicCallersWaiting",
    "PhonicResponseBudgetBurnFast",
    "PhonicResponseBudgetBurnSlow",
    "PhonicCallersGivingUp",
)
FEW_CALLERS = of_every_agent("PhonicResponseBudgetBurnFast", "PhonicCallersGivingUp")
ERRORS = of_every_agent("PhonicErrorBudgetBurnFast", "PhonicErrorBudgetBurnSlow", "PhonicErrorEndings")
BAD_KEY = firing(
    [
        "PhonicCredentialRefused",
        "PhonicUpstreamUnreachable",
        "PhonicDiscoveryStale",
        "PhonicRequestsWaiting",
        "PhonicFeedErrors",
    ]
)
OUTAGE = firing(["PhonicUpstreamUnreachable", "PhonicDiscoveryStale", "PhonicFeedErrors"])
NO_POSTGRESQL = firing(
    [
        "PhonicStateUnreachable",
        "PhonicShardUnheld",
        "PhonicCheckpointFailing",
        "PhonicStateWritesSlow",
        "PhonicLeasesLost",
        "PhonicWatchingFallsShort",
    ]
)
NO_HOLDER = firing(["PhonicShardUnheld", "PhonicProcessDown", "PhonicStandbyMissing", "PhonicWatchingFallsShort"])
LOST_PROCESS = firing(["PhonicProcessDown", "PhonicStandbyMissing"])
SLOW_POSTGRESQL = firing(["PhonicStateWritesSlow", "PhonicLeasesLost"])
DISK_FULL = firing(["PhonicPagesNotCommitted", "PhonicCheckpointFailing"])
FULL = firing(["PhonicConcurrencyAtLimit", "PhonicConcurrencyNearLimit"], project="main")
FULL_WORKSPACE = firing(["PhonicConcurrencyAtLimit", "PhonicConcurrencyNearLimit"])

LAST = [{"labels": {"alertname": "PhonicLabelsFolded", "severity": "warning", "job": "last"}}]

CAUSES = {
    "slow model": (SLOW_MODEL, "pager", "PhonicCallersWaiting"),
    "no answers": (NO_ANSWERS, "pager", "PhonicCallersWaiting"),
    "no answers, and few callers at a time": (FEW_CALLERS, "pager", "PhonicResponseBudgetBurnFast"),
    "wave of errors": (ERRORS, "pager", "PhonicErrorBudgetBurnFast"),
    "refused credential": (BAD_KEY, "pager", "PhonicCredentialRefused"),
    "outage": (OUTAGE, "pager", "PhonicUpstreamUnreachable"),
    "full disk": (DISK_FULL, "tickets", "PhonicPagesNotCommitted"),
    "PostgreSQL is down": (NO_POSTGRESQL, "pager", "PhonicStateUnreachable"),
    "shard without a holder": (NO_HOLDER, "pager", "PhonicShardUnheld"),
    "process that is down, which was the last standby": (LOST_PROCESS, "tickets", "PhonicProcessDown"),
    "slow PostgreSQL": (SLOW_POSTGRESQL, "tickets", "PhonicStateWritesSlow"),
    "full project": (FULL, "pager", "PhonicConcurrencyAtLimit"),
    "full workspace": (FULL_WORKSPACE, "pager", "PhonicConcurrencyAtLimit"),
}


@EVERY_RELEASE
@pytest.mark.parametrize("cause", CAUSES)
async def test_one_cause_is_one_notification(
    tmp_path: Path, http: httpx.AsyncClient, cause: str, release: Release
) -> None:
    """This must hold for any order of the alerts."""
    sent, receiver, name = CAUSES[cause]
    with trio.fail_after(STUCK_SECONDS):
        async with inbox() as box, alertmanager(tmp_path, routing(box.url), http, release) as url:
            (await http.post(f"{url}/api/v2/alerts", json=[*reversed(sent)])).raise_for_status()
            await box.wait(1)
            await _wait_for_pending(box, url, http)
    assert box.told(receiver, job=JOB) == [{name}]
    assert len(box.received) == 2


@EVERY_RELEASE
async def test_different_causes_are_different_notifications(
    tmp_path: Path, http: httpx.AsyncClient, release: Release
) -> None:
    """The burn rate alert of one agent notifies while the callers of another one wait."""
    [main, _, sales] = AGENTS
    waiting = firing(["PhonicCallersWaiting"], project=main[0], agent=main[1])
    burning = firing(["PhonicResponseBudgetBurnFast"], project=sales[0], agent=sales[1])
    elsewhere = [{"labels": {**burning[0]["labels"], "job": "other", "project": main[0], "agent": main[1]}}]
    with trio.fail_after(STUCK_SECONDS):
        async with inbox() as box, alertmanager(tmp_path, routing(box.url), http, release) as url:
            (await http.post(f"{url}/api/v2/alerts", json=waiting + burning + elsewhere)).raise_for_status()
            await box.wait(3)
            await _wait_for_pending(box, url, http)
    assert sorted(box.told("pager"), key=sorted) == [
        {"PhonicCallersWaiting"},
        {"PhonicResponseBudgetBurnFast"},
        {"PhonicResponseBudgetBurnFast"},
    ]


async def _wait_for_pending(box: Inbox, url: str, http: httpx.AsyncClient) -> None:
    """Wait for pending notifications: all groups wait equally long, so a group that starts now notifies last."""
    (await http.post(f"{url}/api/v2/alerts", json=LAST)).raise_for_status()
    while not box.told("tickets", job="last"):
        await box.wait(len(box.received) + 1)


async def test_the_watchdog_is_delivered_to_a_receiver_of_its_own(tmp_path: Path, http: httpx.AsyncClient) -> None:
    with trio.fail_after(STUCK_SECONDS):
        async with inbox() as box, alertmanager(tmp_path, routing(box.url), http) as url:
            watchdog = {"labels": {"alertname": "PhonicWatchdog", "severity": "none"}}
            (await http.post(f"{url}/api/v2/alerts", json=[watchdog])).raise_for_status()
            await box.wait(1)
    assert box.told("watchdog") == [{"PhonicWatchdog"}]
