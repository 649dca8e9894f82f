"""Benchmarks of the exporter: ``python -m benchmarks --list``.

Rules for this package: ratios come from interleaved rounds, each of which runs every variant once in a fresh
process; cost is the operating system's CPU time of that process; what the variants counted is compared before
any ratio is taken, because a fast wrong variant is not a variant.
"""
