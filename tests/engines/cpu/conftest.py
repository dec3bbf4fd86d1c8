"""What the tests of the CPU engine share."""

import pytest
import torch


@pytest.fixture
def set_num_threads():
    """`torch.set_num_threads`, until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
