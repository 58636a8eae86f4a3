"""Benchmarks: run from the repository's root, e.g. ``python -m benchmarks.accuracy``."""
