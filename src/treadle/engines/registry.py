"""The engines by name. A new one is registered here, and no other has to know of it."""

from treadle.engines.engine import Engine
from treadle.errors import EngineError

ENGINES: dict[str, Engine] = {}
"""The engines by name, in the order in which ``"auto"`` tries those that are ``automatic``."""


def register(engine: Engine) -> None:
    """Make an engine known under its name."""
    ENGINES[engine.name] = engine


def candidates(name: str) -> list[Engine]:
    """The engines to ask for a call: the one of that name, or all that ``"auto"`` tries, in order.

    Raises:
        EngineError: there is no such engine.
    """
    if name == "auto":
        return [engine for engine in ENGINES.values() if engine.automatic]
    if name not in ENGINES:
        raise EngineError(f"there is no engine {name!r}: choose one of auto, {', '.join(ENGINES)}")
    return [ENGINES[name]]
