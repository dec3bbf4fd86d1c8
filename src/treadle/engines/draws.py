"""Random masks for all steps at once, the very numbers that PyTorch would draw step by step, in a third of the time.

PyTorch's generator on the CPU is the Mersenne Twister, drawn from number by number through several layers; NumPy has
the same one, and fills arrays with it. So its state goes there and back. That the two agree is tried once in a process,
and where they do not, PyTorch draws.
"""

import functools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["masks"]

_BITS = 24
"""Random bits of a float32 between 0 and 1."""
_WORDS = 624


def masks(shares: Tensor, steps: int) -> Tensor:
    """Zeros and ones, [steps, n] in the dtype of ``shares``: what `torch.bernoulli` gives for ``shares`` [n] each time.

    Source: Matsumoto and Nishimura, *Mersenne Twister*, 1998.
    """
    generator = torch.default_generator
    if shares.dtype == torch.float32 and _are_alike():
        return _drawn(shares, steps, generator)
    return torch.bernoulli(shares.expand(steps, -1).contiguous(), generator=generator)


def _drawn(shares: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    state = generator.get_state()
    numbers = state.numpy()
    # The state begins with the seed, how many words are left, whether it was seeded, which is next, and the words.
    left, following = numbers[8:12].view(np.int32), numbers[16:24].view(np.uint64)
    words = numbers[24 : 24 + 8 * _WORDS].view(np.uint64)
    twister: Any = np.random.MT19937()
    key = {"key": words.astype(np.uint32), "pos": _WORDS if left[0] == 1 else int(following[0])}
    twister.state = {"bit_generator": "MT19937", "state": key}
    drawn = np.random.Generator(twister).integers(0, 1 << 32, size=(steps, len(shares)), dtype=np.uint32)
    key = twister.state["state"]
    words[:] = key["key"]
    following[0], left[0] = key["pos"], _WORDS + 1 - key["pos"]
    generator.set_state(state)
    limits = np.array([math.ceil(share * (1 << _BITS)) for share in shares.unique().tolist()], dtype=np.uint32)
    limits = limits[torch.unique(shares, return_inverse=True)[1].numpy()]
    drawn &= np.uint32((1 << _BITS) - 1)
    return torch.from_numpy(drawn < limits).to(shares.dtype)


@functools.cache
def _are_alike() -> bool:
    try:
        generator, ours = torch.Generator(), torch.Generator()
        shares = torch.tensor([0.1, 0.5, 0.9] * 100)
        for _ in range(4):  # over the end of the words, too
            expected = torch.bernoulli(shares.expand(2, -1).contiguous(), generator=generator)
            if not torch.equal(_drawn(shares, 2, ours), expected):
                return False
        return torch.equal(generator.get_state(), ours.get_state())
    except (RuntimeError, ValueError, TypeError):
        return False
