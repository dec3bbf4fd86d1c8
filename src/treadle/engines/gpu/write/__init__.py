"""A kernel's loop nests as source text in Triton's language."""
