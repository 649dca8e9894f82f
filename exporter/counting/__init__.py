"""Pure: what a conversation adds to the metrics: derivation, end, labels."""
