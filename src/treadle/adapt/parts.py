"""Parts of a network by their paths: what they read and give, how much is known of them, and how one is replaced."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from torch import nn

from treadle.adapt.patterns import close_to, names_it
from treadle.errors import AdaptError
from treadle.running.bidirectional import Bidirectional
from treadle.running.recurrent import Recurrent
from treadle.running.reversed import Reversed
from treadle.seq2seq import EncoderDecoder
from treadle.wiring import Graph, NoisyStateCell
from treadle.wiring.sizes import is_cell

HANDING_ON = (
    *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardtanh),
    *(nn.Tanh, nn.Sigmoid, nn.Hardsigmoid, nn.Hardswish, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Threshold),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.Upsample),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
    *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d),
)
"""Modules without numbers of their own that treat every feature, or every channel, alike."""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def features_in(module: nn.Module) -> int | None:
    """How many features, or channels, a module reads; None if it does not say."""
    if isinstance(module, nn.Sequential):
        return _first_known(map(features_in, module))
    return _stated(module, ("in_features", "in_channels", "input_size", "num_features"))


def features_out(module: nn.Module) -> int | None:
    """How many features, or channels, a module gives; None if it does not say."""
    if isinstance(module, nn.Sequential):
        return _first_known(map(features_out, reversed(module)))
    if isinstance(module, nn.RNNBase):
        return (module.proj_size or module.hidden_size) * (2 if module.bidirectional else 1)
    if isinstance(module, nn.LayerNorm | nn.RMSNorm) and len(module.normalized_shape) == 1:
        return module.normalized_shape[0]
    return _stated(module, ("out_features", "out_channels", "output_size", "num_features"))


def _first_known(counts: Iterable[int | None]) -> int | None:
    return next((count for count in counts if count is not None), None)


def _stated(module: Any, names: Sequence[str]) -> int | None:
    found = _first_known(getattr(module, name, None) for name in names)
    if found is None:
        return module.num_parameters if isinstance(module, nn.PReLU) and module.num_parameters > 1 else None
    return first(found) if isinstance(found, tuple) else found


def first(size: tuple[int, ...] | None) -> int:
    """The features of a row of that size, which are its first axis; 0 where there are none, or nobody knows."""
    return size[0] if size else 0


M = TypeVar("M", bound=nn.Module)

KNOWN = (Recurrent, Bidirectional, Reversed, Graph, NoisyStateCell, nn.Sequential, nn.RNNBase)
"""Networks of parts whose connections are known."""


def is_plain(module: nn.Sequential) -> bool:
    """Whether a sequence calls its parts one after another, and not in a ``forward`` of a user's own."""
    return type(module).forward is nn.Sequential.forward


def is_known(module: nn.Module) -> bool:
    """Whether it is known how the parts of a module are connected, or whether it is a part itself."""
    own = isinstance(module, EncoderDecoder) or (not is_cell(module) and next(module.children(), None) is not None)
    if isinstance(module, nn.Sequential) and not is_plain(module):
        return False
    return isinstance(module, KNOWN) or not own


def outermost(network: nn.Module, path: str) -> str:
    """The path of the outermost part on the way to a part of which it is known how it is connected."""
    names = path.split(".") if path else []
    for k in range(len(names) + 1):
        if is_known(network.get_submodule(".".join(names[:k]))):
            return ".".join(names[:k])
    return path


def at_path(network: nn.Module, at: Any) -> str:
    """A path, once there is a part of that name."""
    names = [name for name, _ in network.named_modules() if name]
    if not isinstance(at, str) or (at and at not in names):
        raise AdaptError(f"at={at!r} is no part of this {type(network).__name__}{close_to(str(at), names)}")
    return at


def within(path: str, name: str) -> str:
    """The path of a part of the part at ``path``."""
    return f"{path}.{name}" if path else name


def copied_without(network: nn.Module, owner: nn.Module, names: Iterable[str]) -> Any:
    """A copy of a network in which parts of its module ``owner`` are missing: they are not copied, to be replaced."""
    held = dict(owner._modules)
    owner._modules.update(dict.fromkeys(names))
    try:
        return copy.deepcopy(network)
    finally:
        owner._modules.update(held)


def with_part(network: nn.Module, path: str, part: Any) -> Any:
    """A copy of a network in which another part stands at a path."""
    if not path:
        return part
    owner, _, name = path.rpartition(".")
    new = copied_without(network, network.get_submodule(owner), [name])
    new.get_submodule(owner)._modules[name] = part
    return new


def finished(old: M, new: Any, replaced: str | None = None) -> M:
    """A changed copy of a network, with modes, what is frozen and what is tied as in the old one, by name.

    What is at the path ``replaced`` has nothing to do with the old part, though it has its name.
    """
    modes = dict(old.named_modules())
    for name, module in new.named_modules():
        if name in modes:
            module.training = modes[name].training
    groups: dict[int, list[str]] = {}
    for name, parameter in old.named_parameters(remove_duplicate=False):
        if replaced is not None and names_it(replaced, name):
            continue
        groups.setdefault(id(parameter), []).append(name)
        try:
            new.get_parameter(name).requires_grad_(parameter.requires_grad)
        except AttributeError:
            continue
    for first, *others in groups.values():
        for name in others:
            one, other = new.get_parameter(first), new.get_parameter(name)
            if one is other:
                continue
            if one.shape != other.shape:
                raise AdaptError(
                    f"{first} and {name} are one weight, but would be {list(one.shape)} and {list(other.shape)}: untie"
                    " them first, or change both in one way"
                )
            owner, _, attribute = name.rpartition(".")
            setattr(new.get_submodule(owner), attribute, one)
    return new
