"""What a network learns to act from: traces of somebody who can, and what that one says of its own mistakes."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from treadle.control.loop import ClosedLoop
from treadle.control.session import Environment


@runtime_checkable
class Policy(Protocol):
    """Whoever acts: a black box with a hidden state, or a session of a `ClosedLoop`."""

    def reset(self) -> None:
        """Begin anew."""
        ...

    def act(self, reading: Any) -> Any:
        """The action after a reading; None if there is nothing more to say."""
        ...


class Trace(NamedTuple):
    """What was seen of a run."""

    readings: np.ndarray
    """[T] whole numbers or [T, n]."""
    actions: np.ndarray
    """What was done after each, likewise."""
    targets: np.ndarray
    """What should have been done; in a demonstration, the same."""


def record(policy: Policy, environment: Environment, steps: int, expert: Policy | None = None) -> Trace:
    """Let somebody act in an environment, and note what is seen from outside.

    Args:
        policy: who acts.
        environment: in what.
        steps: at most so many.
        expert: hears every reading and says what it would do; it is not obeyed. Without one, the policy is right.

    Returns:
        The trace, up to the end of the run or up to where the expert had nothing more to say.

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
    """What a round of DAgger was like."""

    number: int
    """From 0."""
    traces: int
    """How many were learned from."""
    decisions: int
    """What the network decided, when it was on its own."""
    mistakes: int
    """How many of these the expert would not have."""


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
    """Learn where one's own mistakes lead: dataset aggregation.

    First from demonstrations. Then, in each round, the network acts for itself, the expert says at each step what it
    would have done, and the network learns from all traces so far.

    Args:
        loop: who learns.
        expert: who can.
        environment: in what; each ``reset`` may begin elsewhere.
        learn: given all traces so far, trains ``loop``.
        rounds: how often.
        traces: how many in each round.
        steps: how long each may be.

    Yields:
        `Round`, after each. Whoever sees no mistakes may stop.

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
