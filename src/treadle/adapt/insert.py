"""Another layer in a trained network, which at first changes nothing."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from treadle import state as states
from treadle.adapt.parts import CONVOLUTIONS, HANDING_ON, at_path, features_out, is_plain
from treadle.adapt.resize import rebuilt
from treadle.adapt.trainable import trainable
from treadle.cells import RecurrentCell
from treadle.control.loop import ClosedLoop
from treadle.errors import AdaptError
from treadle.running.recurrent import Recurrent
from treadle.torch_internals import BatchNorm
from treadle.wiring import Graph, NoisyStateCell
from treadle.wiring.graph import Delayed, Node, sum_of
from treadle.wiring.sizes import is_cell, output_size


@trainable
def insert_layer(network: nn.Module, at: str, layer: nn.Module | None = None, *, name: str = "inserted") -> Any:
    """A copy of a network with one more layer, after the part at ``at``; at first its outputs are unchanged.

    In a wiring, the new layer is added to what it reads through a linear map that starts at zero (a convolution of one
    pixel for images):

        y_at + out(layer(y_at))         out = 0 at first

    so it may be anything, a cell or a module without memory, of any size. Both are in one new node, a `treadle.Graph`
    whose nodes are called ``layer`` and ``out``; so ``td.adapt.freeze(network, except_="cell.inserted")`` trains
    both. The map gets a gradient from the first step on, the layer itself from the second, once the map is not zero.
    Whoever read the part, now or late, reads the new node. Everything else keeps its name, so states do too; a
    `treadle.Stack` becomes a `treadle.Graph`, as does a cell alone.

    In a `torch.nn.Sequential`, the layer itself starts as the identity: linear layers and convolutions (of odd kernels
    that keep the size) with ones on the diagonal, slopes of `PReLU` at one. Where parts are numbered, those behind it
    have a number one higher; where they have names, they keep them. It gets gradients from the first step on.

    Args:
        network: a wiring, a `treadle.Recurrent`, a `torch.nn.Sequential`, or any network that holds one.
        at: the path of the part behind which the layer comes: ``"cell.layer0"``, ``"features.3"``; the node ``"x"`` of
            a graph is its input. Of a cell alone, it is ``""``.
        layer: the layer. By default, behind a cell one of the same class, behind a linear layer or a convolution one
            of the same kind.
        name: what the new node is called, or the new part of a `torch.nn.Sequential` whose parts have names.

    Raises:
        AdaptError: there is no such part, no layer reads it (under the wiring ``"relay"`` layers hand on states, so
            only the last one can be followed), or the layer cannot start as the identity.

    Source: a residual branch that starts at zero is from Zhang, Dauphin and Ma, *Fixup Initialization*, 2019; the
    identity from Chen, Goodfellow and Shlens, *Net2Net*, 2016.

    Example:
        >>> import torch, treadle as td
        >>> rnn = td.Recurrent(td.Stack([td.LSTMCell(3, 8), td.GRUCell(8, 8)]))
        >>> deeper = td.adapt.insert_layer(rnn, "cell.layer0")
        >>> xs = torch.randn(2, 7, 3)
        >>> torch.allclose(deeper(xs)[0], rnn(xs)[0], atol=1e-6)
        True
        >>> sorted(deeper.initial_state(1))
        ['inserted', 'layer0', 'layer1']
    """
    owner_path, _, last = at.rpartition(".") if isinstance(at, str) else ("", "", at)
    if last != "x":
        at_path(network, at)
    if layer is not None and not isinstance(layer, nn.Module):
        raise AdaptError(f"layer is a module, such as td.GRUCell(8, 8), but {layer!r:.60} was passed")
    whole = copy.deepcopy(network)
    owner: Any = whole.get_submodule(at_path(network, owner_path))
    part: Any = owner if last == "x" else whole.get_submodule(at)
    if isinstance(owner, nn.RNNBase) or isinstance(part, nn.RNNBase):
        raise AdaptError(
            f"{at!r}: an LSTM of torch.nn's form has no place for a layer that starts as the identity; insert it into"
            " td.LSTM(…).recurrent(), a network of the same layers that has"
        )
    around: Any = whole.get_submodule(owner_path.rpartition(".")[0])
    if isinstance(around, ClosedLoop) and owner is around.cell and last != "controller":
        raise AdaptError(f"{at!r}: of a closed loop, its controller can be followed: pass at='cell.controller'")
    if isinstance(owner, Graph) and last in owner.nodes and not isinstance(around, ClosedLoop):
        path, new = owner_path, _in_graph(owner, at, last, layer, name)
        before = partial(_read_late_before, last, name)
    elif isinstance(owner, nn.Sequential) and last in owner._modules and is_plain(owner):
        path, new, before = owner_path, _in_sequential(owner, at, last, layer, name), lambda name: []
    elif is_cell(part) and not isinstance(part, Recurrent | Graph | NoisyStateCell):
        path, new = at, _behind_cell(part, layer, name)
        before = _alone_before
    else:
        raise AdaptError(
            f"{at!r} is a {type(part).__name__} in a {type(owner).__name__}: a layer can be inserted behind a node of a"
            " Graph or Stack, behind a part of a Sequential, or behind a cell alone, such as at='cell' of a Recurrent"
        )
    if not path:
        return new
    outer, _, place = path.rpartition(".")
    whole.get_submodule(outer)._modules[place] = new
    for module in whole.modules():
        if isinstance(module, Recurrent) and module.learn_initial_state:
            _learn_more(module, before)
    return whole


def _in_graph(graph: Graph, at: str, last: str, layer: nn.Module | None, name: str) -> Graph:
    if not any(read.name == last and isinstance(read, Node | Delayed) for read in graph.all_reads):
        raise AdaptError(
            f"no layer reads the output of {at!r}: under 'relay' layers hand on their states, so a layer can come"
            " behind the last of them only"
        )
    if name in graph.nodes:
        raise AdaptError(f"there is a node {name!r} already: pass another name=")
    size = graph.nodes[last].size
    if not size:
        what = "reads tokens" if last == "x" else "is of unknown size"
        raise AdaptError(f"{at!r} {what}, so nothing can be added to it: insert behind a part that gives features")
    branch = Graph(size)
    module = _made(graph, None if last == "x" else graph.get_submodule(last), at, layer, size)
    read = branch.add("layer", module, reads=branch.x)
    given = output_size(module, size)
    if given is None or len(given) != len(size) or given[1:] != size[1:]:
        raise AdaptError(f"the layer makes {given} of rows of {size}: pass one that keeps all axes but the features")
    added = branch.add("out", _zeros(given, size, graph), reads=read)
    branch.outputs(sum_of(branch.x, added)).train(graph.training)
    return graph.rewired({name: branch}, rename={last: name})


def _behind_cell(cell: Any, layer: nn.Module | None, name: str) -> Graph:
    """A cell alone as a graph in which it is the first node, called ``layer0`` as in a stack."""
    alone = Graph(getattr(cell, "input_size", None))
    alone.outputs(alone.add("layer0", cell, reads=alone.x)).training = cell.training
    return _in_graph(alone, "layer0", "layer0", layer, name)


def _made(graph: Graph, before: Any, at: str, layer: nn.Module | None, size: tuple[int, ...]) -> Any:
    if layer is not None:
        return _alike(copy.deepcopy(layer), graph)
    if not isinstance(before, RecurrentCell):
        kind = type(before).__name__ if before is not None else "the input"
        raise AdaptError(f"{at!r} is {kind}, which does not say what kind of layer is wanted behind it: pass layer=")
    return rebuilt(at, before, size[0], size[0])


def _alike(layer: nn.Module, before: nn.Module) -> nn.Module:
    like = next((p for p in before.parameters() if p.is_floating_point()), None)
    return layer if like is None else layer.to(device=like.device, dtype=like.dtype)


def _zeros(given: tuple[int, ...], wanted: tuple[int, ...], graph: Graph) -> nn.Module:
    kinds = {1: nn.Linear, 2: nn.Conv1d, 3: nn.Conv2d, 4: nn.Conv3d}
    kernel = () if len(given) == 1 else (1,)
    module = kinds[len(given)](given[0], wanted[0], *kernel)
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return _alike(module, graph)


def _read_late_before(node: str, inserted: str, name: str) -> list[str]:
    """What a state was called before another node came behind a node."""
    return ["/".join(f"{node}|delayed" if part == f"{inserted}|delayed" else part for part in name.split("/"))]


def _alone_before(name: str) -> list[str]:
    """What a state was called before its cell became the first layer of a graph."""
    parts = name.split("/")
    return ["/".join(parts[:k] + parts[k + 1 :]) for k, part in enumerate(parts) if part == "layer0"]


def _learn_more(around: Recurrent, before: Callable[[str], list[str]]) -> None:
    """A learned initial state, with what is new in it as it begins by itself; ``before`` says how names were."""
    rows = states.named_tensors(around.cell.initial_state(1))
    learned: dict[str, nn.Parameter] = {}
    for name, row in rows:
        key = name.replace(".", "|")
        if row.is_floating_point():
            kept = next((around.initial[was] for was in (key, *before(key)) if was in around.initial), None)
            learned[key] = nn.Parameter(row[0].detach().clone()) if kept is None else kept
    around.initial = nn.ParameterDict(learned)


def _in_sequential(owner: nn.Sequential, at: str, last: str, layer: nn.Module | None, name: str) -> nn.Sequential:
    parts = list(owner._modules.items())
    numbered = [n for n, _ in parts] == [str(k) for k in range(len(parts))]
    if not numbered and name in owner._modules:
        raise AdaptError(f"there is a part {name!r} already: pass another name=")
    place = [n for n, _ in parts].index(last)
    size, shaper = _gives([part for _, part in parts[: place + 1] if part is not None], at)
    if layer is None:
        like: Any = shaper
        of = {"device": like.weight.device, "dtype": like.weight.dtype}
        layer = (
            type(like)(size, size, 3, padding=1, **of)
            if isinstance(like, CONVOLUTIONS)
            else nn.Linear(size, size, **of)
        )
    new = _as_identity(copy.deepcopy(layer))
    shape = (2, size, *[5] * (CONVOLUTIONS.index(type(shaper)) + 1)) if isinstance(shaper, CONVOLUTIONS) else (2, size)
    like = next(new.parameters(), torch.zeros(0))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(like)
    try:
        with torch.no_grad():
            y = copy.deepcopy(new).eval()(x)
    except RuntimeError as error:
        raise AdaptError(
            f"the layer cannot read what {at!r} gives, {size} features: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(y, torch.Tensor) or y.shape != x.shape or not torch.allclose(y, x, atol=1e-6):
        raise AdaptError(
            f"{type(new).__name__} cannot start as the identity on {size} features: pass linear layers or convolutions"
            " that keep all sizes, with PReLU between them"
        )
    parts.insert(place + 1, (name, new.train(owner.training)))
    owner._modules.clear()
    for k, (n, part) in enumerate(parts):
        owner.add_module(str(k) if numbered else n, part)
    return owner


def _gives(parts: list[nn.Module], at: str) -> tuple[int, Any]:
    """How many features come out of the last of some parts, and the linear layer or convolution that made them."""
    for part in reversed(parts):
        if isinstance(part, nn.Sequential):
            return _gives(list(part), at)
        if isinstance(part, (nn.Linear, *CONVOLUTIONS)):
            return features_out(part) or 0, part
        norm = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, BatchNorm)
        if not isinstance(part, (*HANDING_ON, nn.PReLU, *norm)):
            break
    raise AdaptError(f"it is not known how many features {at!r} gives: insert behind a linear layer or a convolution")


@torch.no_grad()
def _as_identity(layer: nn.Module) -> nn.Module:
    for module in layer.modules():
        if isinstance(module, nn.Linear) and module.in_features == module.out_features:
            nn.init.eye_(module.weight)
        elif isinstance(module, CONVOLUTIONS) and module.in_channels == module.out_channels:
            nn.init.dirac_(module.weight, module.groups)
        elif isinstance(module, nn.PReLU):
            nn.init.ones_(module.weight)
            continue
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    return layer
