"""Wiring: the command ``phonic-exporter``, also ``python -m exporter``. Installs signal handlers first."""

import sys

from . import signals

signals.install(sys.argv)

from .cli import main  # noqa: E402  # slow, so after the signal handlers

if __name__ == "__main__":
    main()
