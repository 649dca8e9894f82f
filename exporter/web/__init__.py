"""Edge: the HTTP server that Prometheus scrapes and people open in a browser."""
