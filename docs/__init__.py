"""The documentation, with the generators of ``metrics.md``, ``configuration.md`` and ``scaling.md``.

Run ``python -m docs`` after a change of the metric catalog, the settings, or the assumptions in `docs.scaling`.
Nothing here is installed.
"""
