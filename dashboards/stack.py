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


def alertmanager() -> dict[str, Any]:
    """One notification for each alert and agent; a cause silences its consequences.

    The receivers notify nobody: alerts are seen on Alertmanager's page until somebody fills them in.
    """
    return {
        "route": {
            "receiver": "read-later",
            "group_by": ["alertname", "project", "agent"],
            "group_wait": "10s",
            "group_interval": "1m",
            "repeat_interval": "4h",
            "routes": [{"receiver": "wake-somebody", "matchers": ['severity="critical"']}],
        },
        "receivers": [{"name": "read-later"}, {"name": "wake-somebody"}],
        "inhibit_rules": [
            {
                "source_matchers": ['alertname="PhonicUpstreamUnreachable"'],
                "target_matchers": [
                    'alertname=~"PhonicFeedErrors|PhonicWatchingFallsShort|PhonicConversationsLost"'
                ],
                "equal": ["job"],
            },
            *(
                {
                    "source_matchers": [f'alertname="{name}Fast"'],
                    "target_matchers": [f'alertname=~"{also}"'],
                    "equal": ["job", "project", "agent"],
                }
                for name, also in (
                    ("PhonicResponseBudgetBurn", "PhonicResponseBudgetBurnSlow"),
                    ("PhonicErrorBudgetBurn", "PhonicErrorBudgetBurnSlow|PhonicErrorEndings"),
                )
            ),
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
                    "prometheusVersion": "3.5.0",
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
