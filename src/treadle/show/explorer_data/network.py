"""Networks as the explorer's page shows them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from treadle.compiler.program import Program, Value
from treadle.compiler.watch import Watch
from treadle.engines.call import Call
from treadle.errors import ShapeError
from treadle.gradients import TruncatedBPTT
from treadle.insight.record import over_time, record, trace_of
from treadle.insight.recorded_names import Named, component, is_kept_output, joined, named_values
from treadle.insight.replay import Replay
from treadle.running.dropin import DropIn
from treadle.running.recurrent import Recurrent
from treadle.show.diagram import INPUT, Diagram, Edge, diagram_of
from treadle.show.diagram_layout import Place, lay_out
from treadle.show.explorer_data.arrays import array
from treadle.show.explorer_data.cells import cell_data
from treadle.show.explorer_data.code import code_of
from treadle.show.explorer_data.cuts import Cuts
from treadle.show.explorer_data.junctions import junction_values
from treadle.show.explorer_data.program import program_data
from treadle.show.explorer_data.reach import reach_data
from treadle.state import named_tensors
from treadle.wiring import Graph, Stack

MOST_NUMBERS = 6_000_000
"""How many numbers of one network a page holds: 32 MB, which a browser reads in a second or two."""

READS = {
    "stack": "each layer reads the layer below",
    "relay": "every layer reads the input; its previous hidden state is that of the layer below",
    "skip": "each layer reads the layer below and the input",
    "lateral": "each layer reads the layer below, at this step and at the one before",
    "residual": "each layer reads the layer below, and its output is added to that",
    "dense": "each layer reads the input and all layers below",
    "feedback": "each layer reads the layer below; the lowest also reads what the highest gave one step ago",
}


def explorer_data(
    models: Mapping[str, Any],
    xs: Mapping[str, Tensor],
    words: Mapping[str, tuple[Sequence[str] | None, Sequence[str] | None]] | None = None,
    title: str = "",
    tour: bool = False,
) -> dict[str, Any]:
    """The object that the page shows.

    Args:
        models: networks by name.
        xs: for each, one sequence [1, T, …], as a network with the batch in front takes it.
        words: for each, what its steps read in words or letters, and what the features of its input are called.
        title: of the page.
        tour: whether the page offers its tour at the start.
    """
    words = words or {}
    networks = [
        ExploredNetwork(name, model, xs[name]).data(*words.get(name, (None, None))) for name, model in models.items()
    ]
    return {"format": 1, "title": title, "tour": tour, "networks": networks}


class ExploredNetwork:
    """A network, traced and recorded."""

    def __init__(self, name: str, model: Any, xs: Tensor):
        self.name = name
        rnn = over_time(model)
        self.rnn: Any = rnn.recurrent() if isinstance(rnn, DropIn) and not rnn.bidirectional else rnn
        if not isinstance(self.rnn, Recurrent):
            raise TypeError(
                f"{name} reads the sequence from its end, so that it has no steps to explore: pass one that reads"
                " forwards"
            )
        if not self.rnn.batch_first:
            xs = xs.transpose(0, 1)
        self.call: Call = self.rnn.call(xs).in_precision_of_weights()
        self.diagram: Diagram = diagram_of(self.rnn)
        self.boxes = {box.name: self._path(box.name) for box in self.diagram.boxes if box.kind in ("cell", "module")}
        self._trace()
        with torch.random.fork_rng(devices=[]):
            self.recorded = record(self.rnn, xs)
        found = named_values(self.program, self.watch)
        self.names: dict[str, Named] = {name: one for name, one in found.items() if name in self.recorded}
        computed = set(self.program.values())
        junctions = junction_values(self.diagram, self.boxes, self.program, found)
        self.junctions = {box: value for box, value in junctions.items() if value in computed}

    def _trace(self) -> None:
        """Trace the step with a number for each edge, by which that can be cut."""
        weights = next((t.dtype for t in self.rnn.parameters() if t.is_floating_point()), torch.get_default_dtype())
        cuts = self.cuts = Cuts(self.diagram, {path: box for box, path in self.boxes.items()}, weights)
        self.watch = Watch(self.call.cell, cuts.given, cuts.inputs)
        traced = trace_of(self.call, self.watch)
        assert traced.program is not None
        self.program: Program = traced.program
        self.lifted = traced.lifted
        ones = {value.name: torch.ones((), dtype=value.dtype) for value in cuts.inputs.values()}
        with torch.random.fork_rng(devices=[]):
            self.replay = Replay(self.call, self.program, {**self.lifted, **ones}, self.watch.made)

    def _path(self, box: str) -> str:
        return box if isinstance(self.rnn.cell, Graph) else ""

    def data(self, labels: Sequence[str] | None, features: Sequence[str] | None) -> dict[str, Any]:
        """As JSON."""
        cells = [self._cell(box.name) for box in self.diagram.boxes if box.kind == "cell"]
        shown = self._shown(cells)
        recorded = self._recorded(shown)
        return {
            "name": self.name,
            "title": self._title(),
            "code": code_of(self.rnn),
            "wiring": self._wiring(),
            "input": self._input(labels, features),
            "steps": self.call.xs.shape[0],
            **self._picture(),
            "cells": cells,
            "record": {name: array(tensor) for name, tensor in recorded.items()},
            "initial": {name: array(tensor[0]) for name, tensor in named_tensors(self.call.state)},
            "program": self._program(shown),
            "reads": self._reads(),
            "reach": self._reach(),
            "truncated": self._truncated(),
            "gradient": repr(self.rnn.gradient),
        }

    def _recorded(self, shown: Mapping[str, str]) -> dict[str, Tensor]:
        """What the page has of the record, [T, …]; of junctions, which have no names in it, what they are."""
        batch = 0 if self.rnn.batch_first else 1
        found = {key: self.recorded[name].select(batch, 0) for key, name in shown.items()}
        self._check_size(found)
        with torch.no_grad():
            moments = [now.values for now in self.replay.each(self.junctions.values())]
        return found | {box: torch.stack([now[value][0] for now in moments]) for box, value in self.junctions.items()}

    def _picture(self) -> dict[str, Any]:
        """The folded picture: boxes, edges, and the lines that these run along."""
        panel, _ = lay_out(self.diagram, 1)
        wires = [
            {
                "edge": self.diagram.edges.index(wire.edge),
                "points": wire.points,
                "label": None if wire.label is None else dataclasses.asdict(wire.label),
                "open": wire.end is None,
            }
            for wire in panel.wires
        ]
        return {
            "size": {"width": panel.width, "height": panel.height},
            "boxes": [self._box(place) for place in panel.places],
            "edges": [self._edge(edge) for edge in self.diagram.edges],
            "wires": wires,
        }

    def _box(self, place: Place) -> dict[str, Any]:
        """A box where it stands; called by the end of its path, ``layer0`` of ``layers.layer0``, if no other is."""
        ends = [box.title.rpartition(".")[2] for box in self.diagram.boxes]
        end = place.box.title.rpartition(".")[2]
        where = {"x": place.x, "y": place.y, "width": place.width, "height": place.height}
        return dataclasses.asdict(place.box) | where | ({"title": end} if ends.count(end) == 1 else {})

    def _wiring(self) -> str | None:
        """The name of the wiring, of a stack or of the only one in the network."""
        found = [module.wiring for module in self.rnn.cell.modules() if isinstance(module, Stack)]
        return found[0] if len(found) == 1 else None

    def _title(self) -> str:
        wiring = self._wiring()
        return f"{wiring}: {READS[wiring]}" if wiring in READS else type(self.rnn.cell).__name__

    def _cell(self, box: str) -> dict[str, Any]:
        path = self.boxes[box]
        module = self.rnn.cell.get_submodule(path)
        return cell_data(box, path, module, self.program, self.watch, self.names)

    def _shown(self, cells: list[dict[str, Any]]) -> dict[str, str]:
        """What the page has of the record: names there, and in `record`."""
        found = {"x": "x", "y": "y"}
        found |= {value["record"]: value["record"] for cell in cells for value in cell["values"]}
        for name in self.program.outputs:
            state = name.removeprefix("state/")
            if name != state and not is_kept_output(state):
                found[component(state)] = component(state)
        for box, path in self.boxes.items():
            output = joined(path, "y")
            is_cell = any(cell["box"] == box for cell in cells)
            if output in self.names:
                found[output if is_cell else box] = output
        return found

    def _check_size(self, recorded: Mapping[str, Tensor]) -> None:
        count = sum(tensor.numel() for tensor in (*recorded.values(), *self.lifted.values()))
        if count > MOST_NUMBERS:
            raise ShapeError(
                f"{self.name} has {count:,} numbers to show, but a page holds at most {MOST_NUMBERS:,}: pass fewer"
                f" steps than {self.call.xs.shape[0]}, or a network of fewer units"
            )

    def _input(self, labels: Sequence[str] | None, features: Sequence[str] | None) -> dict[str, Any]:
        steps, width = self.call.xs.shape[0], self.call.xs[0, 0].numel()
        for what, words, given, count in (
            ("steps", "labels", labels, steps),
            ("features", "names of features", features, width),
        ):
            if given is not None and len(given) != count:
                raise ShapeError(f"{self.name} reads {count} {what}, but {len(given)} {words} were passed")
        kind = "numbers" if self.call.xs.is_floating_point() else "tokens"
        return {"kind": kind, "labels": labels and list(labels), "names": features and list(features)}

    def _edge(self, edge: Edge) -> dict[str, Any]:
        return dataclasses.asdict(edge) | {"label": edge.label, "fields": list(edge.fields)}

    def _program(self, shown: Mapping[str, str]) -> dict[str, Any]:
        values: dict[str, Value] = {key: self.names[name].value for key, name in shown.items() if name in self.names}
        return program_data(self.program, values | self.junctions, self.lifted)

    def _reads(self) -> list[dict[str, Any]]:
        """Who reads what, with the input of the program that cuts it."""
        found = []
        for number, edge in enumerate(self.diagram.edges):
            if edge.target not in self.boxes:
                continue
            for field in edge.fields or ("",):
                source = "x" if edge.source == INPUT else self._record_of(edge.source, field)
                role = "input" if edge.role == "input" else f"state:{edge.becomes or field}"
                cut = f"read/{number}" if number in self.cuts.used else None
                found.append(
                    {"cell": edge.target, "value": source, "delay": edge.delay, "as": role, "edge": number, "cut": cut}
                )
        return found

    def _record_of(self, box: str, field: str) -> str:
        """The record's name of what a box gives, or of a field of its state."""
        path = self.boxes.get(box)
        if path is None:
            return box
        if field:
            return joined(path, field)
        value = self.names[joined(path, "y")].value if joined(path, "y") in self.names else None
        states = [n.removeprefix("state/") for n, v in self.program.outputs.items() if v is value and n != "y"]
        own = [component(name) for name in states if not is_kept_output(name)]
        return own[0] if own else joined(path, "y") if self._is_cell(box) else box

    def _is_cell(self, box: str) -> bool:
        return any(one.name == box and one.kind == "cell" for one in self.diagram.boxes)

    def _reach(self) -> dict[str, Any]:
        rows = {"x": "x"} if self.call.xs.is_floating_point() else {}
        for name, value in self.program.outputs.items():
            state = name.removeprefix("state/")
            if name != state and not is_kept_output(state) and value.dtype.is_floating_point:
                rows[component(state)] = name
        kept = sum(value.row_numel for value in self.program.values() if value.has_rows)
        return reach_data(self.replay, rows, kept)

    def _truncated(self) -> dict[str, int] | None:
        gradient = self.rnn.gradient
        if not isinstance(gradient, TruncatedBPTT):
            return None
        return {"steps": gradient.steps, "horizon": gradient.horizon or gradient.steps}
