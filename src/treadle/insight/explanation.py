"""What `treadle.explain` found out about a network; printed, a table."""

import dataclasses
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence

from treadle.compiler import program as p
from treadle.compiler.program import Program
from treadle.engines import ENGINES
from treadle.insight.value_names import grouped

_MOST_PRODUCTS = 3
_NO_BREAK = "\N{NO-BREAK SPACE}"
_WIDTH, _LEAST_ROOM = 120, 40


@dataclasses.dataclass(frozen=True)
class Kept:
    """What stays in memory between the forward and the backward pass.

    Args:
        name: what it is.
        size: its bytes for one row at one step.
    """

    name: str
    size: int


@dataclasses.dataclass(frozen=True)
class ExplainedMatrix:
    """In which numbers a session keeps the right operand of a product.

    Args:
        name: ``"layer0.weight_hh.T"``.
        shape: [K, N].
        numbers: ``"float32"``, ``"bfloat16"`` or ``"int8"``.
        bound: how far it may be from the matrix that was rounded, in the Frobenius norm and relative to that; 0.0 where
            nothing was rounded, None where that is not known.
        reason: why it is not kept as was asked for; empty if it is.
    """

    name: str
    shape: tuple[int, ...]
    numbers: str
    bound: float | None
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class ExplainedSection:
    """A part of the step that runs over the whole sequence before the next part begins.

    Args:
        kind: ``"once"`` (a call; it depends on parameters alone), ``"all steps"`` (all at once), ``"loop"`` (one step
            after another), or ``"shifted"`` (a sequence moved by one step: a delayed output is no loop).
        states: of a loop or a shift: what goes from step to step, ``"layer0/h"``.
        layers: the layers that these belong to; empty for a single cell.
        before: the loops that it was hoisted out of, by their layers: they read it, so it comes before them.
        after: the loop that it was sunk below, by its layers: it reads what that gives, and no loop reads it.
        operations: how many, views not counted.
        products: those with a matrix, ``"x @ layer0.weight_ih"``.
        norms: layer normalisations, by the name of the module.
        functions: how often each function is taken that is expensive to compute.
        others: operations that the compiler does not look into.
        multiply_adds: in the products, for one row at one step.
        kept: what it keeps for the backward pass beyond what earlier sections keep; None where that is PyTorch's own
            business.
        engine: what runs it: ``"cpu"``, ``"gpu"``, ``"PyTorch"``, or ``"Python"`` where the program is not used at all.
        reason: why that is not compiled; empty where nothing else was to be expected.
        program: what it computes.
        recurrence: of a loop, how its next state depends on the one before: ``"linear scan"`` (h' = a h + b, with a and
            b that no state has a part in), ``"element by element"`` (units do not meet), both, or empty for neither.
        details: what the engine says of its own form of it.
    """

    kind: str
    states: tuple[str, ...]
    layers: tuple[str, ...]
    before: tuple[str, ...]
    after: str
    operations: int
    products: tuple[str, ...]
    norms: tuple[str, ...]
    functions: Mapping[str, int]
    others: tuple[str, ...]
    multiply_adds: int
    kept: tuple[Kept, ...] | None
    engine: str
    reason: str
    program: Program
    recurrence: str = ""
    details: tuple[str, ...] = ()

    @property
    def kept_bytes(self) -> int | None:
        """Bytes kept for the backward pass, for one row at one step."""
        return None if self.kept is None else sum(one.size for one in self.kept)

    @property
    def place(self) -> str:
        """Of a loop, what it carries; of all else, before or after which loop it runs."""
        if self.states:
            return grouped(self.states)
        if self.before:
            return f"before {', '.join(self.before)}"
        return f"after {self.after}" if self.after else ""

    @property
    def contents(self) -> tuple[str, ...]:
        """What it does, in a few words each."""
        products = list(self.products[:_MOST_PRODUCTS])
        if len(self.products) > _MOST_PRODUCTS:
            products.append(f"{len(self.products) - _MOST_PRODUCTS} more products")
        norms = [f"{count} norms" if count > 1 else f"norm {self.norms[0]}" for count in [len(self.norms)] if count]
        ranked = sorted(self.functions.items(), key=lambda item: -item[1])
        functions = [f"{count} {name}" if count > 1 else name for name, count in ranked]
        if self.kind == "shifted":
            return ("the sequence, one step later",)
        what = "pointwise operations" if self.operations else "views"
        usual = f"{what} of parameters" if self.kind == "once" else what
        recurrence = (self.recurrence,) if self.recurrence else ()
        return (*recurrence, *products, *norms, *functions, *self.others) or (usual,)


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What `explain` found out; printed, a table.

    Args:
        network: what it is about.
        engine: what runs it: ``"cpu"`` (machine code), ``"gpu"`` (kernels), ``"interpreter"`` (its program in PyTorch),
            ``"reference"`` (its own Python, step by step), ``"torch.nn"`` (PyTorch's fused kernels, in a drop-in), or
            ``""`` if the engine that was asked for by name refuses.
        reason: why that is not a compiled engine, or why the engine refuses; empty if there is nothing to say.
        sections: the parts of a step, in the order in which they run; none where there is no program.
        random: what is drawn from PyTorch's generator before everything else, step by step.
        session: what a session does not run as machine code, and why; empty if it runs all of a step so, or if that is
            not known because the network draws random numbers in training.
    """

    network: str
    engine: str
    reason: str = ""
    sections: tuple[ExplainedSection, ...] = ()
    random: tuple[str, ...] = ()
    session: str = ""
    weights: str = ""
    matrices: tuple[ExplainedMatrix, ...] = ()

    @property
    def loops(self) -> tuple[ExplainedSection, ...]:
        """The sections that run one step after another."""
        return tuple(section for section in self.sections if section.kind == "loop")

    @property
    def multiply_adds(self) -> int:
        """In products with matrices, forwards, for one row at one step."""
        return sum(section.multiply_adds for section in self.sections)

    @property
    def kept_bytes(self) -> int:
        """Bytes kept for the backward pass, for one row at one step, where the compiler decides about them."""
        return sum(section.kept_bytes or 0 for section in self.sections)

    def programs(self, sources: bool = True) -> str:
        """The program of each section as text, one operation a line.

        Args:
            sources: whether to note the line of Python that each operation comes from.
        """
        parts = []
        for number, section in enumerate(self.sections, 1):
            title = f"{number}  {section.kind} {section.place}".rstrip()
            parts.append(f"{title}\n{'-' * len(title)}\n{p.show(section.program, sources)}")
        return "\n\n".join(parts)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    __repr__ = __str__

    def _lines(self) -> Iterator[str]:
        left = sum(loop.engine != self.engine for loop in self.loops)
        by_engine = any(section.engine == self.engine for section in self.sections)
        by_program = "runs by its program, in PyTorch"
        form = ENGINES[self.engine].form if self.engine in ENGINES else ""
        how = {
            "interpreter": f"{by_program}, operation by operation",
            "reference": "runs step by step in Python",
            "torch.nn": "runs on PyTorch's fused kernels",
            "": "does not run",
        }.get(self.engine, f"runs as {form}" if by_engine else by_program)
        loops = {0: "no loop", 1: "1 loop"}.get(len(self.loops), f"{len(self.loops)} loops")
        if by_engine and left:
            loops += f", {left} of them not as {form}" if len(self.loops) > 1 else f", not as {form}"
        if form:
            yield f"{self.network} {how}: {loops}"
        else:
            yield f"{self.network} {how}" + (f": {self.reason}" if self.reason else "")
        if not self.sections:
            yield from self._of_matrices()
            return
        if not form:
            yield f"Its compiled program has {loops}"
        yield ""
        yield from self._table()
        if self.random:
            yield ""
            yield f"random numbers, drawn before the loops, step by step: {', '.join(self.random)}"
        reasons = [(number, section.reason) for number, section in enumerate(self.sections, 1) if section.reason]
        if reasons:
            yield ""
            yield from (f"part {number} is left to PyTorch: {reason}" for number, reason in reasons)
        details = [(number, text) for number, one in enumerate(self.sections, 1) for text in one.details]
        if details:
            yield ""
            yield from (f"part {number}, {text}" for number, text in details)
        if self.session:
            yield ""
            yield self.session
        yield from self._of_matrices()

    def _of_matrices(self) -> Iterator[str]:
        """In which numbers a session keeps its weights; nothing where these are what the network has."""
        if self.weights in ("", "float32"):
            return
        yield ""
        kept = sum(one.numbers == self.weights for one in self.matrices)
        yield f"weights: {self.weights}, {kept} of {len(self.matrices)} matrices of products in machine code"
        widths = [
            max((len(text) for text in column), default=0) for column in zip(*map(_columns, self.matrices), strict=True)
        ]
        for one in self.matrices:
            cells = "  ".join(text.ljust(width) for text, width in zip(_columns(one), widths, strict=True)).rstrip()
            yield f"  {cells}" + (f": {one.reason}" if one.reason else "")

    def _table(self) -> Iterator[str]:
        rows = [("", "part", "", "ops", "mul-adds", "kept", "runs on", "what")]
        for number, section in enumerate(self.sections, 1):
            kept = "?" if section.kept_bytes is None else f"{section.kept_bytes:,} B"
            adds = f"{section.multiply_adds:,}"
            # What belongs together is not broken between lines.
            what = ", ".join(part.replace(" ", _NO_BREAK) for part in section.contents)
            operations = str(section.operations)
            rows.append((str(number), section.kind, section.place, operations, adds, kept, section.engine, what))
        unknown = any(section.kept is None for section in self.sections)
        kept = f"{self.kept_bytes:,} B{' + ?' if unknown else ''}" if self.kept_bytes or not unknown else "?"
        operations = sum(section.operations for section in self.sections)
        rows.append(("", "one row, one step", "", str(operations), f"{self.multiply_adds:,}", kept, "", ""))
        return _wrapped_table(rows, right=(0, 3, 4, 5))


def _wrapped_table(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> Iterator[str]:
    """The lines of a table, with columns as wide as what stands in them; those of ``right`` end in one line."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        start = "  ".join([*cells, ""])
        room = max(_WIDTH - len(start), _LEAST_ROOM)
        for line in textwrap.wrap(row[-1], room, break_long_words=False, break_on_hyphens=False) or [""]:
            yield (start + line.replace(_NO_BREAK, " ")).rstrip()
            start = " " * len(start)


def _columns(matrix: ExplainedMatrix) -> tuple[str, ...]:
    """The columns of its line."""
    bound = f"off by at most {100 * matrix.bound:.2g} %" if matrix.bound else ""
    return matrix.name, f"[{', '.join(map(str, matrix.shape))}]", matrix.numbers, bound
