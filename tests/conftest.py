"""What all tests share: seeded generators, one thread (the sizes are tiny), examples that are the same every time."""

import os

import hypothesis
import pytest
import torch

pytest.register_assert_rewrite("tests.tolerances", "tests.outcome")

torch.set_num_threads(1)
if "PYTHONPATH" in os.environ:  # tests start processes, some of them in other folders
    os.environ["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, os.environ["PYTHONPATH"].split(os.pathsep)))
hypothesis.settings.register_profile("treadle", deadline=None, derandomize=True, database=None, max_examples=25)
hypothesis.settings.load_profile("treadle")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def poisoned_memory():
    """Memory that torch hands out uninitialised is filled with NaN, so that whoever reads before writing is caught."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # torch.utils.deterministic.fill_uninitialized_memory is on by default
    yield
    torch.use_deterministic_algorithms(before)
