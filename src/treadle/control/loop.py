"""A network whose last action is part of its next input."""

from typing import Any

import torch
from torch import Tensor, nn

from treadle.control.session import LoopSession
from treadle.control.spaces import Continuous, Discrete, Space
from treadle.errors import ShapeError
from treadle.gradients import GradientMethod
from treadle.protocol import State
from treadle.running.recurrent import Recurrent
from treadle.state import shape
from treadle.wiring import Graph
from treadle.wiring.sizes import is_cell, output_size

ACTION = "action.delayed"
"""Where a loop's state keeps the last action."""


class ClosedLoop(Recurrent):
    """A closed loop: the action of step t-1 is part of the input of step t; in training, a recorded action.

        d(t) = readout(cell([reading(t), action(t-1)]))
        action(t) = the most likely one, if actions are discrete; d(t) itself, if they are continuous

    It is a `Recurrent` over a wiring in which ``cell`` reads x and, one step late, the node ``action``, which is zeros
    before the first step. Called on readings alone, it runs in closed loop. `follow` feeds it recorded actions instead
    (teacher forcing): a decision then does not influence the next step, so the whole sequence runs at once, compiled
    like any other. Both are the same function: fed with its own actions, it decides the same. The state is the same,
    too, so a network may follow a recorded sequence for a while and then continue in closed loop.

    Args:
        cell: any cell or wiring; it reads the features of a reading and those of an action, concatenated.
        readings: what it reads: ``td.Discrete(n)`` symbols or ``td.Continuous(n)`` numbers.
        actions: what it decides, likewise.
        readout: from the cell's output to ``actions.size`` features; by default a `torch.nn.Linear`.
        batch_first: see `Recurrent`, as for all that follow.
        gradient: how gradients go back in time.
        engine: what runs the steps.
        learn_initial_state: whether the state before the first step, the action before it included, is learned.

    Raises:
        TypeError: ``cell`` is no cell, or ``readings`` or ``actions`` say nothing.
        ShapeError: the sizes do not fit, with the arithmetic.

    Source: for teacher forcing, Williams and Zipser, *A Learning Algorithm for Continually Running
    Fully Recurrent Neural Networks*, 1989.

    Example:
        >>> import torch, treadle as td
        >>> loop = td.ClosedLoop(td.GRUCell(3 + 2, 16), readings=td.Discrete(3), actions=td.Discrete(2))
        >>> readings, actions = torch.randint(3, (8, 20)), torch.randint(2, (8, 20))
        >>> scores, state = loop.follow(readings, actions)      # to train on: all steps at once
        >>> loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), actions.flatten())
        >>> session = loop.session()                            # live: one step per call
        >>> session.act(2) in (0, 1)
        True
    """

    def __init__(
        self,
        cell: nn.Module,
        readings: Space,
        actions: Space,
        readout: nn.Module | None = None,
        batch_first: bool = True,
        gradient: GradientMethod | None = None,
        engine: str = "auto",
        learn_initial_state: bool = False,
    ):
        for name, space in (("readings", readings), ("actions", actions)):
            if not isinstance(space, Discrete | Continuous):
                raise TypeError(f"{name} are td.Discrete(n) or td.Continuous(n), but {space!r:.60} was passed")
        if not isinstance(cell, nn.Module) or not is_cell(cell):
            raise TypeError(f"ClosedLoop takes a cell, but was given a {type(cell).__name__}")
        graph = Graph(readings.size)
        action = graph.later("action", actions.size)
        controller = graph.add("controller", cell, reads=[graph.x, action.delayed()])
        if readout is None:
            gives = output_size(cell, (readings.size + actions.size,))
            if gives is None or len(gives) != 1:
                raise ShapeError(f"{type(cell).__name__} does not give a row of features: pass a readout=")
            first = next(cell.parameters(), torch.empty(0))
            readout = nn.Linear(gives[0], actions.size, device=first.device, dtype=first.dtype)
        decision = graph.add("decision", readout, reads=controller)
        graph.add("action", actions.taken(), reads=decision)
        super().__init__(graph.outputs(decision), batch_first, gradient, engine, learn_initial_state)
        self.readings, self.actions = readings, actions
        self._followers: dict[float, Recurrent] = {}  # no modules of their own: they have this one's parameters

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_followers": {}}  # a copy has parameters of its own, and makes its own followers

    def constructor_arguments(self) -> dict[str, Any]:
        """What would construct it again, for `treadle.save`."""
        parts = {"cell": self.cell.controller, "readout": self.cell.decision}
        names = ("readings", "actions", "batch_first", "gradient", "engine", "learn_initial_state")
        return parts | {name: getattr(self, name) for name in names}

    def forward(
        self,
        xs: Any,
        state: State = None,
        lengths: Any = None,
        resets: Tensor | None = None,
        return_states: bool = False,
        mask: Any = None,
    ) -> Any:
        """Run in closed loop on readings that are known: as `Recurrent`, but ``xs`` may be symbols [B, T].

        Where ``mask`` is false, no action is taken, and the last one stays; ``xs`` has to be some reading there, too.

        Raises:
            DataError: a reading that does not exist.
        """
        xs = self._encoded(self.readings, xs, lengths, "reading")
        return super().forward(xs, state, lengths, resets, return_states, mask)

    def follow(
        self,
        readings: Any,
        actions: Any,
        state: State = None,
        lengths: Any = None,
        resets: Tensor | None = None,
        return_states: bool = False,
        sampling: float = 0.0,
        mask: Any = None,
    ) -> Any:
        """Its decision at each step, given the recorded actions until then (teacher forcing).

        Args:
            readings: [B, T] symbols, or [B, T, n] numbers or features; [T, B, …] without ``batch_first``.
            actions: what was done after each, likewise.
            state: the state before the first step, of this or of a live run; it holds the action before.
            lengths: see `Recurrent`. What is past them does not matter.
            resets: see `Recurrent`.
            return_states: see `Recurrent`.
            sampling: see `follower`.
            mask: see `forward`.

        Returns:
            ``decisions, state``: [B, T, n], scores of discrete actions or continuous ones themselves, and the state
            after the last step, in which the last action is the recorded one.

        Raises:
            DataError: a reading or an action that does not exist; the message says where.
            ShapeError: readings and actions do not fit each other or the network.
        """
        pairs = self.pairs(readings, actions, lengths)
        return self.follower(sampling)(pairs, state, lengths, resets, return_states, mask)

    def pairs(self, readings: Any, actions: Any, lengths: Any = None) -> Tensor:
        """The input of a `follower`: the features of readings and actions, concatenated.

        Raises:
            DataError: a reading or an action that does not exist.
            ShapeError: they have not the same rows and steps.
        """
        read = self._encoded(self.readings, readings, lengths, "reading")
        done = self._encoded(self.actions, actions, lengths, "action")
        if read.shape[:-1] != done.shape[:-1]:
            raise ShapeError(
                f"there is one action after each reading, but readings are {shape(read.shape[:-1])} and actions"
                f" {shape(done.shape[:-1])}"
            )
        return torch.cat([read, done], -1)

    def follower(self, sampling: float = 0.0) -> Recurrent:
        """The same network, with the same parameters, that reads recorded actions: train this one.

        At step t it reads the reading of t and the action that was done *after* it (`pairs` concatenates
        them), which influences what comes after, but not the decision at t.

        Args:
            sampling: scheduled sampling: in training, with this probability at each step and row, the network's own
                action is used instead of the recorded one. Decisions then depend on each other from step to step,
                so less is computed for all steps at once. Continuous actions carry a gradient, discrete ones none.

        Raises:
            ValueError: ``sampling`` is not from 0 to 1.

        Source: Bengio et al., *Scheduled Sampling for Sequence Prediction with Recurrent Neural Networks*, 2015
        (arXiv:1506.03099).

        Example:
            >>> import torch, treadle as td
            >>> loop = td.ClosedLoop(td.GRUCell(5, 8), td.Continuous(3), td.Continuous(2))
            >>> loop.follower(sampling=0.25)(torch.randn(4, 9, 3 + 2))[0].shape
            torch.Size([4, 9, 2])
        """
        if not isinstance(sampling, int | float) or not 0 <= sampling <= 1:
            raise ValueError(f"sampling is a probability, from 0 to 1, but {sampling!r} was passed")
        if sampling not in self._followers:
            options = {"batch_first": self.batch_first, "gradient": self.gradient, "engine": self.engine}
            self._followers[sampling] = Recurrent(_Following(self, sampling), **options)
        return self._followers[sampling].train(self.training)

    def session(self, batch_size: int = 1, weights: str = "float32") -> LoopSession:
        """Run live, against an environment: see `LoopSession`.

        Args:
            batch_size: rows.
            weights: see `Recurrent.session`.
        """
        return LoopSession(self, batch_size, weights)

    def _encoded(self, space: Space, values: Any, lengths: Any, what: str) -> Tensor:
        values = torch.as_tensor(values)
        if lengths is not None and not self.batch_first and values.ndim > 1:
            features = space.encode(values.transpose(0, 1), lengths, what).transpose(0, 1)
        else:
            features = space.encode(values, lengths, what)
        weight = next(self.cell.parameters(), features)
        return features if values.is_floating_point() else features.to(weight.device, weight.dtype)


class _Following(nn.Module):
    """The loop's step, after which a recorded action stands in the state in place of its own.

    Nothing has to be shifted in time for that, and rows that end, are reset or continue are as they are everywhere: the
    compiler sees a state that is an input, one step late, and no tie between what is decided and what comes next.
    """

    def __init__(self, loop: ClosedLoop, sampling: float):
        super().__init__()
        self.graph, self.sampling = loop.cell, sampling
        self._loop = (loop,)  # in a tuple, as it is no part of this, and holds it
        self.input_size = loop.readings.size + loop.actions.size
        self.output_size = loop.actions.size

    def initial_state(self, batch_size: int) -> State:
        return self._loop[0].initial_state(batch_size)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        action = x[:, self.graph.input_size :]
        decision, after = self.graph(x[:, : self.graph.input_size], state)
        if self.sampling and self.training:
            own = torch.bernoulli(torch.full_like(action[:, :1], self.sampling))
            action = torch.where(own > 0, after[ACTION][0], action)
        return decision, {**after, ACTION: (action,)}
