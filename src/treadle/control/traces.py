"""Training data for closed loops: an expert's traces, and what it says of the network's mistakes (DAgger)."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from treadle.control.loop import ClosedLoop
from treadle.control.session import Environment


@runtime_checkable
class Policy(Protocol):
    """What acts: a black box with a hidden state, or a session of a `ClosedLoop`."""

    def reset(self) -> None:
        """Start a new episode."""
        ...

    def act(self, reading: Any) -> Any:
        """The action after a reading; None at the end."""
        ...


class Trace(NamedTuple):
    """The readings and actions of a run."""

    readings: np.ndarray
    """[T] whole numbers or [T, n]."""
    actions: np.ndarray
    """The action after each, likewise."""
    targets: np.ndarray
    """The expert's actions; in a demonstration, the same."""


def record(policy: Policy, environment: Environment, steps: int, expert: Policy | None = None) -> Trace:
    """Let a policy act in an environment, and record its readings and actions.

    Args:
        policy: what acts.
        environment: what it acts on.
        steps: the maximum number of steps.
        expert: gets every reading and labels it with its own action, which is not carried out. Without one, the
            policy's actions are the labels.

    Returns:
        The trace, up to the end of the run or up to where the expert ended.

    Example:
        >>> import treadle as td
        >>> from treadle.control import record
        >>> class Echo:
        ...     def reset(self):
        ...         return 1
        ...     def apply(self, action):
        ...         return 1 - action, False
        >>> class Copy:
        ...     def reset(self): ...
        ...     def act(self, reading):
        ...         return reading
        >>> record(Copy(), Echo(), steps=3).readings.tolist()
        [1, 0, 1]
    """
    policy.reset()
    if expert is not None:
        expert.reset()
    noted: list[tuple[Any, Any, Any]] = []
    reading, done = environment.reset(), False
    while not done and len(noted) < steps:
        target = None if expert is None else expert.act(reading)
        action = policy.act(reading) if expert is None or target is not None else None
        if action is None:
            break
        noted.append((reading, action, action if expert is None else target))
        reading, done = environment.apply(action)
    return (
        Trace(*(np.array(column) for column in zip(*noted, strict=True))) if noted else Trace(*[np.zeros(0, int)] * 3)
    )


class Round(NamedTuple):
    """The results of a round of DAgger."""

    number: int
    """From 0."""
    traces: int
    """The number of traces that it was trained on."""
    decisions: int
    """The number of its decisions in closed loop."""
    mistakes: int
    """How many of these differ from the expert's."""


def dagger(
    loop: ClosedLoop,
    expert: Policy,
    environment: Environment,
    learn: Callable[[list[Trace]], Any],
    *,
    rounds: int,
    traces: int,
    steps: int,
) -> Iterator[Round]:
    """Dataset aggregation (DAgger): train on the situations that the network's own mistakes lead to.

    First, the network is trained on demonstrations. Then, in each round, it acts in closed loop, the expert labels each
    step with its own action, and the network is trained on all traces so far.

    Args:
        loop: the network.
        expert: a policy to imitate.
        environment: what they act on; each ``reset`` may begin elsewhere.
        learn: a function of all traces so far that trains ``loop``.
        rounds: the number of rounds.
        traces: the number of traces in each round.
        steps: the maximum number of steps of a trace.

    Yields:
        `Round`, after each. Stop when it has no mistakes.

    Source: Ross, Gordon and Bagnell, *A Reduction of Imitation Learning and Structured Prediction to No-Regret Online
    Learning*, 2011 (arXiv:1011.0686), with β = 1 in the first round and 0 after it.
    """
    known = [record(expert, environment, steps) for _ in range(traces)]
    for number in range(rounds):
        learn(known)
        session = loop.session()
        own = [record(session, environment, steps, expert) for _ in range(traces)]
        wrong = [(trace.actions != trace.targets).reshape(len(trace.actions), -1).any(1) for trace in own]
        yield Round(number, len(known), sum(map(len, wrong)), int(sum(w.sum() for w in wrong)))
        known += own
