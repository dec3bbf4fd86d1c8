"""Freezing: which parts of a network train, and when."""

import copy
from collections.abc import Collection, Iterable, Sequence
from typing import Generic, TypeVar

from torch import nn

from treadle.adapt.patterns import chosen
from treadle.errors import AdaptError

M = TypeVar("M", bound=nn.Module)


def freeze(model: M, except_: Iterable[str] | str = ()) -> M:
    """A copy of a network with all parameters frozen, except those that are named.

    The network that was passed does not change: train the one that is returned. Only parameters are frozen; the running
    statistics of a `BatchNorm` still change in training mode, unless ``.eval()`` is called on it. `gradient_report`
    says whether the trainable rest gets a gradient.

    Args:
        model: any network.
        except_: patterns of what is trained: names of parts (``"head"``) or parameters, with ``*`` for anything. These
            are trained even if they were frozen before.

    Raises:
        AdaptError: a pattern that names no parameter.

    Example:
        >>> import torch, treadle as td
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
        >>> tuned = td.adapt.freeze(model, except_="2")
        >>> learning = [name for name, parameter in tuned.named_parameters() if parameter.requires_grad]
        >>> learning
        ['2.weight', '2.bias']
        >>> all(parameter.requires_grad for parameter in model.parameters())
        True
    """
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    learning = {name for found in chosen(except_, names).values() for name in found}
    return _learning_only(copy.deepcopy(model), learning)


def _learning_only(network: M, names: Collection[str]) -> M:
    network.requires_grad_(False)
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if name in names:
            parameter.requires_grad_(True)
    return network


def unfreeze_gradually(model: M, stages: Sequence[Iterable[str] | str], every: int) -> "Thaw[M]":
    """A frozen copy of a network that is unfrozen stage by stage, usually from the head down.

    A new head on a trained network begins with large gradients, which would spoil the layers below it. So the head is
    trained alone first, then the layer below it as well, and so on.

    Args:
        model: any network.
        stages: the patterns of what is unfrozen at each stage: ``["head", "cell.layer1", "cell.layer0"]``. What no
            stage names stays frozen.
        every: steps of training from one stage to the next.

    Returns:
        A `Thaw`: its ``network`` is the copy, and its ``step()`` is called after each step of training (by
        `treadle.training.train`, if it gets it as ``thaw=``).

    Raises:
        AdaptError: a pattern that names no parameter, no stages, or no steps.

    Source: Howard and Ruder, *Universal Language Model Fine-tuning for Text Classification*, 2018.

    Example:
        >>> import torch, treadle as td
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
        >>> thaw = td.adapt.unfreeze_gradually(model, ["2", "0"], every=100)
        >>> optimiser = torch.optim.AdamW(td.adapt.parameter_groups(thaw.network, frozen=True), lr=0.01)
        >>> for _ in range(100):
        ...     optimiser.zero_grad()
        ...     thaw.network(torch.randn(4, 3)).square().mean().backward()
        ...     optimiser.step()
        ...     begun = thaw.step()
        >>> begun
        ['0.weight', '0.bias']
    """
    stages = [stages] if isinstance(stages, str) else list(stages)
    if not stages:
        raise AdaptError("there are no stages: pass the patterns of what learns first, second, …")
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise AdaptError(f"every is how many steps a stage has, a positive whole number, but {every!r} was passed")
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    found = [list(dict.fromkeys(n for group in chosen(stage, names).values() for n in group)) for stage in stages]
    return Thaw(freeze(model, found[0]), found, every)


class Thaw(Generic[M]):
    """A network that is unfrozen stage by stage; made by `unfreeze_gradually`.

    Its optimiser has to know all parameters from the beginning: ``parameter_groups(thaw.network, frozen=True)``. It can
    be a part of a `treadle.training.save_checkpoint`; `treadle.training.train` takes it with ``thaw=``, calls its
    ``step()`` and keeps it in checkpoints.

    Args:
        network: the network; its first stage is trainable.
        stages: the names of the parameters that are unfrozen at each stage.
        every: steps of training from one stage to the next.
    """

    def __init__(self, network: M, stages: list[list[str]], every: int):
        self.network, self.stages, self.every, self.steps = network, stages, every, 0

    @property
    def stage(self) -> int:
        """The present stage, from 0."""
        return min(self.steps // self.every, len(self.stages) - 1)

    def step(self) -> list[str]:
        """Count a training step; unfreeze the next stage when it is due.

        Returns:
            The names of the parameters that were unfrozen.
        """
        before, self.steps = self.stage, self.steps + 1
        if self.stage == before:
            return []
        parameters = dict(self.network.named_parameters(remove_duplicate=False))
        begun = [name for name in self.stages[self.stage] if not parameters[name].requires_grad]
        for name in begun:
            parameters[name].requires_grad_(True)
        return begun

    def state_dict(self) -> dict[str, int]:
        """For a checkpoint."""
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restore the stage: what was unfrozen then is unfrozen, and nothing else."""
        self.steps = state["steps"]
        _learning_only(self.network, {name for names in self.stages[: self.stage + 1] for name in names})

    def __repr__(self) -> str:
        return f"Thaw(stage {self.stage + 1} of {len(self.stages)}, {self.steps} steps done)"
