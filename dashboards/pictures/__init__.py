"""Pictures of the dashboards without Grafana: their JSON and a Prometheus in, pages and PNGs out.

``python -m dashboards.pictures --help``. Grafana draws better; this draws anywhere, from the same queries, units,
thresholds, legends and places on the grid, so that a README can show what real data look like.
"""
