"""Random masks for all steps at once, the very numbers that PyTorch would draw step by step, in a fraction of the time.

PyTorch's generator on the CPU is the Mersenne Twister, drawn from number by number through several layers; ours makes
sixteen at a time. So the state goes there and back. That the two agree is tried once in a process, and where they do
not, PyTorch draws.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from treadle.engines.cpu.routines import mersenne_twister
from treadle.errors import EngineError
from treadle.locks import fork_safe_lock

_drawing = fork_safe_lock()
_BITS = 24
"""Random bits of a float32 between 0 and 1."""


def masks(
    shares: Sequence[float], sizes: Sequence[int], steps: int, generator: torch.Generator | None = None
) -> list[Tensor]:
    """Zeros and ones in float32: what `torch.bernoulli` gives step by step, and in each step result by result.

    Each result, [steps, n], has a share, the probability of a one, and a size n. The generator is PyTorch's own unless
    another is passed.
    """
    generator = torch.default_generator if generator is None else generator
    words = _next_words(generator, steps * sum(sizes))
    # The share is compared as the float32 that it is in a tensor.
    limits = [math.ceil(float(np.float32(share)) * (1 << _BITS)) for share in shares]
    return mersenne_twister.compare(words, list(zip(limits, sizes, strict=True)), steps)


def _next_words(generator: torch.Generator, count: int) -> Tensor:
    """The next words of a generator, which nobody else is given."""
    while True:
        before = generator.get_state()
        after = before.clone()
        numbers = after.numpy()
        # The state begins with the seed, how many words are left, whether it was seeded, which is next, and the words.
        left, following = numbers[8:12].view(np.int32), numbers[16:24].view(np.uint64)
        state = numbers[24 : 24 + 8 * mersenne_twister.WORDS].view(np.uint64)
        position = mersenne_twister.WORDS if left[0] == 1 else int(following[0])
        own = torch.from_numpy(state.astype(np.uint32).view(np.int32))
        words, own, position = mersenne_twister.following(own, position, count)
        state[:] = own.numpy().view(np.uint32)
        following[0], left[0] = position, mersenne_twister.WORDS + 1 - position
        with _drawing:
            if torch.equal(generator.get_state(), before):  # another thread may have drawn the same words
                generator.set_state(after)
                return words


@functools.cache
def agree_with_pytorch() -> bool:
    """Whether these are the numbers that PyTorch draws: tried once in a process."""
    try:
        generator, ours = torch.Generator(), torch.Generator()
        shares, sizes = [0.1, 0.5, 0.9], [100, 7, 193]
        row = torch.tensor([0.1] * 100 + [0.5] * 7 + [0.9] * 193, dtype=torch.float32, device="cpu")
        for _ in range(4):  # over the end of the words, too
            expected = torch.bernoulli(row.expand(2, -1).contiguous(), generator=generator)
            if not torch.equal(torch.cat(masks(shares, sizes, 2, ours), 1), expected):
                return False
        return torch.equal(generator.get_state(), ours.get_state())
    except (RuntimeError, ValueError, TypeError, EngineError):
        return False
