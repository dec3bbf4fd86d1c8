"""Which layers of a network get a gradient from a batch, and how large it is."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from treadle.adapt.patterns import chosen
from treadle.adapt.table import table
from treadle.errors import AdaptError
from treadle.generators import generators, generators_at


@dataclasses.dataclass(frozen=True)
class LayerGradient:
    """The gradient of one layer: a row of a `GradientReport`.

    Args:
        name: the layer, in the network; ``""`` is the network itself.
        kind: its class.
        parameters: how many numbers it has of its own.
        verdict: ``"learns"``; ``"frozen"``, if none of its parameters learns; ``"not reached"``, if the loss does not
            depend on them, as behind a ``detach``; ``"zero"``, if it does, but the gradient is zero everywhere, as
            behind weights of zeros or dead units; ``"not finite"``.
        gradient: the norm of the gradient of its parameters that learn; 0 if nothing arrives.
        weight: the norm of these parameters.
    """

    name: str
    kind: str
    parameters: int
    verdict: str
    gradient: float
    weight: float

    @property
    def relative(self) -> float:
        """The gradient's norm in units of the weights' own."""
        return self.gradient / self.weight if self.weight else 0.0


@dataclasses.dataclass(frozen=True)
class GradientReport:
    """How strongly gradients arrive at every layer; it prints as a table.

    Args:
        rows: a `LayerGradient` for every layer with parameters, in the network's order.
        loss: the loss that was followed back; None if none was named.
    """

    rows: tuple[LayerGradient, ...]
    loss: float | None

    @property
    def learning(self) -> list[str]:
        """The layers that a gradient reaches."""
        return [row.name for row in self.rows if row.verdict == "learns"]

    def __getitem__(self, name: str) -> LayerGradient:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def __iter__(self) -> Iterator[LayerGradient]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        def number(value: float) -> str:
            return f"{value:.3g}" if value else ""

        rows = [
            (r.name or "(itself)", r.kind, f"{r.parameters:,}", r.verdict, number(r.gradient), number(r.relative))
            for r in self.rows
        ]
        return table(("layer", "", "parameters", "", "gradient", "/ weights"), rows, right=(2, 4, 5))

    __repr__ = __str__


def gradient_report(
    model: nn.Module, batch: Any, loss: Callable[..., Tensor] | None = None, at: Sequence[str] | str | None = None
) -> GradientReport:
    """Which layers get a gradient: will the first layer learn anything if the rest is frozen?

    A frozen layer does not learn, but it lets gradients through to those below it. A layer gets none if its output is
    detached, or computed under ``torch.no_grad()``, or never used; it gets zeros if everything above it multiplies by
    zero. One forward and one backward pass; nothing is left in ``.grad``, and buffers (what a `BatchNorm` counts) and
    random generators are as they were.

    Args:
        model: any network, in the mode (training or evaluation) that it is to be looked at in.
        batch: what it is called with, or a pair of that and what the loss compares with: ``(inputs, targets)``.
        loss: from the network's output, and the second of the pair, to one number. Where the network gives a tuple, as
            recurrent networks do, its first part is the output. Without a loss it is the output along a random
            direction, which every part of the output has a share in.
        at: patterns of the layers to report; all by default.

    Raises:
        AdaptError: the loss is not one number, a batch is no tensor or has no rows, or a pattern names no layer.

    Example:
        >>> import torch, treadle as td
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
        >>> tuned = td.adapt.freeze(model, except_="0")
        >>> report = td.adapt.gradient_report(tuned, torch.randn(4, 3))
        >>> report["0"].verdict, report["2"].verdict
        ('learns', 'frozen')
        >>> report["0"].gradient > 0
        True
    """
    pair = isinstance(batch, tuple | list) and len(batch) == 2
    inputs, target = (batch[0], batch[1:]) if pair else (batch, ())
    if not isinstance(inputs, Tensor):
        raise AdaptError(
            "a batch is a tensor, or a pair of one and what the loss compares with, but a"
            f" {type(batch).__name__} was passed"
        )
    if pair and loss is None:
        raise AdaptError("a pair (inputs, targets) was passed, but no loss that compares them: pass loss=")
    if not inputs.numel():
        raise AdaptError(
            f"a batch of {list(inputs.shape)} has no rows, so it gives no gradient: pass one that has rows"
        )
    layers = [
        (path, module)
        for path, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    if at is not None:
        found = chosen(at, [path for path, _ in layers], "layer with parameters").values()
        named = {path for paths in found for path in paths}
        layers = [(path, module) for path, module in layers if path in named]
    learning = [parameter for parameter in dict.fromkeys(model.parameters()) if parameter.requires_grad]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    with generators_at(inputs.device, generators(inputs.device)):
        try:
            with torch.inference_mode(False), torch.enable_grad():
                output = model(inputs)
                value = _loss(output, loss, target)
                reached: Sequence[Tensor | None] = [None] * len(learning)
                if value.requires_grad and learning:
                    reached = torch.autograd.grad(value, learning, allow_unused=True)
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
    gradients = dict(zip(learning, reached, strict=True))
    rows = [_row(path, module, gradients) for path, module in layers]
    return GradientReport(tuple(rows), None if loss is None else float(value.detach()))


def _loss(output: Any, loss: Callable[..., Tensor] | None, target: Sequence[Any]) -> Tensor:
    while isinstance(output, tuple | list) and output:
        output = output[0]
    if loss is None:
        if not isinstance(output, Tensor):
            raise AdaptError(
                f"the network gives a {type(output).__name__}, so its loss is not known: pass loss=, a function of it"
            )
        random = torch.Generator().manual_seed(0)
        direction = torch.randn(output.shape, generator=random, dtype=torch.float64).to(output)
        return (output * direction).sum() / max(1.0, math.sqrt(output.numel()))
    value = loss(output, *target)
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise AdaptError(f"the loss is one number, but {shape} came out: take its mean")
    return value.reshape(())


def _row(path: str, module: nn.Module, gradients: dict[nn.Parameter, Tensor | None]) -> LayerGradient:
    own = list(module.parameters(recurse=False))
    learning = [parameter for parameter in own if parameter in gradients]
    arrived = [gradient for parameter in learning if (gradient := gradients[parameter]) is not None]
    norm = _norm(arrived)
    if not learning:
        verdict = "frozen"
    elif not arrived:
        verdict = "not reached"
    elif not math.isfinite(norm):
        verdict = "not finite"
    else:
        verdict = "learns" if norm else "zero"
    count = sum(parameter.numel() for parameter in own)
    return LayerGradient(path, type(module).__name__, count, verdict, norm, _norm(learning))


def _norm(tensors: Sequence[Tensor]) -> float:
    # In float64: a gradient of 1e-30 is one, though its square is none in float32.
    return math.sqrt(sum(float(tensor.detach().double().square().sum()) for tensor in tensors))
