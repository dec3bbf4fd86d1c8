"""What the tests of the GPU engine share: a GPU that is pretended, and kernels that are cut in other ways."""

import dataclasses

import pytest

from tests.engines.gpu.together import Together
from treadle.engines.gpu import device
from treadle.engines.gpu.lower.tiling import Mode, Tiling
from treadle.engines.gpu.plan import launches

TILINGS = {
    "as chosen": {},
    "narrow": {"rows": 2, "columns": 4, "depth": 2, "least": 2, "resident": 64},
    "steps": {"mode": Mode.STEPS, "rows": 2, "columns": 4, "depth": 4, "least": 2, "parts": 2, "ahead": False},
    "split": {"mode": Mode.SPLIT, "rows": 2, "columns": 2, "depth": 8, "least": 2, "parts": 3, "ahead": False},
}
"""The tiling that the engine chooses for layers as small as these; several programs and tiles; a launch a phase;
programs that wait for each other, with one tile of some phases and several of others."""


@pytest.fixture(autouse=True)
def gpu():
    """A GPU that Triton's interpreter stands for."""
    with device.pretended() as one:
        yield one


@pytest.fixture
def cut(monkeypatch):
    """Have kernels cut otherwise than the engine would."""

    def cut_as(name: str) -> None:
        def tiling_of(schedule, products, gpu) -> Tiling:
            return dataclasses.replace(Tiling(products=products), **TILINGS[name])

        monkeypatch.setattr(launches, "tiling_of", tiling_of)
        if TILINGS[name].get("mode") is Mode.SPLIT:
            monkeypatch.setattr(launches, "function_of", Together)
        launches.launches.cache_clear()

    yield cut_as
    launches.launches.cache_clear()
