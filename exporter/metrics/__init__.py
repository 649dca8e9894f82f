"""State: every metric family once, the numbers, and how they are exposed."""
