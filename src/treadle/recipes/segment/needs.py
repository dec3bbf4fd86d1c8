"""Packages that only images need."""

import importlib
from typing import Any

from treadle.errors import TreadleError


def need(module: str, package: str) -> Any:
    """Import a module of a package that treadle does not always install, or say what to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise TreadleError(f"this needs the package {package}, which is not installed: pip install {package}") from None
