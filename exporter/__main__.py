"""Wiring: ``python -m exporter`` is the command ``phonic-exporter``, and signals are heard before all else."""

import sys

from . import signals

signals.heed(sys.argv)

from .cli import main  # noqa: E402  # takes half a second

if __name__ == "__main__":
    main()
