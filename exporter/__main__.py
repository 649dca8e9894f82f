"""Wiring: ``python -m exporter`` is the command ``phonic-exporter``."""

from .cli import main

if __name__ == "__main__":
    main()
