"""A batch of four rows and seven steps as the tests of time have it: lengths, resets and holes."""

import torch

T = 7
LENGTHS = [3, 0, 7, 5]
"""Unsorted, one empty, one full."""
RESETS = torch.tensor(
    [
        [1, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 1, 0, 0],
        [0, 0, 1, 1, 1, 0, 1],
        [0, 1, 0, 0, 1, 1, 0],
    ]
).bool()
"""The first step, the last, several in a row, all rows at once (t = 4), one past the end of a row."""
MASK = torch.tensor(
    [
        [1, 1, 0, 1, 0, 1, 1],
        [0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1],
        [0, 0, 1, 0, 1, 1, 0],
    ]
).bool()
"""Holes anywhere, a row of nothing else, a row without any."""
