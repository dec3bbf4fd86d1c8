"""Tools that know `torch.nn`'s modules by their exact type, and would pass over the drop-ins without a word."""

import sys
import warnings
from typing import Any

from torch import nn

from treadle.errors import EngineError


def class_in_torch(kind: type[nn.RNNBase]) -> type[nn.RNNBase]:
    """The class of `torch.nn` that a drop-in stands in for."""
    return next(base for base in kind.__mro__ if base.__module__ == nn.RNNBase.__module__)


def tell_opacus(kind: type[nn.RNNBase]) -> None:
    """Opacus, where it was imported before, validates and replaces a drop-in as it does PyTorch's own."""
    validators = sys.modules.get("opacus.validators")
    if validators is None:
        return
    tables, theirs = validators.ModuleValidator, class_in_torch(kind)
    if theirs not in tables.VALIDATORS:
        return

    def fix(module: Any) -> nn.Module:
        if module.wiring != "stack" or module.cell is not None:
            raise EngineError(
                f"Opacus replaces the classic {kind.__name__} alone, not this: {module!r:.80}; train without Opacus"
            )
        return tables.FIXERS[theirs](module)

    tables.VALIDATORS[kind], tables.FIXERS[kind] = tables.VALIDATORS[theirs], fix


def say_not_quantised(kind: type[nn.RNNBase]) -> None:
    """`torch.ao.quantization` leaves a drop-in as it is, whatever it was asked for."""
    if issubclass(kind, nn.RNN):
        return  # PyTorch's own stay as they are, too
    name = class_in_torch(kind).__name__
    warnings.warn(
        f"torch.ao.quantization quantises torch.nn.{name} alone, by its exact type: this treadle.{name} stays as it is."
        f" Pass a torch.nn.{name} with its state_dict, or run it live with session(weights='int8')",
        stacklevel=3,
    )
