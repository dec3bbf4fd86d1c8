"""How far gradients reach: measured for an untrained network, and before and after the learning of an example."""

import runpy
from typing import Any

import numpy as np
import torch

import treadle as td
from treadle.insight.reach_curves import figure_of

from .learned import ROOT, Learned
from .plots import themed

EXAMPLE = "examples/08_memory_beyond_the_window.py"


def reach() -> str:
    """What the guide about truncated BPTT shows."""
    torch.manual_seed(0)
    cell, xs = td.LSTMCell(4, 16, forget_bias=2.0), torch.randn(8, 200, 4)
    methods = (td.FullBPTT(), td.TruncatedBPTT(steps=20, horizon=40))
    return themed(figure_of({repr(m): td.gradient_reach(td.Recurrent(cell, gradient=m), xs) for m in methods}))


def learn_memory() -> dict[str, Any]:
    """The curves of the example of memory beyond the window."""
    example = runpy.run_path(str(ROOT / EXAMPLE))
    reaches = example["reaches"](example["learn"](carry=True), example["learn"](carry=False))
    return {
        name: {"states": _digits(one.states), "inputs": None if one.inputs is None else _digits(one.inputs)}
        for name, one in reaches.items()
    }


def memory() -> str:
    """What the guide about endless sequences shows."""
    return themed(figure_of({name: _reach(curves) for name, curves in MEMORY.data().items()}))


def _digits(curve: np.ndarray) -> list[float]:
    return [float(f"{value:.3g}") for value in curve]


def _reach(curves: dict[str, Any]) -> td.GradientReach:
    inputs = curves["inputs"]
    return td.GradientReach(np.array(curves["states"]), None if inputs is None else np.array(inputs), np.zeros(0), "")


def _reach_as_far(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Each curve falls below a thousandth after as many steps, give or take a fifth."""
    far = [{name: _reach(curves).horizon(1e-3) for name, curves in one.items()} for one in (old, new)]
    return far[0].keys() == far[1].keys() and all(
        abs(a - b) <= 0.2 * max(a, b) for a, b in zip(far[0].values(), far[1].values(), strict=True)
    )


MEMORY = Learned("memory", learn_memory, reads=(EXAMPLE,), same=_reach_as_far)
