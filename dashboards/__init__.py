"""Dashboards, recording rules and alerts as typed code, generated from ``slo.yml`` and the metric catalog.

Run ``python -m dashboards`` after changing either. The package is installed as ``exporter.dashboards``, so that
``phonic-exporter dashboards export`` works from the wheel.
"""
