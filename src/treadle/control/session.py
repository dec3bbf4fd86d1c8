"""A closed loop, live, in an environment."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

from treadle.errors import ShapeError
from treadle.protocol import State
from treadle.running.session import Session


@runtime_checkable
class Environment(Protocol):
    """What a closed loop acts on. Any object with these two methods is an environment.

    A reading or an action is a whole number where it is discrete, and an array of numbers [n] where it is continuous.
    """

    def reset(self) -> Any:
        """Start a new episode; return the first reading."""
        ...

    def apply(self, action: Any) -> tuple[Any, bool]:
        """Carry out an action; return the next reading, and whether the episode is done."""
        ...


class Acted(NamedTuple):
    """A step in an environment."""

    reading: Any
    """The reading."""
    action: Any
    """The action after it."""
    done: bool
    """Whether that ended the episode."""


class LoopSession(Session):
    """A live closed loop, from readings to actions; made by `ClosedLoop.session`.

    Example:
        >>> import treadle as td
        >>> class Corridor:                      # five cells; action 1 goes on, action 0 stays
        ...     def reset(self):
        ...         self.cell = 0
        ...         return self.cell
        ...     def apply(self, action):
        ...         self.cell += action
        ...         return self.cell, self.cell == 4
        >>> loop = td.ClosedLoop(td.GRUCell(5 + 2, 8), td.Discrete(5), td.Discrete(2))
        >>> session = loop.session()
        >>> for number, acted in enumerate(session.run(Corridor())):
        ...     if number == 100:                # an untrained network may never arrive
        ...         break
        >>> acted.action in (0, 1)
        True
    """

    def _start(self, state: State) -> None:
        super()._start(state)
        loop = self._recurrent
        self._read = loop.readings.reader(self.batch_size, self._dtype)
        self._write = loop.actions.writer(self.batch_size)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name not in ("_read", "_write")}

    def act(self, reading: Any) -> Any:
        """One step, from a reading to an action, which becomes part of the state.

        Args:
            reading: a whole number or [n] numbers; with several rows an array of [B] or [B, n].

        Returns:
            The action, likewise.

        Raises:
            DataError: a reading that does not exist or is not finite. The state is unchanged.
            ModelFileError: the network's weights are not finite.
        """
        y = self.step(self._read(reading))
        return self._write(y if self.batch_size > 1 or y.ndim == 1 else y[0])

    def run(self, environment: Environment, reading: Any = None) -> Iterator[Acted]:
        """Act in an environment until the episode is done, or until you stop asking.

        Errors of the environment are raised here. The session is then in the state after its last decision, which was
        not carried out: continue from a reading, or start again.

        Args:
            environment: see `Environment`.
            reading: continue from this reading, with the present state; by default, both are reset.

        Yields:
            `Acted`, after each step.

        Raises:
            ShapeError: the session has several rows.
        """
        if self.batch_size != 1:
            raise ShapeError(
                f"an environment is run in one row, but this session has {self.batch_size}: use loop.session(), or"
                " act() on the readings of all rows"
            )
        if reading is None:
            reading = environment.reset()
            self.reset()
        act, apply = self.act, environment.apply
        done = False
        while not done:
            action = act(reading)
            before = reading
            reading, done = apply(action)
            yield Acted(before, action, done)
