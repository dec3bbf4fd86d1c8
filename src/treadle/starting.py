"""While the command starts: Ctrl-C ends it at once and without a word, as it does later."""

import itertools
import os
import signal
import sys
import threading


def is_the_command() -> bool:
    """Whether this process was started as ``treadle``, ``python -m treadle`` or ``python -m treadle.cli``."""
    script = os.path.basename(sys.argv[0]) if sys.argv else ""
    modules = [module for option, module in itertools.pairwise(sys.orig_argv) if option == "-m"]
    return script in ("treadle", "treadle.exe") or modules[:1] in (["treadle"], ["treadle.cli"])


def _end(signal_number: int, frame: object) -> None:
    os._exit(130)


def interrupts_end_it() -> None:
    """Until `interrupts_are_exceptions`: what is imported meanwhile, PyTorch above all, takes a second or more."""
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if usual and is_the_command() and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _end)


def interrupts_are_exceptions() -> None:
    """From here on, the command takes care of them."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


interrupts_end_it()
