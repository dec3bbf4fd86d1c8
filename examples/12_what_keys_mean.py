"""Learn from outcomes: a network finds out what a user's keys mean while they press them; nobody tells it.

Run: python examples/12_what_keys_mean.py
"""

import random

import torch

from treadle.recipes.decode import COMMANDS, WAIT, KeyDecoder, World

torch.set_num_threads(1)
world, draw = World(seed=11), random.Random(0)
decoder = KeyDecoder(seed=0)

# What only the user knows: these keys, and "g" followed by "g" or "d", as in some editors.
meaning = {"h": 3, "j": 0, "k": 7, "l": 5, "space": 2, "gg": 9, "gd": 4}


def lately(right):
    return sum(right[-50:]) / len(right[-50:])


right = []
while len(right) < 250:
    situation, wish = draw.randrange(8), draw.choice(list(meaning))
    keys = wish if wish.startswith("g") else [wish]
    for number, key in enumerate(keys, start=1):
        command = decoder.press(situation, key)  # a guess; WAIT means that this was the first of two
        wanted = meaning[wish] if number == len(keys) else WAIT
        right.append(command == wanted)
        decoder.learn(draw.random() < world.good(situation, command, wanted))  # all that it ever hears
        if len(right) in (50, 150, 250):
            print(f"after {len(right)} presses: {lately(right):.0%} of the last 50 were right")

for key in ("h", "j", "k", "l", "space", "g"):
    shares = decoder.meanings(key)
    best = max(range(COMMANDS + 1), key=shares.__getitem__)
    print(f"{key:>5} is {'the first of two' if best == WAIT else f'command {best}'} ({shares[best]:.0%})")
