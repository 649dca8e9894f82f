"""Fuzzing: searches longer than a test may take, for inputs that break what must hold for all of them."""
