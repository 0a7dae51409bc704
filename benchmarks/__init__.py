"""Measurements of the package; the networks and tasks here are shared by the folders."""
