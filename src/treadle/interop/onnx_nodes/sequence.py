"""A step over whole sequences: what no state has a part in as nodes on all steps at once, each loop as a Scan."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from treadle.compiler.fission import Kind, Section, plan
from treadle.compiler.program import Program, Value
from treadle.interop.exported_step import ExportedStep, Numbers, as_array
from treadle.interop.onnx_nodes.operations import ProgramNodes
from treadle.interop.onnx_nodes.writer import TYPES, Writer


class SequenceNodes:
    """Puts down a step over a sequence, section by section, as `treadle.compiler.fission` takes it apart.

    Values that have rows lie in the graph as [T·B, ...]; a Scan reads and gives [T, B, ...].

    Args:
        writer: of the graph.
        step: what is put down.
        xs: the name of the sequence, [T, B, ...]; [B, T, ...] of a step without states.
        lengths: of the steps of each row, int64, none above T.
        active: [T, B], true up to the end of each row.
        states: the names of the states before the first step, by the names of the program's inputs.
    """

    def __init__(
        self, writer: Writer, step: ExportedStep, xs: str, lengths: str, active: str, states: Mapping[str, str]
    ):
        self.writer, self.step, self.lengths, self.active, self.states = writer, step, lengths, active, states
        self.program, self.sections, self.sunk = _sections(step.program)
        self.numbers = Numbers(step.constants)
        self.steps_and_rows = writer.node("Shape", active)
        self.rows = writer.node("Mul", *(writer.node("Shape", active, start=n, end=n + 1) for n in (0, 1)))
        self.known: dict[Value, str] = {}
        self.after: dict[str, str] = {}
        self._keep(self.program.inputs["x"], xs)

    def put(self, masked: bool = True) -> tuple[str, dict[str, str]]:
        """The names of the outputs [T, B, ...], and of each state after the last step of its row.

        Args:
            masked: whether outputs past the ends are zeros, or anything.
        """
        for section in self.sections:
            if section.kind is Kind.LOOP:
                self._loop(section)
            elif section.kind is Kind.SHIFT:
                self._shift(section)
            elif section.kind is not Kind.INVARIANT:
                self._all_steps(section)
        y = self.program.outputs["y"]
        ys = self._by_step(y)
        if not masked:
            return ys, self.after
        axes = self.writer.indices(*range(2, 1 + len(y.shape)))
        active = self.writer.node("Unsqueeze", self.active, axes) if len(y.shape) > 1 else self.active
        return self.writer.node("Where", active, ys, self.writer.constant(_zero(y.dtype))), self.after

    def _keep(self, value: Value, by_step: str) -> None:
        """Note a sequence [T, B, ...] as the rows of a value."""
        shape = self.writer.node("Concat", self.rows, self.writer.indices(*value.row_shape), axis=0)
        self.known[value] = self.writer.node("Reshape", by_step, shape if value.row_shape else self.rows)

    def _by_step(self, value: Value) -> str:
        """The rows of a value as [T, B, ...]."""
        shape = self.steps_and_rows
        if value.row_shape:
            shape = self.writer.node("Concat", shape, self.writer.indices(*value.row_shape), axis=0)
        return self.writer.node("Reshape", self.known[value], shape)

    def _all_steps(self, section: Section) -> None:
        nodes = ProgramNodes(self.writer, self.program, self.numbers, self.known, self.known[self.program.inputs["x"]])
        self.known |= {value: nodes.name(value) for value in section.outputs}

    def _loop(self, section: Section) -> None:
        """A loop: rows that have ended keep their states."""
        by_step = [value for value in section.inputs if value.has_rows]
        body = Writer(self.writer)
        before = {name: body.name("before") for name in section.states}
        values = {value: before[name] for name, value in zip(section.states, section.old, strict=True)}
        values |= {value: body.name("now") for value in by_step}
        active = body.name("active")
        nodes = ProgramNodes(body, self.program, self.numbers, values, active)
        results = {
            name: self._where_active(body, active, nodes.name(new), before[name], new)
            for name, new in zip(section.states, section.new, strict=True)
        }
        given = [body.node("Identity", nodes.name(value)) for value in section.outputs]
        graph = self._body(body, section, before, values, active, results, given)
        found = self.writer.node(
            "Scan", *(self.states[name] for name in section.states), *(self._by_step(value) for value in by_step),
            self.active, outputs=len(before) + len(given), body=graph, num_scan_inputs=len(by_step) + 1,
        )  # fmt: skip
        names = [found] if isinstance(found, str) else found
        self.after |= dict(zip(section.states, names, strict=False))
        for value, name in zip(section.outputs, names[len(before) :], strict=True):
            self._keep(value, name)
        for name, old, new in zip(section.states, section.old, section.new, strict=True):
            if old in self.sunk:
                self._keep(old, self._step_later(self._by_step(new), self.states[name]))

    def _body(
        self,
        body: Writer,
        section: Section,
        before: Mapping[str, str],
        values: Mapping[Value, str],
        active: str,
        results: Mapping[str, str],
        given: list[str],
    ) -> Any:
        from onnx import helper

        states = [(name, old.dtype, old.row_shape) for name, old in zip(section.states, section.old, strict=True)]
        return helper.make_graph(
            body.nodes,
            "one step",
            [
                *(_rows(before[name], dtype, shape) for name, dtype, shape in states),
                *(_rows(values[value], value.dtype, value.row_shape) for value in section.inputs if value.has_rows),
                _rows(active, torch.bool, ()),
            ],
            [
                *(_rows(results[name], dtype, shape) for name, dtype, shape in states),
                *(_rows(name, one.dtype, one.row_shape) for name, one in zip(given, section.outputs, strict=True)),
            ],
        )

    @staticmethod
    def _where_active(body: Writer, active: str, name: str, other: str, value: Value) -> str:
        axes = len(value.shape)
        condition = body.node("Unsqueeze", active, body.indices(*range(1, axes))) if axes > 1 else active
        return body.node("Where", condition, name, other)

    def _shift(self, section: Section) -> None:
        """States that are what another sequence was a step before."""
        for name, old, new in zip(section.states, section.old, section.new, strict=True):
            by_step, initial = self._by_step(new), self.states[name]
            self._keep(old, self._step_later(by_step, initial))
            self.after[name] = self._last(by_step, initial, len(new.shape))

    def _step_later(self, by_step: str, initial: str) -> str:
        put, indices = self.writer.node, self.writer.indices
        early = put("Slice", by_step, indices(0), indices(-1), indices(0))
        return put("Concat", put("Unsqueeze", initial, indices(0)), early, axis=0)

    def _last(self, by_step: str, initial: str, axes: int) -> str:
        """[B, ...]: of each row its last step, or its initial state if it has none."""
        put, indices, zero = self.writer.node, self.writer.indices, self.writer.constant(0, np.int64)
        last = put("Max", put("Sub", self.lengths, self.writer.constant(1, np.int64)), zero)
        rows = put(
            "Range",
            zero,
            put("Gather", self.steps_and_rows, self.writer.constant(1, np.int64)),
            self.writer.constant(1, np.int64),
        )
        at = put("Concat", put("Unsqueeze", last, indices(1)), put("Unsqueeze", rows, indices(1)), axis=1)
        some = put("Greater", self.lengths, zero)
        some = put("Unsqueeze", some, indices(*range(1, axes))) if axes > 1 else some
        return put("Where", some, put("GatherND", by_step, at), initial)


def _sections(program: Program) -> tuple[Program, tuple[Section, ...], frozenset[Value]]:
    """The sections of a program; all of it as one loop where rows do not lie first in what crosses their borders."""
    planned = plan(program)
    crossing = [value for section in planned.sections for value in (*section.inputs, *section.outputs, *section.new)]
    outputs = planned.program.outputs
    if (
        all(value.batch_axis == 0 for value in crossing if value.has_rows)
        and outputs["y"].has_rows
        and all(new.has_rows for section in planned.sections for new in section.new)
    ):
        return planned.program, planned.sections, planned.sunk
    states = tuple(name for name in program.inputs if name.startswith("state/"))
    old, new = (tuple(of[name] for name in states) for of in (program.inputs, program.outputs))
    return (
        program,
        (Section(Kind.LOOP, (program.inputs["x"],), (program.outputs["y"],), states, old, new),),
        frozenset(),
    )


def _rows(name: str, dtype: torch.dtype, shape: tuple[Any, ...]) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(name, TYPES[dtype], [None, *shape])


def _zero(dtype: torch.dtype) -> Any:
    return as_array(torch.zeros((), dtype=dtype))
