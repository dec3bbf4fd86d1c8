"""What ``treadle explore`` does: small networks that have learned something, on what a person can read.

``material.py`` is what they read, a text or series; ``small_networks.py`` builds and trains them; ``saved_networks.py``
finds out what a network from a file reads.
"""

from treadle.recipes.explore.material import Letters, Numbers, built_in_text, read_letters, read_numbers
from treadle.recipes.explore.saved_networks import shown_to
from treadle.recipes.explore.small_networks import Design, small_network, train_small

__all__ = [
    "Design", "Letters", "Numbers", "built_in_text", "read_letters", "read_numbers", "shown_to", "small_network",
    "train_small",
]  # fmt: skip
