"""Libraries that exports and imports need, and treadle itself does not."""

import importlib
from typing import Any

from treadle.errors import InteropError


def installed(name: str) -> Any:
    """A library.

    Raises:
        InteropError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InteropError(f"{name} is not installed, which ONNX files need: pip install onnx onnxruntime") from None
