"""What is the same for all features of a row is written once, before them; loops do the rest."""

import re

import torch

import treadle as td
from tests.registry import sequence
from treadle.engines.cpu.lower.lowered import lower
from treadle.engines.cpu.machine.target import host
from treadle.engines.cpu.plan.section import CompiledSection
from treadle.engines.cpu.write import by_rows
from treadle.engines.network import network_of
from treadle.engines.passes.support import why_not


def texts(units: int) -> list[str]:
    """The loops of a layer-normalised LSTM, forwards and backwards."""
    rnn = td.Recurrent(td.LayerNormLSTMCell(5, units))
    x = sequence(rnn, 2, 3, torch.float32)[:, 0]
    found = []
    for section in network_of(rnn.cell, x, rnn.initial_state(2)).plan(False).sections:
        if section.kind == "loop" and why_not(section) is None:
            derivative = CompiledSection(section).derivative((True,) * len(section.inputs))
            found += [by_rows.text(lower(one.kernel, host())) for one in (derivative.forward, derivative.backward)]
    return found


def test_texts_are_as_long_for_more_features():
    few, many = (texts(units * host().lanes(4)) for units in (4, 12))
    assert len(few) == 2
    assert [len(text.splitlines()) for text in few] == [len(text.splitlines()) for text in many]


def test_a_number_for_all_features_is_read_before_them():
    for text in texts(4 * host().lanes(4)):
        run = text[text.index('@"run"') :]
        blocks = re.split(r"^(?=[\w.]+:$)", run, flags=re.MULTILINE)
        # A block that a loop over vectors goes through adds the lanes to where it is, and goes back.
        end = rf"add i64 %\S+, {host().lanes(4)}\n(?:  %\S+ = call i64 asm .*\n)?  br label"
        inner = [block for block in blocks if re.search(end, block)]
        assert len(inner) > 4
        assert not [block for block in inner if "shufflevector" in block]
