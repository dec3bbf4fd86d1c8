"""In which numbers products are computed, and that kernels of another precision are other kernels."""

import dataclasses

import pytest
import torch

from treadle.compiler import program as p
from treadle.engines.cpu.lower.lowered import lower
from treadle.engines.cpu.lower.precision import decide
from treadle.engines.cpu.machine import target
from treadle.engines.cpu.write import by_rows
from treadle.engines.passes.loop_nests import Kernel
from treadle.engines.passes.precision import Operands, Precision

HOST = target.host()
DOT, PLAIN = (dataclasses.replace(HOST, bf16_dot=has) for has in (True, False))
PAIRS, ROUNDED = Operands.PAIRS, Operands.ROUNDED


@pytest.mark.parametrize("memory_bound", [False, True])
@pytest.mark.parametrize("cpu", [DOT, PLAIN])
def test_float64_and_what_is_not_asked_for_stay_as_they_are(cpu, memory_bound):
    assert decide(torch.float32, False, memory_bound, cpu) == Precision(torch.float32)
    assert decide(torch.float64, True, memory_bound, cpu) == Precision(torch.float64)


@pytest.mark.parametrize("memory_bound", [False, True])
def test_one_instruction_multiplies_pairs_of_both_sides(memory_bound):
    assert decide(torch.float32, True, memory_bound, DOT) == Precision(torch.float32, PAIRS, PAIRS)


def test_without_it_weights_are_pairs_only_where_their_bytes_count():
    assert decide(torch.float32, True, True, PLAIN) == Precision(torch.float32, PAIRS)
    assert decide(torch.float32, True, False, PLAIN) == Precision(torch.float32, ROUNDED)


def product(precision):
    x, w = p.placeholder("x", (p.BATCH, 3), torch.float32), p.placeholder("w", (3, 5), torch.float32)
    y = p.dot(x, w)
    return Kernel((x,), (), (), (y,), (), precision)


def test_every_text_has_a_description_of_its_own():
    kernels = [product(Precision(torch.float32, *sides)) for sides in [(), (ROUNDED,), (PAIRS,), (PAIRS, PAIRS)]]
    assert len({kernel.precision for kernel in kernels}) == 4
    texts = {one.description: by_rows.text(one) for one in (lower(kernel, DOT) for kernel in kernels)}
    # Rounded weights are float32 like others: one text, compiled once.
    assert len(texts) == len(set(texts.values())) == 3
