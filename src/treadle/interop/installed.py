"""Libraries that exports and imports need, and treadle itself does not."""

import importlib
from typing import Any

from treadle.errors import InteropError


def installed(name: str, needed_by: str = "ONNX files", install: str = "") -> Any:
    """A library.

    Args:
        name: of the module.
        needed_by: what cannot be had without it, in the plural.
        install: what pip is given; the name unless said.

    Raises:
        InteropError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        install = install or ("onnx onnxruntime" if name.startswith("onnx") else name)
        raise InteropError(f"{name} is not installed, which {needed_by} need: pip install {install}") from None
