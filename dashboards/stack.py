"""Pure: the files of the demo stack: configuration of Prometheus and Alertmanager, provisioning of Grafana.

Each file is complete, so that it also serves as an example for an existing stack.
"""

from typing import Any

from .slo import Slo

# Short, because the alerts are about seconds of waiting.
SCRAPE_INTERVAL = "5s"
DATASOURCE_UID = "phonic-prometheus"
EXEMPLAR_LABEL = "conversation_id"


def prometheus(
    slo: Slo, *, exporter: str = "exporter:10058", alertmanager: str = "alertmanager:9093"
) -> dict[str, Any]:
    """Return Prometheus' configuration. Exemplars also need the flag ``--enable-feature=exemplar-storage``."""
    return {
        "global": {"scrape_interval": SCRAPE_INTERVAL, "evaluation_interval": SCRAPE_INTERVAL},
        "rule_files": ["recording.yml", "alerts.yml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        "scrape_configs": [
            {"job_name": slo.job, "static_configs": [{"targets": [exporter]}]},
        ],
    }


# Alerts that follow if REST does not work, for any reason.
_WITHOUT_REST = (
    "PhonicDiscoveryStale",
    "PhonicRequestsWaiting",
    "PhonicFeedErrors",
    "PhonicWatchingFallsShort",
    "PhonicConversationsLost",
)
# Alerts that follow if a shard is held by nobody, or its holder hides it.
_WITHOUT_SHARD = ("PhonicLeasesLost", "PhonicWatchingFallsShort", "PhonicConversationsLost")
# Alerts that follow if PostgreSQL does not answer.
_WITHOUT_WRITES = ("PhonicCheckpointFailing", "PhonicStateWritesSlow")
# A missing label equals a missing label. What is not of one workspace, as feed errors are not, none silences.
_OF_WORKSPACE = ("job", "workspace")
# Inhibitions: a cause, its consequences, and the labels that must be equal. Only the cause notifies.
_CONSEQUENCES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("PhonicCredentialRefused", ("PhonicUpstreamUnreachable", *_WITHOUT_REST), _OF_WORKSPACE),
    ("PhonicUpstreamUnreachable", _WITHOUT_REST, _OF_WORKSPACE),
    ("PhonicDiscoveryStale", ("PhonicWatchingFallsShort", "PhonicConversationsLost"), _OF_WORKSPACE),
    ("PhonicPagesNotCommitted", ("PhonicCheckpointFailing",), ("job",)),
    (
        "PhonicStateUnreachable",
        ("PhonicShardUnheld", "PhonicExporterDown", "PhonicPagesNotCommitted", *_WITHOUT_WRITES, *_WITHOUT_SHARD),
        ("job",),
    ),
    ("PhonicShardUnheld", ("PhonicProcessDown", "PhonicStandbyMissing", *_WITHOUT_SHARD), ("job",)),
    ("PhonicProcessDown", ("PhonicStandbyMissing",), ("job",)),
    ("PhonicStateWritesSlow", ("PhonicLeasesLost",), ("job",)),
    ("PhonicConcurrencyAtLimit", ("PhonicConcurrencyNearLimit",), (*_OF_WORKSPACE, "project")),
    (
        "PhonicCallersWaiting",
        (
            "PhonicResponseBudgetBurnFast",
            "PhonicResponseBudgetBurnSlow",
            "PhonicErrorBudgetBurnFast",
            "PhonicErrorBudgetBurnSlow",
            "PhonicCallersGivingUp",
        ),
        (*_OF_WORKSPACE, "project", "agent"),
    ),
    (
        "PhonicResponseBudgetBurnFast",
        ("PhonicResponseBudgetBurnSlow", "PhonicCallersGivingUp"),
        (*_OF_WORKSPACE, "project", "agent"),
    ),
    (
        "PhonicErrorBudgetBurnFast",
        ("PhonicErrorBudgetBurnSlow", "PhonicErrorEndings"),
        (*_OF_WORKSPACE, "project", "agent"),
    ),
)


def alertmanager() -> dict[str, Any]:
    """Return Alertmanager's configuration: one page per cause, whose consequences are inhibited.

    Pages are grouped into one notification for all agents, because agents mostly fail together; tickets are
    grouped by agent. The receivers are empty: until the user configures them, alerts are visible only on
    Alertmanager's page.
    """
    return {
        "route": {
            "receiver": "tickets",
            "group_by": ["alertname", "workspace", "project", "agent"],
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
                    "receiver": "pager",
                    "matchers": ['severity="critical"'],
                    "group_by": ["alertname", "job"],
                    # Do not page again at once if more agents have the same problem.
                    "group_interval": "5m",
                },
            ],
        },
        "receivers": [{"name": "tickets"}, {"name": "pager"}, {"name": "watchdog"}],
        "inhibit_rules": [
            {
                "source_matchers": [f'alertname="{cause}"'],
                "target_matchers": [f'alertname=~"{"|".join(consequences)}"'],
                "equal": list(equal),
            }
            for cause, consequences, equal in _CONSEQUENCES
        ],
    }


def datasources(slo: Slo) -> dict[str, Any]:
    """Return the provisioning of Prometheus as a data source.

    Exemplars link to the exporter's page of their conversation, which exists after the end of the call, too.
    """
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
                            # Doubled, because Grafana expands variables in provisioning files.
                            "url": f"{slo.links.exporter}/conversations/$${{__value.raw}}",
                            "urlDisplayLabel": "Conversation",
                        }
                    ],
                },
            }
        ],
    }


def dashboards() -> dict[str, Any]:
    """Return the provisioning of all dashboards, in a folder of their own."""
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
