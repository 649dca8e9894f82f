"""Wiring: ways to install the exporter; see README.md beside this file. Nothing here is part of the package."""
