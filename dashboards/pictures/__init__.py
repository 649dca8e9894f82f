"""Draws the dashboards without Grafana: from their JSON and a running Prometheus to HTML pages and PNGs.

``python -m dashboards.pictures --help``. The pictures use the same queries, units, thresholds, legends and layout
as Grafana, so that the documentation can show real data without a Grafana server.
"""
