"""JSON of requests and answers, read and written by orjson."""

import functools
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from treadle.errors import TreadleError


@functools.cache
def orjson() -> Any:
    """The package.

    Raises:
        TreadleError: it is not installed.
    """
    try:
        import orjson
    except ImportError:
        raise TreadleError("orjson is not installed: pip install 'treadle[serve]'") from None
    return orjson


def read(text: bytes) -> Any:
    """What a text says; None if it is no JSON. Python's own reader is asked where NaN or very large numbers may be."""
    try:
        return orjson().loads(text)
    except ValueError:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return None


def write_numbers(values: NDArray[Any]) -> str:
    """Finite numbers [n] as a list, each in as many digits as tell it from all others of its type."""
    return orjson().dumps(np.ascontiguousarray(values), option=orjson().OPT_SERIALIZE_NUMPY).decode()
