"""Pure: files of the stack to try: Prometheus, Alertmanager, and what Grafana is provisioned with.

They also serve as examples for those who have their own: each is complete and stands alone.
"""

from typing import Any

from .boards import live
from .slo import Slo

# Callers notice five seconds; a minute between scrapes would not.
SCRAPE_INTERVAL = "5s"
DATASOURCE_UID = "phonic-prometheus"
EXEMPLAR_LABEL = "conversation_id"


def prometheus(
    slo: Slo, *, exporter: str = "exporter:10058", alertmanager: str = "alertmanager:9093"
) -> dict[str, Any]:
    """Scrapes, evaluates, alerts. Exemplars need the flag ``--enable-feature=exemplar-storage`` as well."""
    return {
        "global": {"scrape_interval": SCRAPE_INTERVAL, "evaluation_interval": SCRAPE_INTERVAL},
        "rule_files": ["recording.yml", "alerts.yml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        "scrape_configs": [
            {"job_name": slo.job, "static_configs": [{"targets": [exporter]}]},
        ],
    }


# What follows when REST gives nothing, for whatever cause.
_WITHOUT_REST = (
    "PhonicDiscoveryStale",
    "PhonicRequestsWaiting",
    "PhonicFeedErrors",
    "PhonicWatchingFallsShort",
    "PhonicConversationsLost",
)
# What follows from what, and within which labels: the cause notifies, its consequences are held back.
_CONSEQUENCES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("PhonicCredentialRefused", ("PhonicUpstreamUnreachable", *_WITHOUT_REST), ("job",)),
    ("PhonicUpstreamUnreachable", _WITHOUT_REST, ("job",)),
    ("PhonicDiscoveryStale", ("PhonicWatchingFallsShort", "PhonicConversationsLost"), ("job",)),
    ("PhonicPagesNotCommitted", ("PhonicCheckpointFailing",), ("job",)),
    ("PhonicConcurrencyAtLimit", ("PhonicConcurrencyNearLimit",), ("job", "project")),
    (
        "PhonicCallersWaiting",
        (
            "PhonicResponseBudgetBurnFast",
            "PhonicResponseBudgetBurnSlow",
            "PhonicErrorBudgetBurnFast",
            "PhonicErrorBudgetBurnSlow",
        ),
        ("job", "project", "agent"),
    ),
    ("PhonicResponseBudgetBurnFast", ("PhonicResponseBudgetBurnSlow",), ("job", "project", "agent")),
    (
        "PhonicErrorBudgetBurnFast",
        ("PhonicErrorBudgetBurnSlow", "PhonicErrorEndings"),
        ("job", "project", "agent"),
    ),
)


def alertmanager() -> dict[str, Any]:
    """One page for one cause; a cause holds back its consequences.

    What wakes somebody comes in one notification for all agents, since they fail together more often than apart;
    what is read later comes agent by agent. The receivers notify nobody: alerts are seen on Alertmanager's page
    until somebody fills them in.
    """
    return {
        "route": {
            "receiver": "read-later",
            "group_by": ["alertname", "project", "agent"],
            "group_wait": "10s",
            "group_interval": "1m",
            "repeat_interval": "4h",
            "routes": [
                {
                    "receiver": "watchdog",
                    "matchers": ['alertname="PhonicWatchdog"'],
                    "group_by": ["alertname"],
                    "group_wait": "0s",
                    "repeat_interval": "5m",
                },
                {
                    "receiver": "wake-somebody",
                    "matchers": ['severity="critical"'],
                    "group_by": ["alertname", "job"],
                    # More agents with the same trouble are no reason to call again at once.
                    "group_interval": "5m",
                },
            ],
        },
        "receivers": [{"name": "read-later"}, {"name": "wake-somebody"}, {"name": "watchdog"}],
        "inhibit_rules": [
            {
                "source_matchers": [f'alertname="{cause}"'],
                "target_matchers": [f'alertname=~"{"|".join(consequences)}"'],
                "equal": list(equal),
            }
            for cause, consequences, equal in _CONSEQUENCES
        ],
    }


def datasources() -> dict[str, Any]:
    """Prometheus, with exemplars leading to their conversation."""
    return {
        "apiVersion": 1,
        "datasources": [
            {
                "name": "Prometheus",
                "uid": DATASOURCE_UID,
                "type": "prometheus",
                "access": "proxy",
                "url": "http://prometheus:9090",
                "isDefault": True,
                "editable": False,
                "jsonData": {
                    "httpMethod": "POST",
                    "timeInterval": SCRAPE_INTERVAL,
                    "prometheusType": "Prometheus",
                    "prometheusVersion": "3.13.0",
                    "manageAlerts": False,
                    "exemplarTraceIdDestinations": [
                        {
                            "name": EXEMPLAR_LABEL,
                            # Doubled: Grafana expands variables in provisioning files.
                            "url": f"/d/{live.UID}?var-conversation=$${{__value.raw}}",
                            "urlDisplayLabel": "Conversation",
                        }
                    ],
                },
            }
        ],
    }


def dashboards() -> dict[str, Any]:
    """All dashboards, in a folder of their own."""
    return {
        "apiVersion": 1,
        "providers": [
            {
                "name": "phonic",
                "folder": "Phonic",
                "type": "file",
                "disableDeletion": True,
                "allowUiUpdates": False,
                "updateIntervalSeconds": 30,
                "options": {"path": "/etc/grafana/dashboards"},
            }
        ],
    }
