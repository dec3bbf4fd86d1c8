"""More inputs, and more units, without a change of what a network does."""

from collections.abc import Iterable
from typing import Any, TypeVar

from torch import nn

from treadle.adapt.carry import Carrier
from treadle.adapt.parts import (
    CONVOLUTIONS,
    KNOWN,
    TRANSPOSED,
    at_path,
    features_in,
    features_out,
    finished,
    is_known,
    outermost,
    with_part,
)
from treadle.adapt.patterns import close_to, names_it
from treadle.adapt.places import STARTS, Changed, Places, Start, appended
from treadle.adapt.resize import resized_inputs
from treadle.adapt.trainable import trainable
from treadle.adapt.wider import grown_cell, grown_layer, read_wider
from treadle.errors import AdaptError
from treadle.seq2seq import EncoderDecoder
from treadle.wiring.mean import MeanCell
from treadle.wiring.sizes import is_cell

M = TypeVar("M", bound=nn.Module)


@trainable
def grow_inputs(network: M, size: int, *, at: str = "", start: Start = "zeros") -> M:
    """A copy of a network that reads ``size`` features, or channels; the new ones come after the old.

    Whatever reads the input gets weights for what is new. With ``start="zeros"`` the outputs are what they were,
    whatever the new inputs hold, and the new weights get a gradient from the first step on. Otherwise they are what
    they were only while the new inputs are zero.

    Args:
        network: a cell, a wiring, a `treadle.Recurrent`, a drop-in or `torch.nn`'s LSTM, GRU and RNN, a linear layer, a
            convolution, or a `torch.nn.Sequential` of these. For a module of your own, say with ``at`` which of its
            parts reads the input.
        size: the new number of features (channels of images).
        at: the path of the part that is to read more: ``"rnn"``, ``"features"``.
        start: how the new weights start: ``"zeros"``, ``"xavier"`` or ``"mean"``; see `treadle.adapt.Widen`.

    Raises:
        AdaptError: the size is not larger, a part cannot read more without a change of what it does (a norm over all
            features), or it is not known which part reads the input.

    Example:
        >>> import torch, treadle as td
        >>> rnn = td.Recurrent(td.Stack([td.LSTMCell(3, 8), td.LSTMCell(11, 8)], wiring="skip"))
        >>> wider = td.adapt.grow_inputs(rnn, 5)
        >>> xs = torch.randn(2, 7, 5)
        >>> torch.allclose(wider(xs)[0], rnn(xs[..., :3])[0], atol=1e-6)
        True
    """
    at, part = at_path(network, at), network.get_submodule(at)
    if start not in STARTS:
        raise AdaptError(f"new weights start as {', '.join(STARTS)}, but {start!r} was passed")
    if not is_known(part):
        raise AdaptError(_say_where(part, "reads the input"))
    if (around := outermost(network, at)) != at:
        raise AdaptError(f"what reads beside {at!r} is known to {around!r}: grow that one, with at={around!r}")
    old = features_in(part)
    if old is None:
        raise AdaptError(f"this {type(part).__name__} does not say how many features it reads: give it an input_size")
    _check_size(size, old, "features")
    new, _ = Carrier(start).carry(at, part, appended(old, size))
    return finished(network, with_part(network, at, new))


