"""What an engine is: the questions that it is asked, and the types of its answers.

An engine runs the sections of a cell's program (see ``compiler/fission.py``), all of them or some; what it refuses,
PyTorch runs step by step. It is registered by its name (see ``registry.py``), and knows of no other engine.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from treadle.compiler.fission import Section
from treadle.compiler.program import Value
from treadle.engines.call import Call
from treadle.engines.layout import Layout
from treadle.engines.network import Network


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Why something cannot be done.

    Args:
        reason: as a user reads it.
        loop: where only a loop is refused: the components of the state that it carries.
        elsewhere: whether it is for the device alone: another engine runs calls there.
    """

    reason: str
    loop: str = ""
    elsewhere: bool = False

    def __str__(self) -> str:
        return self.reason


@runtime_checkable
class Taken(Protocol):
    """A section as an engine has it.

    Attributes:
        section: the section, with inputs of its own: `Section.local`.
        dtype: in which its numbers are stored.
    """

    section: Section
    dtype: torch.dtype

    def kept(self, wanted: tuple[bool, ...]) -> Sequence[Value]:
        """The values that stay in memory for the backward pass, if gradients of these inputs are wanted."""
        ...


@runtime_checkable
class Runner(Protocol):
    """Sections that follow each other, ready to run.

    Attributes:
        given: what a run takes.
        outputs: what a run gives.
    """

    given: tuple[Value, ...]
    outputs: tuple[Value, ...]

    def run(
        self, layout: Layout, given: Sequence[Tensor], starts: Sequence[Tensor], fresh: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Run over a sequence.

        Args:
            layout: how rows lie.
            given: for each value that a run takes [N, ...], or without rows.
            starts: the states [B, ...] before the first step, of all sections in turn.
            fresh: the states [B, ...] that resets start from.

        Returns:
            The outputs [N, ...], each in memory that nothing else has, since callers may write into them, and the
            states after the last step of each row.
        """
        ...


@runtime_checkable
class RunnerByStep(Runner, Protocol):
    """A runner that takes rows which all have all steps, and are never reset, as [T, B, ...], too."""

    def run_by_step(
        self,
        layout: Layout,
        given: Sequence[Tensor],
        starts: Sequence[Tensor],
        groups: tuple[tuple[int, ...], ...] = (),
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The same as `run`; what has rows is [T, B, ...] before and after.

        Where there are ``groups`` of states, those of each are given back as one tensor, [L, B, ...].
        """
        ...


@runtime_checkable
class LiveStep(Protocol):
    """A network's whole step with its state inside.

    Attributes:
        network: whose step it is.
    """

    network: Network

    def step(self, x: Tensor) -> Tensor:
        """One step on [B, ...]; the answer is the same memory every time."""
        ...

    def steps(self, xs: Tensor) -> Tensor | None:
        """A block of steps on [T, B, ...]; None, and nothing is done, where they are better run as a sequence."""
        ...

    def entry(self) -> tuple[Callable[[Any], Any], Any] | None:
        """A fast way in: a function from a NumPy array to one (None: use `step`), and what has to live as long."""
        ...

    def named(self) -> dict[str, Tensor]:
        """The state by name: the memory itself."""
        ...


class ArrayDoor(Protocol):
    """A fast way into a pool. Each answers with None, and does nothing, where arrays are not just what it reads."""

    def by_id(self, xs: Any) -> dict[Any, np.ndarray] | None:
        """A step on a dict of dense arrays [I], by id; the answers [H] by id."""
        ...

    def by_one_slot(self, slot: int, x: Any) -> np.ndarray | None:
        """A step of one row, on an array [1, I]; the answer [1, H]."""
        ...

    def by_slot(self, slots: np.ndarray, x: Any) -> np.ndarray | None:
        """A step of the rows ``slots`` [n], all of them others, on an array [n, I]; the answers [n, H]."""
        ...

    def block_by_slot(self, slots: np.ndarray, x: Any) -> np.ndarray | None:
        """A block of steps of the rows ``slots`` [n], all of them others, on [n, T, I]; the answers [n, T, H]."""
        ...


@runtime_checkable
class LivePool(Protocol):
    """States of many rows, and the step of any of them at once. A row's numbers are those of a `LiveStep`, bit for bit.

    Attributes:
        network: whose step it is.
    """

    network: Network

    def named(self) -> dict[str, Tensor]:
        """The states [capacity, ...] by name: the memory itself, until `grow`."""
        ...

    def grow(self, capacity: int) -> None:
        """Make room for more rows; those that are there keep their states."""
        ...

    def step(self, slots: np.ndarray, x: Tensor) -> Tensor:
        """One step of the rows ``slots``, all of them others, on x [n, ...]; the answers [n, ...]."""
        ...

    def steps(self, slots: np.ndarray, xs: Sequence[Tensor]) -> list[Tensor]:
        """A block of steps [T, ...] of each of the rows ``slots``, all of them others; T may differ."""
        ...

    def door(self, slots: dict[Any, int]) -> ArrayDoor | None:
        """A fast way in, which looks up there which row an id has; None: use `step`."""
        ...


@dataclasses.dataclass(frozen=True)
class KeptMatrix:
    """In which numbers a live step keeps the right operand of a product.

    Args:
        value: the matrix, in the program.
        numbers: ``"float32"``, ``"bfloat16"`` or ``"int8"``.
        bound: how far it may be from the matrix that was rounded, relative to that; None where that is not known.
        reason: why it is not kept as was asked for; empty if it is.
    """

    value: Value
    numbers: str
    bound: float | None
    reason: str = ""


@runtime_checkable
class LiveProgram(Protocol):
    """A network's whole step with its weights, from which sessions are made.

    Attributes:
        network: whose step it is.
        left_out: why PyTorch computes a part of it; empty if it computes nothing.
        matrices: the right operands of products that have machine code.
    """

    network: Network
    left_out: str
    matrices: Sequence[KeptMatrix]

    def step(self, batch_size: int) -> LiveStep:
        """The step of so many rows, with states of its own, which are zeros."""
        ...

    def pool(self, capacity: int) -> LivePool | None:
        """The step of any of so many rows at once, whose states are zeros; None where rows are stepped one by one."""
        ...


class Engine:
    """An engine. Every answer here is that of one that leaves all sections to PyTorch; a new engine gives its own.

    Attributes:
        name: by which it is asked for.
        form: what it makes of a section, as `treadle.explain` says it; empty if it makes nothing.
        by_program: whether it runs the cell's program; if not, the cell's own Python.
        automatic: whether ``"auto"`` tries it.
        steps_live: whether it has an answer for sessions.
        joins_invariants: whether `join` takes what is computed of parameters before the first step.
        takes_in: whether loops also compute what lies between a product and them: see ``compiler/fission.py``.
    """

    name: str
    form: str = ""
    by_program: bool = True
    automatic: bool = False
    steps_live: bool = False
    joins_invariants: bool = False
    takes_in: bool = True

    def refusal(self, call: Call) -> Refusal | None:
        """Why it does not run a call, whatever the cell's program: a device, for example. Asked in every pass."""
        return None

    def take(self, section: Section, products: torch.dtype | None) -> Taken | Refusal | None:
        """Its form of a section; why it has none; or None, which leaves the section to PyTorch as a matter of course.

        Args:
            section: a loop, or one that runs at all steps at once.
            products: the precision in which products multiply, if that is another than the section's own.
        """
        return None

    def details(self, taken: Taken) -> tuple[str, ...]:
        """What `treadle.explain` says of its form of a section: what it decided, and what is known of the code."""
        return ()

    def goes_with(self, before: Taken, after: Taken) -> bool:
        """Whether a section can be joined to the one before it."""
        return False

    def join(
        self, sections: Sequence[Section], taken: Sequence[Taken], visible: Iterable[Value], before: Section | None
    ) -> Runner:
        """Sections that follow each other as one.

        Args:
            sections: as they are in the plan.
            taken: this engine's form of each.
            visible: which values are read outside.
            before: with ``joins_invariants``, an invariant section that they alone read, so that they compute it.
        """
        raise NotImplementedError

    def live_program(self, network: Network, products: torch.dtype | None) -> LiveProgram | Refusal:
        """A network's whole step for sessions, with the weights that it has now; or why there is none.

        The network's tensors are not written to while the program lives.
        """
        raise NotImplementedError

    def left_out_live(self, network: Network) -> str | Refusal:
        """Why PyTorch computes a part of a live step, empty if it computes nothing; or why there is no live step."""
        raise NotImplementedError

    def remembers(self, what: str) -> bool:
        """Whether something was found right before, on this machine: a checksum of it. See `remember`."""
        return False

    def remember(self, what: str) -> None:
        """Keep, beside its code if that is kept, that something was found right."""

    def release_memory(self) -> bool:
        """Give back the memory that it keeps to use it again; whether there was any."""
        return False

    def masks(self, shares: Sequence[float], sizes: Sequence[int], steps: int) -> list[Tensor] | None:
        """Random masks in float32, the very numbers that PyTorch would draw; None to have PyTorch draw them.

        Args:
            shares: of each mask, the probability of a one.
            sizes: of each mask, how many numbers a step has.
            steps: how many steps.

        Returns:
            Each mask, [steps, n].
        """
        return None
