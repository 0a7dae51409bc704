"""Benchmarks of time and memory, mostly as ratios of runs that take turns."""
