"""Dashboards, recording rules and alerts as typed code, generated from ``slo.yml`` and the metric catalogue.

Run ``python -m dashboards`` after a change of either. Not part of the distribution.
"""
