"""Edge: a Phonic to try things on. Knows nothing of the exporter."""
