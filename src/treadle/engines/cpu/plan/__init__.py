"""What one call of a network does, written down once."""
