"""A section of a plan becomes loop nests."""
