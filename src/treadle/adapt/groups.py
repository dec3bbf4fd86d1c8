"""Parameter groups for an optimiser: learning rates of parts, and which parameters must not decay."""

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from treadle.adapt.patterns import chosen, names_it
from treadle.errors import AdaptError
from treadle.torch_internals import NormWithStatistics

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm, NormWithStatistics)


def parameter_groups(
    model: nn.Module,
    weight_decay: float = 0.01,
    *,
    rates: Mapping[str, float] | None = None,
    frozen: bool = False,
) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser: with and without weight decay, each at its own learning rate.

    Weight decay applies to matrices only. It pulls towards zero, which is good for weights that multiply inputs. It is
    wrong for slopes of `PReLU`, biases, and the gains and biases of norms, so for everything with fewer than two axes,
    such as learned initial states.

    Args:
        model: any network.
        weight_decay: weight decay of matrices.
        rates: learning rates by pattern, such as ``{"head": 1e-3, "cell.layer0": 1e-5}``; the first pattern that names
            a parameter counts, and the rest has the optimiser's own rate. A pattern is the name of a part
            of the network or of a parameter, with ``*`` for anything.
        frozen: whether to include frozen parameters, for those that are unfrozen later: optimisers skip a parameter
            without a gradient.

    Returns:
        Groups for `torch.optim`. Without ``rates`` two, decaying first; with them up to two for each rate, which have
        ``"lr"`` set. Shared parameters come once, by the first of their names.

    Raises:
        AdaptError: a pattern that names no parameter, or a rate or a decay that is negative or not a number.

    Example:
        >>> import torch, treadle as td
        >>> rnn = td.Recurrent(td.LSTMCell(3, 5))
        >>> optimiser = torch.optim.AdamW(td.adapt.parameter_groups(rnn, 0.1), lr=0.01)
        >>> decaying, resting = optimiser.param_groups
        >>> decaying["weight_decay"], resting["weight_decay"], len(resting["params"])
        (0.1, 0.0, 2)
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.PReLU(5), torch.nn.Linear(5, 2))
        >>> groups = td.adapt.parameter_groups(model, rates={"2": 1e-2, "*": 1e-4})
        >>> for group in groups:
        ...     print(group["lr"], group["weight_decay"], len(group["params"]))
        0.01 0.01 1
        0.01 0.0 1
        0.0001 0.01 1
        0.0001 0.0 2
    """
    if isinstance(weight_decay, bool) or not isinstance(weight_decay, int | float) or not 0 <= weight_decay < math.inf:
        raise AdaptError(f"weight_decay is 0 or a positive number, but {weight_decay!r} was passed")
    rates = dict(rates or {})
    for pattern, rate in rates.items():
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < float("inf"):
            raise AdaptError(f"the learning rate of {pattern!r} is 0 or a positive number, but {rate!r} was passed")
    chosen(rates, [name for name, _ in model.named_parameters(remove_duplicate=False)])
    groups: dict[tuple[float | None, bool], list[nn.Parameter]] = {
        (rate, rests): [] for rate in [*dict.fromkeys(rates.values()), None] for rests in (False, True)
    }
    seen = set()
    for path, owner in model.named_modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter in seen or not (frozen or parameter.requires_grad):
                continue
            seen.add(parameter)
            whole = f"{path}.{name}" if path else name
            rate = next((rate for pattern, rate in rates.items() if names_it(pattern, whole)), None)
            rests = isinstance(owner, (nn.PReLU, *NORMS)) or parameter.ndim < 2 or "bias" in name
            groups[rate, rests].append(parameter)
    return [
        {"params": found, "weight_decay": 0.0 if rests else weight_decay} | ({} if rate is None else {"lr": rate})
        for (rate, rests), found in groups.items()
        if found or not rates
    ]
