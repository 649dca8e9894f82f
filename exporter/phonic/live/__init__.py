"""Edges: the live conversation WebSocket (API 1)."""
