"""What runs a cell over time.

``call.py`` is what is asked, ``decision.py`` who does it, and why not the others. ``reference.py`` is the cell's own
Python, step by step: it takes every cell. All others run the cell's *program* (see `treadle.compiler`): ``network.py``
has it, ``stages.py`` asks the engine for its sections, ``execution.py`` runs them. The interpreter leaves them all to
PyTorch, ``cpu/`` makes machine code of them, ``gpu/`` kernels of their loops; what both share is in ``passes/``.

A new engine says in a subclass of `Engine` (``engine.py``) which calls and which sections it takes, and is registered
below.
"""

from treadle.engines.call import Call, Result, autocast_dtype
from treadle.engines.cpu import CpuEngine
from treadle.engines.decision import Decision, decide, program_of, run, say_once
from treadle.engines.engine import ArrayDoor, Engine, LivePool, LiveProgram, LiveStep, Refusal
from treadle.engines.gpu import GpuEngine
from treadle.engines.live import Asked, Live, first_engine, live, program_of_step
from treadle.engines.network import Network
from treadle.engines.reference import Reference
from treadle.engines.registry import ENGINES, candidates, register
from treadle.engines.repeat import Repeat
from treadle.engines.step_by_step import Interpreter

__all__ = [
    "ENGINES", "ArrayDoor", "Asked", "Call", "Decision", "Engine", "Live", "LivePool", "LiveProgram", "LiveStep",
    "Network", "Refusal", "Repeat", "Result", "autocast_dtype", "candidates", "decide", "first_engine", "live",
    "program_of", "program_of_step", "register", "run", "say_once",
]  # fmt: skip

for _engine in (CpuEngine(), GpuEngine(), Interpreter(), Reference()):
    register(_engine)
