"""Neutral ground: the fixed modes under which steps are traced, derived and compiled, whatever the caller's are."""

import contextlib
from collections.abc import Iterator

import torch

from treadle.torch_internals import no_function_modes, weights_are_not_cached


@contextlib.contextmanager
def neutral() -> Iterator[None]:
    """A context in which only what is written in the step counts.

    Autograd records, and nobody listens to what it saves; it looks for no anomalies. No tensor is one of inference
    mode, which could never again be used for training. No device is preset, products are not rounded, and no
    parametrised weight is remembered.
    """
    with (
        no_function_modes(),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
        torch.autograd.set_detect_anomaly(False),
        # Of the callers' pairs of hooks only the last one entered is called: this one, which does nothing.
        torch.autograd.graph.saved_tensors_hooks(_itself, _itself),
        weights_are_not_cached(),
    ):
        yield


def _itself(tensor: torch.Tensor) -> torch.Tensor:
    return tensor