@trainable
def grow_hidden(
    network: M, size: int, *, at: str | Iterable[str] | None = None, readers: Iterable[str] | str | None = None
) -> M:
    """A copy of a network with ``size`` units in its cells; the new ones come after the old, which do not change.

    Nothing leads from new units to old ones at first: these weights are zero. All others of the new units start as they
    would in a new cell. So the old outputs are what they were, and the weights that lead out of the new units get a
    gradient from the first step on; those that lead into them from the second on, once there is a way out.

    Inside a network whose connections are known, the layers that read the grown cells get weights for the new units,
    and the output stays as it was. Where nothing does, because the cells are the last thing there is, the output grows
    by the new units, behind the old.

    Args:
        network: a cell, a wiring, a `treadle.Recurrent`, a drop-in or `torch.nn`'s LSTM, GRU and RNN, or a
            `torch.nn.Sequential`. For a module of your own, say with ``at`` which of its parts grows, and with
            ``readers`` who reads what that one gives.
        size: the new number of units; cells that have as many already stay as they are.
        at: patterns of the cells to grow, such as ``"cell.layer1"``; all cells by default. Linear layers and
            convolutions grow if they are named. Of a module of your own, the path of the part.
        readers: in a module of your own, the paths of the parts that read what grows: ``["head"]``; ``()`` says that
            none does.

    Raises:
        AdaptError: the size is smaller, a cell cannot grow without a change (as with a norm over its units, or units
            divided into heads), sizes would not fit any more (residual sums, relayed states), or it is not known
            what reads the part.

    Source: the idea of growing without a change of the function is from Chen, Goodfellow and Shlens, *Net2Net*, 2016;
    zeros on the way out, rather than copies of units, are in Evci et al., *GradMax*, 2022.

    Example:
        >>> import torch, treadle as td
        >>> class Tagger(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.rnn = torch.nn.LSTM(3, 8, batch_first=True)
        ...         self.head = torch.nn.Linear(8, 2)
        ...     def forward(self, xs):
        ...         return self.head(self.rnn(xs)[0])
        >>> tagger = Tagger()
        >>> larger = td.adapt.grow_hidden(tagger, 12, at="rnn", readers="head")
        >>> larger.rnn.hidden_size, larger.head.in_features
        (12, 12)
        >>> xs = torch.randn(2, 7, 3)
        >>> torch.allclose(larger(xs), tagger(xs), atol=1e-6)
        True
    """
    if isinstance(network, EncoderDecoder):
        raise AdaptError("the bridge of an EncoderDecoder reads every state: build a larger one, and transplant")
    _check_size(size, 0, "units")
    patterns = None if at is None else [at] if isinstance(at, str) else list(at)
    if is_known(network):
        if readers is not None:
            raise AdaptError("readers= is for modules of your own: who reads in this network is known")
        new, _ = _grown(network, "", size, patterns)
        return finished(network, new)
    if not isinstance(at, str):
        raise AdaptError(_say_where(network, "grows"))
    path = outermost(network, at_path(network, _existing(network, at)))
    part, names = network.get_submodule(path), [readers] if isinstance(readers, str) else list(readers or ())
    new, gives = _grown(part, path, size, patterns)
    if gives is not None and readers is None:
        raise AdaptError(
            f"{path!r} will give {len(gives)} features instead of {features_out(part)}: say who reads them, such as"
            " readers=['head'], or readers=() if none does"
        )
    result = with_part(network, path, new)
    for name in names:
        reader = network.get_submodule(at_path(network, name))
        if gives is None:
            continue
        if not is_known(reader):
            raise AdaptError(f"{name!r} is a module of your own: name the part in it that reads, such as '{name}.0'")
        if (reads := features_in(reader)) != features_out(part):
            raise AdaptError(
                f"{name!r} reads {reads} features, but {path!r} gives {features_out(part)}: name the parts that read"
                " these alone"
            )
        wider, after = Carrier().carry(name, reader, gives)
        if after is not None:
            raise AdaptError(f"{name!r} only hands on what it reads: name the part that reads it then, too")
        result = with_part(result, name, wider)
    return finished(network, result)


def _grown(part: nn.Module, path: str, size: int, patterns: list[str] | None) -> Changed:
    """A part with ``size`` units in the cells that the patterns name, and the places of what it gives."""
    used: set[str] = set()
    seen: list[str] = []

    def change(path: str, module: Any, places: Places) -> Changed | None:
        layer = isinstance(module, (nn.Linear, *CONVOLUTIONS, *TRANSPOSED))
        # A mean has no units of its own: it is as wide as what it reads.
        if isinstance(module, (*KNOWN, MeanCell)) or not (is_cell(module) or (layer and patterns is not None)):
            return None
        seen.append(path)
        named = {pattern for pattern in patterns or () if names_it(pattern, path)}
        used.update(named)
        if patterns is not None and not named:
            return None
        if is_cell(module):
            module = module if places is None else resized_inputs(path, module, places, "zeros")
            return grown_cell(path, module, size)
        old = features_out(module) or 0
        _check_size(size, old, "units")
        return grown_layer(path, read_wider(path, module, places, "zeros")[0], size, "xavier")

    found = Carrier(change=change).carry(path, part, None)
    for pattern in patterns or ():
        if pattern not in used:
            raise AdaptError(f"{pattern!r} names nothing that could grow{close_to(pattern, seen)}")
    if not seen:
        raise AdaptError(f"there is no cell in this {type(part).__name__}: say with at= which of its layers grows")
    return found


def _existing(network: nn.Module, at: str) -> str:
    """The part of a path that there is: layers of an LSTM are no parts of their own."""
    names = {name for name, _ in network.named_modules()}
    pieces = at.split(".")
    for k in range(len(pieces), 0, -1):
        if (path := ".".join(pieces[:k])) in names:
            return path
    return at


def _say_where(module: nn.Module, what: str) -> str:
    names = [name for name, _ in module.named_children()]
    return (
        f"it is not known which part of this {type(module).__name__} {what}: pass at={names[0] if names else ''!r}"
        + (f" or another of {', '.join(names)}" if len(names) > 1 else "")
    )


def _check_size(size: Any, old: int, what: str) -> None:
    if not isinstance(size, int) or isinstance(size, bool) or size < max(old, 1):
        raise AdaptError(
            f"there are {old} {what}, and networks grow only: pass {old} or more, not {size!r}"
            if old
            else f"size is a positive whole number of {what}, but {size!r} was passed"
        )
