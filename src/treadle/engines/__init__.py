"""What runs a cell over time. ``reference/`` is plain PyTorch, takes every cell, and defines what is meant.

An engine is a module with a function ``run(cell, initial, xs, state, lengths, resets, return_states)``, which gets time
first ([T, B, ...]) and arguments that `treadle.Recurrent` has checked.
"""

from typing import Any

from treadle.engines import reference
from treadle.errors import EngineError

__all__ = ["ENGINES", "choose"]

ENGINES: dict[str, Any] = {"reference": reference}
"""The engines by name."""


def choose(name: str) -> Any:
    """The engine of that name; ``"auto"`` is the fastest that there is.

    Raises:
        EngineError: there is no such engine.
    """
    if name == "auto":
        return next(iter(ENGINES.values()))
    if name not in ENGINES:
        raise EngineError(f"there is no engine {name!r}: choose one of auto, {', '.join(ENGINES)}")
    return ENGINES[name]
