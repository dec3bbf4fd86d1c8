"""The accuracy of decoders: many users, each of whom changes all meanings half-way."""

import functools
import os
import signal
from collections.abc import Iterator
from multiprocessing import get_context
from random import Random
from typing import Any, NamedTuple

import torch

from treadle.recipes.decode.bayes import Bayes
from treadle.recipes.decode.decoder import Decoder, KeyDecoder, information, load_network
from treadle.recipes.decode.user import Press, UserModel
from treadle.recipes.decode.world import SITUATIONS, World
from treadle.recipes.decode.yardsticks import Informed, Perceptron

EVERY = 25
"""Presses between two looks at the mutual information."""


class Followed(NamedTuple):
    """One decoder, with one user."""

    right: list[bool]
    """For each press, whether what was done was what was wanted."""
    information: list[float]
    """Mutual information of keys and what they are decoded to, in bits, after 0, 25, 50, … presses."""


def follow(decoder: Any, world: World, users: list[tuple[UserModel, list[Press]]], seed: int) -> Followed:
    """Simulate a user, a decoder and the outcomes in a world.

    ``users`` are the user and their presses, before and after each change of meanings; an `Informed` decoder is told
    about these.
    """
    draw = Random(f"outcomes {seed}")
    right: list[bool] = []
    bits: list[float] = []
    for user, presses in users:
        if isinstance(decoder, Informed):
            decoder.user = user
        first = [user.first_keys(situation) for situation in range(SITUATIONS)]
        for press in presses:
            if not right:
                bits.append(information(first, decoder.table(list(range(user.keys)))))
            command = decoder.press(press.situation, press.key)
            right.append(command == press.wanted)
            decoder.learn(draw.random() < world.good(press.situation, command, press.wanted))
            if len(right) % EVERY == 0:
                bits.append(information(first, decoder.table(list(range(user.keys)))))
    return Followed(right, bits)


def study_user(
    seed: int, presses: int, model: str | os.PathLike[str] | None, learning_rate: float
) -> tuple[int, dict[str, Followed]]:
    """A user's number, and all decoders with that user, who presses the same keys in the same situations each time."""
    torch.set_num_threads(1)
    world, user = World(seed), UserModel.random(seed)
    later = user.changed(seed)
    parts = [(user, list(user.presses(presses, 2 * seed))[:presses])]
    parts += [(later, list(later.presses(presses, 2 * seed + 1))[:presses])]
    decoders: dict[str, Decoder] = {
        "attainable": Informed(user),
        "decoder": KeyDecoder(load_network(model), learning_rate, seed=seed),
    }
    if learning_rate:
        decoders["memory alone"] = KeyDecoder(load_network(model), 0.0, seed=seed)
    decoders |= {"Bayes": Bayes(world), "perceptron": Perceptron(user.keys, seed)}
    return seed, {name: follow(decoder, world, parts, seed) for name, decoder in decoders.items()}


def study(
    users: int = 100,
    presses: int = 300,
    model: str | os.PathLike[str] | None = None,
    learning_rate: float = 0.0,
    processes: int | None = None,
) -> Iterator[tuple[int, dict[str, Followed]]]:
    """Simulate many users with all decoders; yields the number of the user and the results by decoder.

    Args:
        users: number of users; user number n is always the same one.
        presses: presses before the meanings change, and again after it.
        model: a network in place of the bundled one.
        learning_rate: online learning rate of its weights; a decoder with fixed weights is then compared as well.
        processes: users simulated in parallel; by default one per core.
    """
    count = min(processes or os.cpu_count() or 1, users)
    run = functools.partial(study_user, presses=presses, model=model, learning_rate=learning_rate)
    if count == 1:
        yield from map(run, range(users))
        return
    with get_context("spawn").Pool(count, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        yield from pool.imap_unordered(run, range(users))  # whoever stops listening ends them all
