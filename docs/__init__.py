"""The documentation, with the generator of what ``metrics.md`` and ``configuration.md`` take from the code.

Run ``python -m docs`` after a change of the metric catalog or of the settings. Nothing here is installed.
"""
