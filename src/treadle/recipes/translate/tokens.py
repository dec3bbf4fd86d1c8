"""The tokens that a sequence has beside those of its symbols."""

START, END = 0, 1
"""The tokens before the first and behind the last."""
FIRST = 2
"""The token of the first symbol."""
