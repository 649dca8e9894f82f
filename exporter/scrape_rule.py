"""Pure: the scrape rule without which series of a shard change labels whenever another process takes it.

Prometheus adds the labels of the target to every series: ``instance``, and ``pod`` in Kubernetes. The series of a
shard must not have them from the process that happens to hold it: other labels make another series, and Prometheus
cannot count across the two. So the rule replaces them by the shard. Series of the process itself have no label
``shard`` and keep theirs.
"""

from typing import Final

import attrs

SHARD: Final = "shard"


@attrs.frozen
class Relabeling:
    """Replaces the label ``target`` where the ``sources``, joined by ``;``, match the whole of ``regex``."""

    sources: tuple[str, ...]
    regex: str
    target: str
    replacement: str = "shard-$1"

    @property
    def in_prometheus(self) -> dict[str, object]:
        """As an entry of ``metric_relabel_configs``."""
        return {
            "source_labels": list(self.sources),
            "regex": self.regex,
            "target_label": self.target,
            "replacement": self.replacement,
        }

    @property
    def in_service_monitor(self) -> dict[str, object]:
        """As an entry of ``metricRelabelings`` of the Prometheus operator."""
        return {
            "sourceLabels": list(self.sources),
            "regex": self.regex,
            "targetLabel": self.target,
            "replacement": self.replacement,
        }


RELABELINGS: Final = (
    Relabeling((SHARD,), "(.+)", "instance"),
    Relabeling((SHARD, "pod"), "(.+);.+", "pod"),  # only where targets have a label `pod`
)


def scrape_rule() -> str:
    """Return the rule as YAML, for a scrape job in ``prometheus.yml``; it has no newline at its end."""
    entries = (
        f"  - {{source_labels: [{', '.join(each.sources)}], regex: {each.regex}, "
        f"target_label: {each.target}, replacement: {each.replacement}}}"
        for each in RELABELINGS
    )
    return "\n".join(("metric_relabel_configs:", *entries))
