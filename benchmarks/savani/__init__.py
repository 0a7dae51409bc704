"""A rerun of the protocol of Savani et al. (arXiv:2006.08564)."""
