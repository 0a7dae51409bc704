"""What the package costs in time and memory, as ratios measured in one run."""
