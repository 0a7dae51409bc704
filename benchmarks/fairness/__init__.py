"""How fair and how useful every method leaves a network, by one protocol."""
