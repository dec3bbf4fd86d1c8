"""The mutations still fit the code that they break; `make mutations` breaks it, and sees that tests notice."""

import ast

import pytest

from tests.mutations import MUTATIONS, ROOT, broken


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.file)
def test_it_is_found_and_gives_python_that_can_be_read(mutation):
    path, text = broken(mutation, ROOT)
    assert text != path.read_text(encoding="utf-8")
    if path.suffix == ".py":  # the explorer's page has JavaScript
        ast.parse(text)
    assert (ROOT / mutation.tests.split()[0]).exists()
