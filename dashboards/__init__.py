"""Dashboards, recording rules and alerts as typed code, generated from ``slo.yml`` and the metric catalogue.

Run ``python -m dashboards`` after a change of either. Not part of the distribution.
"""

import warnings

with warnings.catch_warnings():
    # On import the SDK recommends the v2 dashboard schema, which only the newest Grafana reads; the classic one is
    # read by every version in use.
    warnings.simplefilter("ignore", DeprecationWarning)
    import grafana_foundation_sdk.builders.dashboard
    import grafana_foundation_sdk.models.dashboardv2beta1  # noqa: F401
