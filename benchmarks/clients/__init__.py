"""The clients that the exporter is compared with, each a process of its own."""
