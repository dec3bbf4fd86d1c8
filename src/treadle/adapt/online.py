"""Learning while running: one step at a time, with the state carried on."""

import collections
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from treadle import state as states
from treadle.errors import DataError, ShapeError, StateError
from treadle.files.checkpoint import load_checkpoint, save_checkpoint
from treadle.protocol import State, first_weight
from treadle.running.recurrent import Recurrent


class Moment(NamedTuple):
    """A step in the history."""

    x: Tensor
    """What was read [1, I]."""
    y: Any
    """What the answer should have been, a tensor or a tuple of them; None where it is not known."""
    before: State
    """The state before it, as it was then."""
    begins: bool
    """Whether the state was set back to the initial one before it."""


class Online:
    """Online learning: the network predicts a step, gets the target, takes one optimiser step, and keeps its state.

    ::

        predict_one(x):   y(t) = model(x(t), state(t-1)), and nothing changes
        learn_one(x, y):  state(t) = the state after x(t)
                          L = loss(model over x(t-k+1) … x(t) from state(t-k), y(t))  + the same over replayed steps
                          the optimiser takes one step down the gradient of L

    The gradient goes back through the last ``horizon`` steps. With ``replays``, as many windows of that length out of
    the last ``history`` steps, from random places, run beside the newest as further rows of one batch, and the mean
    of their losses is added. So rare events are trained on more than once.

    **What is exact, and what is not.** Predictions and the carried state are those of a live run: state(t) was
    computed from state(t-1) with the weights of that time, and later weights do not change it. The gradient of L is
    exact for the steps of a window. It is approximate in two ways, as an estimate of the gradient of the whole past:
    it lacks what lies more than ``horizon`` steps back, and a window starts from the state that was carried then, which
    older weights made. The latter grows with the learning rate and, for replayed windows, with their age. Where the
    network is random in training (dropout, zoneout, noise on states), windows draw new masks; the carried state and
    predictions are without.

    Memory is bounded: the weights, the optimiser and ``history`` steps, each with its input, answer and state. Time for
    a step: one step live, and forwards and backwards over ``horizon`` steps of ``1 + replays`` rows.

    Args:
        model: a `treadle.Recurrent`, or a cell or wiring, which is put into one. With a head on top, it is a
            `treadle.Graph` of both.
        loss: from outputs [N, …] and as many answers to a scalar, such as `torch.nn.functional.mse_loss`. Answers may
            be tuples of tensors, such as an action and what came of it; each arrives with a first axis of N.
        optimiser: over the parameters that are to learn; by default Adam over all of them, with a rate of 0.001.
        horizon: the gradient horizon, in steps.
        history: steps that are remembered, at least ``horizon``.
        replays: how many earlier windows are replayed at each step.
        most: the norm to which gradients are clipped.
        seed: of the choice of windows.

    Raises:
        TypeError: ``model`` is no cell, or ``loss`` cannot be called.
        ValueError: ``horizon``, ``history``, ``replays`` or ``most`` is out of range, or the optimiser has no parameter
            of this network.

    Source: Williams and Peng, *An Efficient Gradient-Based Algorithm for On-Line Training of Recurrent Network
    Trajectories*, 1990 (it is their BPTT(h; 1)); of replay, Lin, *Self-Improving Reactive Agents Based On Reinforcement
    Learning, Planning and Teaching*, 1992. The method names are those of River.

    Example:
        >>> import torch, treadle as td
        >>> g = td.Graph(1)
        >>> memory = g.add("memory", td.GRUCell(1, 8), reads=g.x)
        >>> network = g.outputs(g.add("head", torch.nn.Linear(8, 1), reads=memory))
        >>> online = td.adapt.Online(network, torch.nn.functional.mse_loss, horizon=8, replays=2)
        >>> wave = torch.sin(0.3 * torch.arange(50))[:, None]
        >>> for x, following in zip(wave, wave[1:]):
        ...     guess = online.predict_one(x)                   # [1]; nothing changes
        ...     error = online.learn_one(x, following)
        >>> online.save("online.checkpoint")                    # network, state, history and optimiser
        >>> online.restore("online.checkpoint")                 # what follows is what would have followed
        {}
    """

    def __init__(
        self,
        model: Any,
        loss: Callable[[Tensor, Any], Tensor],
        optimiser: torch.optim.Optimizer | None = None,
        horizon: int = 16,
        history: int = 256,
        replays: int = 0,
        most: float = 1.0,
        seed: int = 0,
    ):
        if not callable(loss):
            raise TypeError(f"loss is a function of outputs and answers, but {loss!r:.60} was passed")
        bounds = {"horizon": (horizon, 1), "history": (history, horizon), "replays": (replays, 0)}
        for name, (value, least) in bounds.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} is a whole number of at least {least}, but {value!r:.40} was passed")
        if not most > 0:
            raise ValueError(f"most is a positive number, but {most!r:.40} was passed")
        self.model: Recurrent = model if isinstance(model, Recurrent) else Recurrent(model)
        self.loss, self.horizon, self.replays, self.most = loss, horizon, replays, most
        if optimiser is None:
            optimiser = torch.optim.Adam(self.model.parameters(), lr=0.001)
        self.optimiser = optimiser
        self._parameters = [one for group in optimiser.param_groups for one in group["params"]]
        if not {id(one) for one in self._parameters} & {id(one) for one in self.model.parameters()}:
            raise ValueError(
                "the optimiser has no parameter of this network, so nothing would be learned: make it from"
                " model.parameters()"
            )
        self._random = torch.Generator().manual_seed(seed)
        self._moments: collections.deque[Moment] = collections.deque(maxlen=history)
        self._example: Any = None
        self.model.eval()
        self.reset()

    def reset(self) -> None:
        """Continue from the initial state, as where another stream begins. Weights and history stay."""
        with torch.no_grad():
            self._state = states.kept(self.model.initial_state(1))
        self._begins = True

    @property
    def state(self) -> State:
        """The state after the last step, of one row, as a copy."""
        return states.kept(self._state)

    @property
    def remembered(self) -> int:
        """Steps that are in the history."""
        return len(self._moments)

    def predict_one(self, x: Any) -> Tensor:
        """The network's output for x, from its present state. Neither state nor weights change.

        Args:
            x: [I], or whatever a row of the network's input is: a tensor, an array, numbers.

        Returns:
            The output [H].

        Raises:
            DataError: x is not finite.
            ShapeError: x does not fit.
        """
        with torch.no_grad():
            y, _ = self.model.step(self._input(x), self._state)
        return y[0]

    def learn_one(self, x: Any, y: Any = None) -> float | None:
        """Read x, learn from y, and carry the state on.

        Args:
            x: as for `predict_one`.
            y: what the loss compares the output with: a number, an array, a tensor, or a tuple of these, of the same
                shapes at every step. None where it is not known: then only the state changes.

        Returns:
            The loss of this step before the update; None without a y.

        Raises:
            DataError: x or y is not finite, or the loss or its gradient is not. Then nothing has changed: not the
                weights, nor the state, nor the history.
            ShapeError: x does not fit, or y is not shaped like those before.
        """
        x = self._input(x)
        if y is not None:
            y = self._answer(y)
            _stack([self._example if self._example is not None else y, y])
        with torch.no_grad():
            _, after = self.model.step(x, self._state)
        for name, tensor in states.named_tensors(after):
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise DataError(f"the network's state {name} would not be finite after this step: nothing was learned")
        moment = Moment(x, y, self._state, self._begins)
        error = None if y is None else self._learn([*self._moments, moment][-self._moments.maxlen :])  # pyright: ignore[reportOptionalOperand]
        self._moments.append(moment)
        self._example = y if self._example is None else self._example
        self._state, self._begins = states.kept(after), False
        return error

    def _learn(self, moments: list[Moment]) -> float:
        """Take a step down the gradient of the last moment's loss, and of some windows before."""
        steps = min(self.horizon, len(moments))
        drawn_before = self._random.get_state()
        newest = len(moments) - steps
        drawn = torch.randint(newest + 1, (self.replays,), generator=self._random).tolist()
        windows = [moments[begin : begin + steps] for begin in (newest, *drawn)]
        try:
            error, total = self._losses(windows)
            if not total.isfinite():
                raise DataError(f"the loss is {float(total.detach())}: nothing was learned from this step")
            self.optimiser.zero_grad()
            total.backward()
            norm = nn.utils.clip_grad_norm_(self._parameters, self.most)
            if not norm.isfinite():
                raise DataError(f"the gradient's norm is {float(norm)}: nothing was learned from this step")
        except BaseException:
            self._random.set_state(drawn_before)
            self.optimiser.zero_grad()
            raise
        finally:
            self.model.eval()
        self.optimiser.step()
        return float(error.detach())

    def _losses(self, windows: list[list[Moment]]) -> tuple[Tensor, Tensor]:
        """The loss of the last step of the first window; and with it the mean loss of the answers in the others."""
        self.model.train()
        xs = torch.stack([torch.cat([moment.x for moment in window]) for window in windows])
        state = states.map_state(_cat, *(window[0].before for window in windows))
        begins = torch.tensor([[moment.begins for moment in window] for window in windows])
        by_row = self.model.batch_first
        ys, _ = self.model(xs if by_row else xs.transpose(0, 1), state, resets=begins if begins.any() else None)
        ys = ys if by_row else ys.transpose(0, 1)
        error = self.loss(ys[0, -1:], _stack([windows[0][-1].y]))
        answered = [[moment.y is not None for moment in window] for window in windows[1:]]
        answers = [moment.y for window in windows[1:] for moment in window if moment.y is not None]
        if not answers:
            return error, error
        return error, error + self.loss(ys[1:][torch.tensor(answered)], _stack(answers))

    def _input(self, x: Any) -> Tensor:
        tensor = self._tensor(x)[None]
        self.model.check_input(tensor, 1, "step")
        return _finite(tensor, "x")

    def _answer(self, y: Any) -> Any:
        return tuple(map(self._answer, y)) if isinstance(y, tuple) else _finite(self._tensor(y), "y")

    def _tensor(self, values: Any) -> Tensor:
        """A copy where the weights are, and in their precision."""
        tensor, weight = torch.as_tensor(values).detach().clone(), first_weight(self.model)
        if weight is None:
            return tensor
        return tensor.to(weight.device, weight.dtype if tensor.is_floating_point() else None)

    def save(self, path: str | os.PathLike[str], **parts: Any) -> None:
        """Write network, state, history and optimiser to one checkpoint file, with the random generators.

        Args:
            path: the file to write; the one before it stays as ``path.previous``.
            **parts: further parts, as `treadle.training.save_checkpoint` takes them.

        Raises:
            ModelFileError: a part is nothing that a file can hold.
            OSError: the file cannot be written; the last one is still there.
        """
        save_checkpoint(path, self.model, online=self, **parts)

    def restore(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Resume, bit for bit, from a file that `save` wrote.

        The `Online` must have been made with the same arguments. The file runs no code.

        Returns:
            The further parts, by name.

        Raises:
            ModelFileError: the file is no whole checkpoint, or one of another network.
            StateError: it was made with another horizon, history or number of replays.
            OSError: it cannot be read.
        """
        weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        try:
            return load_checkpoint(path, self.model, online=self)
        except BaseException:
            self.model.load_state_dict(weights)
            raise

    def state_dict(self) -> dict[str, Any]:
        """All that there is besides the network's weights, for a checkpoint."""
        moments = list(self._moments)
        return {
            "options": self._options(),
            "optimiser": self.optimiser.state_dict(),
            "state": self._state,
            "begins": self._begins,
            "random": self._random.get_state(),
            "xs": torch.cat([moment.x for moment in moments]) if moments else None,
            "ys": _stack(answers) if (answers := [one.y for one in moments if one.y is not None]) else None,
            "answered": [moment.y is not None for moment in moments],
            "states": states.map_state(_cat, *(one.before for one in moments)) if moments else None,
            "example": self._example,
            "begun": [moment.begins for moment in moments],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            StateError: it is of another network, or of one with other options; nothing has changed then.
        """
        for name, here in self._options().items():
            there = state["options"].get(name)
            if there != here:
                raise StateError(f"{name} was {there!r:.40} there, but is {here!r:.40} here: make it with the same")
        like = self.model.initial_state(1)
        carried = states.check_state(state["state"], like, 1, "this network")
        count, moments = len(state["begun"]), []
        if count:
            before = states.check_state(state["states"], self.model.initial_state(count), count, "this network")
            answers = iter(range(sum(state["answered"])))
            for i in range(count):
                at = next(answers) if state["answered"][i] else None
                y = None if at is None else _pick(state["ys"], at)
                moments.append(Moment(state["xs"][i : i + 1], y, states.select(before, [i]), state["begun"][i]))
        self.optimiser.load_state_dict(state["optimiser"])
        self._random.set_state(state["random"])
        self._state, self._begins = states.kept(carried), state["begins"]
        self._moments.clear()
        self._moments.extend(moments)
        self._example = state["example"]

    def _options(self) -> dict[str, Any]:
        history = self._moments.maxlen
        return {"horizon": self.horizon, "history": history, "replays": self.replays, "most": self.most}

    def __repr__(self) -> str:
        return f"Online({self.model!r}, {', '.join(f'{name}={value}' for name, value in self._options().items())})"


def _finite(tensor: Tensor, name: str) -> Tensor:
    if tensor.is_floating_point() and not tensor.isfinite().all():
        wrong = tensor[~tensor.isfinite()].flatten()[0]
        raise DataError(f"{name} must be finite, but holds {float(wrong)}: nothing was learned from this step")
    return tensor


def _stack(answers: list[Any]) -> Any:
    """Answers with a first axis for all of them."""
    first = answers[0]
    if isinstance(first, tuple):
        if any(not isinstance(one, tuple) or len(one) != len(first) for one in answers):
            raise ShapeError(f"y was a tuple of {len(first)} before: it must be the same at every step")
        return tuple(_stack(list(parts)) for parts in zip(*answers, strict=True))
    for one in answers:
        if isinstance(one, tuple) or one.shape != first.shape or one.dtype != first.dtype:
            kinds = [("a tuple" if isinstance(y, tuple) else f"{states.shape(y)} of {y.dtype}") for y in (first, one)]
            raise ShapeError(
                f"y was {kinds[0]} before, but is {kinds[1]} now: it must be of the same kind at every step"
            )
    return torch.stack(answers)


def _cat(*rows: Tensor) -> Tensor:
    return torch.cat(rows)


def _pick(answers: Any, at: int) -> Any:
    return tuple(_pick(part, at) for part in answers) if isinstance(answers, tuple) else answers[at]
