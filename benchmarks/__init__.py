"""Benchmarks of the package; the files on this level are shared by the folders."""
