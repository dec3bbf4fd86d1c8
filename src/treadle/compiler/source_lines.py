"""Which line of the user's own file is running, or failed: messages and values name it."""

import sys
from pathlib import Path
from types import CodeType

import torch

_OWN = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


def _is_theirs(code: CodeType) -> bool:
    return not code.co_filename.startswith((*_OWN, "<"))


def running_line() -> str:
    """The line of the step, in the user's own file, that is running."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if _is_theirs(code) and "torch_dispatch" not in code.co_name:
            return f"{Path(code.co_filename).name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def failed_line(error: BaseException) -> str:
    """The innermost line of the user's own file that an error came from."""
    line, trace = "a step", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if _is_theirs(code):
            line = f"{Path(code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return line


def first_line(code: CodeType) -> str:
    """Where a function begins."""
    return f"{Path(code.co_filename).name}:{code.co_firstlineno}"
