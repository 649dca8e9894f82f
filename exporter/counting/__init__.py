"""Pure: what conversations add to the metrics, in snapshots and at their end."""
