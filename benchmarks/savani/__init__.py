"""The protocol of Savani et al. (arXiv:2006.08564), rerun."""
