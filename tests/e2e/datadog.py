"""``python tests/e2e/datadog.py conf.yaml``: run Datadog's OpenMetrics check and say as JSON what it submitted.

It runs in the environment that ``.ci/datadog-check`` makes, and reads a configuration of the Agent.
"""

import json
import sys
from pathlib import Path

import yaml
from datadog_checks.base import OpenMetricsBaseCheckV2  # type: ignore[import-not-found]
from datadog_checks.base.stubs import aggregator  # type: ignore[import-not-found]


def main() -> None:
    config = yaml.safe_load(Path(sys.argv[1]).read_text())
    check = OpenMetricsBaseCheckV2("openmetrics", config["init_config"] or {}, config["instances"])
    trouble = check.run()
    if trouble:
        raise SystemExit(trouble)
    metrics = {name: [each.value for each in aggregator.metrics(name)] for name in aggregator.metric_names}
    buckets = {name: sum(each.value for each in found) for name, found in aggregator._histogram_buckets.items()}
    sys.stdout.write(json.dumps({"metrics": metrics, "buckets": buckets}))


if __name__ == "__main__":
    main()
