"""A step in pieces: all that it computes, by interpreter, whichever operations are left out."""

import itertools

import pytest
import torch

import treadle as td
from tests.registry import SUBJECTS, build, random_state, sequence
from tests.tolerances import assert_close
from treadle.compiler import interpreter
from treadle.compiler.fission import Kind
from treadle.compiler.pieces import pieces
from treadle.engines.network import network_of
from treadle.state import named_tensors


def program_of(rnn, x, state):
    network = network_of(rnn.cell, x, state)
    return network.plan(False).program, network.constants()


@pytest.mark.share(20)
@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("out", ["tanh", "dot", "sigmoid add", "mul", "dot mul tanh", ""])
@pytest.mark.parametrize("kept_out", ["", "y", "state"])
def test_pieces_compute_what_the_program_does(subject, out, kept_out):
    rnn = build(subject)
    x, state = sequence(rnn, 2, 1)[:, 0], random_state(rnn, 2)
    program, constants = program_of(rnn, x, state)
    left_out = set(out.split())
    refused = {program.outputs["y"]} if kept_out == "y" else set()
    if kept_out == "state":
        refused = {value for name, value in program.outputs.items() if name != "y"}
    found = pieces(program, lambda v: v.op in left_out or v.op == "opaque", lambda value: value in refused)
    inputs = {"x": x} | {f"state/{name}": tensor for name, tensor in named_tensors(state)}
    right = interpreter.run(program, {v.name: constants[v] for v in constants} | inputs, 2)
    known = constants | {program.inputs[name]: tensor for name, tensor in inputs.items()}
    for section in found.sections:
        computed = [v for v in section.values() if v.has_rows and v.op not in ("reshape", "permute", "slice", "expand")]
        opaque = {v.op in left_out or v.op == "opaque" for v in computed}
        by_torch = [program.outputs[name] for name in found.by_torch]
        assert section.kind is Kind.OPAQUE or True not in opaque
        assert section.kind is not Kind.OPAQUE or False not in opaque or by_torch
        now = {v: known[v] for v in (*section.inputs, *section.old)}  # and nothing else
        interpreter.evaluate((*section.outputs, *section.new), now, 2)
        known |= {v: now[v] for v in (*section.outputs, *section.new)}
    for name, tensor in right.items():
        assert_close(known[program.outputs[name]], tensor)
    kinds = [section.kind for section in found.sections]
    assert kinds.count(Kind.LOOP) <= 1
    assert all(a != b for a, b in itertools.pairwise(kinds))


def test_what_is_read_late_is_computed_late():
    # The product with the state waits for the convolution, so nothing of it crosses a border.
    class Cell(torch.nn.Module):
        input_size = 6

        def __init__(self):
            super().__init__()
            self.inner, self.front = td.GRUCell(6, 4), torch.nn.Conv1d(1, 1, 3, padding=1)

        def initial_state(self, batch_size):
            return self.inner.initial_state(batch_size)

        def forward(self, x, state):
            return self.inner(self.front(x[:, None])[:, 0], state)

    cell = Cell()
    state = cell.initial_state(1)
    program, _ = program_of(td.Recurrent(cell), torch.zeros(1, 6), state)
    found = pieces(program, lambda value: value.op == "opaque", lambda value: False)
    front, last = found.sections
    assert (front.kind, last.kind) == (Kind.OPAQUE, Kind.LOOP)
    assert [v.op for v in front.outputs] == ["opaque"]
    assert [v for v in last.inputs if v.has_rows] == list(front.outputs)
