"""Pure and edges: what Phonic sends, and how it is asked."""
