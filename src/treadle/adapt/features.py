"""How many features, or channels, a module reads and gives."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

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
