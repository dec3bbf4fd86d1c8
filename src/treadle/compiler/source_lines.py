"""Which line of the user's own file is running, or failed: messages and values name it."""

import sys
import traceback
from pathlib import Path
from types import CodeType, FrameType

import torch

_TREADLE = Path(__file__).parents[1]
_OWN = (str(Path(torch.__file__).parent), *(str(_TREADLE / p) for p in "compiler engines gradients running".split()))
# What Python and decorators make up; "<string>", "<stdin>" and cells of notebooks are a user's.
_MADE_UP = ("<frozen ", "<@", "<__array_function__", "<eval_with_key>")


def _is_theirs(code: CodeType) -> bool:
    return not code.co_filename.startswith((*_OWN, *_MADE_UP))


def running_line() -> str:
    """The line of the step, in the user's own file, that is running."""
    for frame, number in traceback.walk_stack(sys._getframe(1)):
        if _is_theirs(frame.f_code) and "torch_dispatch" not in frame.f_code.co_name:
            return f"{Path(frame.f_code.co_filename).name}:{number}"
    return ""


def failed_line(error: BaseException) -> str:
    """The innermost line of the user's own file that an error came from."""
    line = "a step"
    for frame, number in traceback.walk_tb(error.__traceback__):
        if _is_theirs(frame.f_code):
            line = f"{Path(frame.f_code.co_filename).name}:{number}"
    return line


def first_line(code: CodeType) -> str:
    """Where a function begins."""
    return f"{Path(code.co_filename).name}:{code.co_firstlineno}"


def line_of(frame: FrameType) -> str:
    """Which line of a function is running."""
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
