"""The programs that are compared with the exporter, each a process of its own."""
