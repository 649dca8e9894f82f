"""Dashboards, recording rules and alerts as typed code, generated from ``slo.yml`` and the metric catalog.

Run ``python -m dashboards`` after a change of either. Installed as ``exporter.dashboards``, so that
``phonic-exporter dashboards export`` works where there is only the wheel.
"""
