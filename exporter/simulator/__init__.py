"""Edge: a simulated Phonic for the demo and the tests. Independent of the exporter's code."""
