"""Tensors in JSON and as bytes."""

import json
import sys

import numpy as np
import pytest

import treadle as td
from treadle.errors import TreadleError
from treadle.serving import Refused, json_text
from treadle.serving.tensors import DATATYPES, from_bytes, from_list, to_bytes, to_json

WORDS = {2: np.uint16, 4: np.uint32, 8: np.uint64}


def numbers(datatype, count):
    """Numbers of all kinds: any bits that are finite."""
    dtype = DATATYPES[datatype]
    bits = np.random.default_rng(0).integers(0, 2 ** (8 * dtype.itemsize), count, WORDS[dtype.itemsize])
    found = np.arange(2**16, dtype=np.uint16) if dtype.itemsize == 2 else bits
    edges = np.array([0.0, -0.0, 1.0, np.finfo(dtype).max, np.finfo(dtype).tiny, np.finfo(dtype).smallest_subnormal])
    values = np.concatenate([found.view(dtype), edges.astype(dtype)])
    return values[np.isfinite(values)]


def test_without_orjson_a_server_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "orjson", None)
    json_text.orjson.cache_clear()
    try:
        with pytest.raises(TreadleError, match=r"orjson is not installed: pip install 'treadle\[serve\]'"):
            td.serving.application({"one": td.Recurrent(td.LSTMCell(3, 5))})
    finally:
        json_text.orjson.cache_clear()


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_numbers_in_json_have_the_digits_that_they_need(datatype):
    values = numbers(datatype, 20_000)
    text = to_json("y", values)
    found = from_list("y", json.loads(text), values.dtype, values.shape)
    assert np.array_equal(to_bytes(found), to_bytes(values))
    longest = {"FP16": 5, "FP32": 9, "FP64": 17}[datatype]
    digits = [one.partition("e")[0].strip("-").replace(".", "").strip("0") for one in text.strip("[]").split(",")]
    assert max(map(len, digits)) <= longest


def test_whole_numbers_and_texts_in_json():
    assert to_json("y", np.array([[True, False]])) == "[true,false]"
    assert to_json("y", np.array([2**64 - 1], np.uint64)) == f"[{2**64 - 1}]"
    assert json.loads(to_json("y", np.array([b"anna", "böb".encode()], object))) == ["anna", "böb"]
    with pytest.raises(Refused, match="not finite"):
        to_json("y", np.array([1, np.inf], np.float32))


@pytest.mark.parametrize("before", range(5))
def test_bytes_may_begin_anywhere(before):
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = from_bytes("x", memoryview(b" " * before + values.tobytes())[before:], values.dtype, (2, 3))
    assert found.flags.aligned
    assert np.array_equal(found, values)
