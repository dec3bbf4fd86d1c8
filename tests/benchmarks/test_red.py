"""What a gate must not let through, and what then comes of a case."""

from dataclasses import replace

import pytest
import torch

from benchmarks.following import follow
from benchmarks.gates import compare
from benchmarks.race import OURS, Race
from benchmarks.registry import Case, Options, run
from benchmarks.sizes import Size
from benchmarks.suites.custom import CELLS, RANDOM, over_time, stack_of
from benchmarks.timing import block

REFERENCE = {"ys": torch.ones(3, 4), "d x": torch.ones(2)}


@pytest.mark.parametrize("wrong", [1 + 2e-5, float("nan"), float("inf")])
def test_what_is_wrong_is_red(wrong):
    assert not compare("side", REFERENCE | {"d x": torch.full((2,), wrong)}, REFERENCE).ok


def test_what_is_missing_or_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="computes"):
        compare("side", {"ys": REFERENCE["ys"]}, REFERENCE)
    with pytest.raises(ValueError, match="shape"):
        compare("side", REFERENCE | {"d x": torch.ones(1)}, REFERENCE)


@pytest.mark.parametrize(
    "checks", [lambda: [compare("side", {"y": torch.ones(1)}, {"y": torch.zeros(1)})], lambda: 1 / 0]
)
def test_no_speed_is_reported_behind_a_red_gate(checks):
    result = run(Case("wrong", "wrong", lambda: Race({OURS: block(pytest.fail)}, checks)), Options())
    assert not result.is_green
    assert result.measurement is None


def test_a_random_cell_that_computes_something_else_is_red():
    size = Size(6, 3, 5)
    training = over_time(stack_of(CELLS[RANDOM], size), size, "reference")
    assert all(check.ok for check in follow("right", training).checks)
    wrong = replace(training, module=Twisted(training.module))
    assert not all(check.ok for check in follow("wrong", wrong).checks)


class Twisted(torch.nn.Module):
    """A network whose outputs are a thousandth too large."""

    def __init__(self, module):
        super().__init__()
        self.cell = module.cell
        self.right = [module]

    def forward(self, x, **options):
        ys, *rest = self.right[0](x, **options)
        return (1.001 * ys, *rest)
