"""What treadle raises. Every message says what was passed, why it fails and what to pass instead.

All of them derive from `TreadleError`, so that one ``except`` catches what the library itself refuses; each also
derives from the built-in that a Python programmer would expect (`ValueError`, `TypeError`, `RuntimeError`).
"""

__all__ = [
    "AdaptError", "CellError", "DataError", "EngineError", "InputError", "InteropError", "ModelFileError", "ShapeError",
    "StateError", "TraceError", "TreadleError", "WorkerError",
]  # fmt: skip


class TreadleError(Exception):
    """The base of all of treadle's errors."""


class ShapeError(TreadleError, ValueError):
    """Sizes do not fit: of an input, a cell in a wiring, lengths, resets, a mask."""


class InputError(TreadleError, TypeError):
    """What was passed is no tensor: an array, a list, a PackedSequence."""


class StateError(TreadleError, ValueError):
    """A state does not belong to this network, this batch or this precision."""


class TraceError(TreadleError, TypeError):
    """A step cannot be turned into a program; the message names the operation and the line that calls it."""


class EngineError(TreadleError, RuntimeError):
    """An engine that was asked for by name cannot run this network; the message gives the engine's reason."""


class ModelFileError(TreadleError, ValueError):
    """A file is not one that treadle can read safely, or a network cannot be written to one."""


class DataError(TreadleError, ValueError):
    """Data is not what it was said to be; the message names the file, the row and the column."""


class AdaptError(TreadleError, ValueError):
    """A network cannot be changed as was asked; the message names the part, the reason and what to write instead."""


class InteropError(TreadleError, RuntimeError):
    """What was written for elsewhere, or read from there, does not do what the network does, or cannot be compared.

    Attributes:
        difference: by how much both sides differ, relative to the largest number; None if that is not what is wrong.
    """

    def __init__(self, message: str, difference: float | None = None):
        super().__init__(message)
        self.difference = difference


class WorkerError(TreadleError, RuntimeError):
    """Another process that takes part in the work failed, died or is not heard of any more."""


class CellError(TreadleError, AssertionError):
    """A cell breaks the contract; `treadle.check_cell` lists how, and what to mend."""
