"""Edge: the HTTP side that Prometheus and people see."""
