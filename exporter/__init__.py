"""phonic-exporter: Prometheus metrics of live Phonic voice conversations."""

__version__ = "0.1.0"
