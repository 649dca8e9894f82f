"""Benchmarks of the exporter: ``python -m benchmarks --list``.

Each case measures several variants in interleaved rounds: a round runs every variant once, each in a fresh
process. The cost of a variant is the CPU time that the operating system accounts to its process. A case compares
what the variants counted before it computes any ratio, because a fast variant that counts wrongly would be no
comparison.
"""
