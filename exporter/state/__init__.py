"""Edges: what survives a restart, and the SQLite file that holds it."""
