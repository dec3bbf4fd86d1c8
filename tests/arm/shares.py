"""A plugin of pytest: of the tests that it finds, one process runs the share that ``TREADLE_ARM_SHARE`` names."""

import os

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    number, count = map(int, os.environ["TREADLE_ARM_SHARE"].split("/"))
    items[:] = items[number::count]
