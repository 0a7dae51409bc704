"""Benchmarks of fairness: every method is measured by one protocol."""
