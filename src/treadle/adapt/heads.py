"""Another head on a trained network."""

import copy
from typing import Any, TypeVar

import torch
from torch import nn

from treadle.adapt.carry import Carrier
from treadle.adapt.parts import (
    CONVOLUTIONS,
    at_path,
    features_in,
    features_out,
    finished,
    is_known,
    outermost,
    with_part,
    within,
)
from treadle.adapt.places import Changed, Places
from treadle.adapt.trainable import trainable
from treadle.control.loop import ClosedLoop
from treadle.errors import AdaptError
from treadle.running.recurrent import Recurrent
from treadle.wiring import Graph, NoisyStateCell
from treadle.wiring.graph import Node
from treadle.wiring.sizes import is_cell

M = TypeVar("M", bound=nn.Module)


@trainable
def replace_head(network: M, head: int | nn.Module, *, at: str | None = None) -> M:
    """A copy of a network with another last layer, which is trainable even if the old one was frozen.

    Weights that the old head shared with another part, such as an embedding, stay with that part alone.

    Args:
        network: any network.
        head: the number of outputs of a new layer of the same kind, with random weights; or a module that reads as
            many features.
        at: the path of the head. By default the part of a `treadle.Graph` whose output is the output, or the last layer
            with weights of a `torch.nn.Sequential`; in a module of your own it has to be named.

    Raises:
        AdaptError: there is no head, it is not known which part it is, or the new one reads something else.

    Example:
        >>> import torch, treadle as td
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 21, 1))
        >>> two = td.adapt.replace_head(model, 2)
        >>> two[2], torch.equal(two[0].weight, model[0].weight)
        (Conv2d(8, 2, kernel_size=(1, 1), stride=(1, 1)), True)
    """
    path = _head(network, "") if at is None else at_path(network, at)
    old = network.get_submodule(path)
    if not path:
        raise AdaptError(
            f"this {type(network).__name__} is a single layer without a head of its own: build a new network"
        )
    new = _fresh(path, old, head) if isinstance(head, int) else copy.deepcopy(head)
    if not isinstance(new, nn.Module):
        raise AdaptError(f"a head is a number of outputs or a module, but {head!r:.60} was passed")
    reads, before = features_in(new), features_in(old)
    if reads is not None and before is not None and reads != before:
        raise AdaptError(
            f"{path!r} reads {before} features, but the new head takes {reads}: pass one that takes {before}"
        )
    if is_cell(new) != is_cell(old):
        raise AdaptError(
            f"{path!r} has {'a' if is_cell(old) else 'no'} state, unlike the new head: pass one of the same kind"
        )
    gives = features_out(new)
    loop: Any = network.get_submodule(path.rpartition(".cell.")[0] if ".cell." in path else "")
    if isinstance(loop, ClosedLoop) and gives != loop.actions.size:
        raise AdaptError(
            f"{path!r} decides about {loop.actions.size} actions of a closed loop, but the new head gives {gives}:"
            " build another ClosedLoop around its controller"
        )
    places = None if gives is None or gives == features_out(old) else torch.full((gives,), -1)

    def change(where: str, module: Any, _: Places) -> Changed | None:
        return (new, places) if module is old else None

    around = outermost(network, path)
    whole = new
    if around != path:
        whole, _ = Carrier(change=change).carry(around, network.get_submodule(around), None)
    return finished(network, with_part(network, around, whole), replaced=path)


def _head(module: nn.Module, path: str) -> str:
    """Where the head of a network is."""
    if isinstance(module, Recurrent | NoisyStateCell):
        return _head(module.cell, within(path, "cell"))
    if isinstance(module, Graph):
        read = module.output_reads[0] if len(module.output_reads) == 1 else None
        if not isinstance(read, Node) or read.name == "x":
            raise AdaptError(
                "the output of this graph is more than one node, so its head is not known: name it with at="
            )
        return _head(module.get_submodule(read.name), within(path, read.name))
    if isinstance(module, nn.Sequential):
        for name, part in reversed(list(module.named_children())):
            if next(part.parameters(), None) is not None:
                return _head(part, within(path, name))
    if not isinstance(module, (nn.Linear, *CONVOLUTIONS)):
        what = "is a module of your own" if not is_known(module) else "is no linear layer"
        raise AdaptError(f"{path or 'this network'!r}, a {type(module).__name__}, {what}: name the head with at=")
    return path


def _fresh(path: str, old: Any, outputs: int) -> nn.Module:
    if isinstance(outputs, bool) or outputs < 1:
        raise AdaptError(f"a head has a positive number of outputs, but {outputs!r} was passed")
    of: dict[str, Any] = {"bias": getattr(old, "bias", None) is not None}
    if isinstance(old, (nn.Linear, *CONVOLUTIONS)):
        of |= {"device": old.weight.device, "dtype": old.weight.dtype}
    if isinstance(old, nn.Linear):
        return nn.Linear(old.in_features, outputs, **of)
    if isinstance(old, CONVOLUTIONS):
        names = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
        return type(old)(old.in_channels, outputs, **{name: getattr(old, name) for name in names}, **of)
    raise AdaptError(
        f"{path!r} is a {type(old).__name__}, so a number of outputs ({outputs}) does not describe a new one:"
        " pass a module"
    )
