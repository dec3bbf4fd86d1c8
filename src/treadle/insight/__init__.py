"""What became of a network, and whether it is right: explain, check a cell, how far gradients reach."""
