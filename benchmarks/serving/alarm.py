"""Waits for a moment and keeps no core busy, which the server needs: event loops alone are good to a millisecond."""

import asyncio
import ctypes
import os
import time

_MONOTONIC, _ABSOLUTE = 1, 1  # Linux's numbers of the clock of `time.perf_counter`, and of moments on it


class _Times(ctypes.Structure):
    """How often, and when first: seconds and nanoseconds of each."""

    _fields_ = tuple((name, ctypes.c_long) for name in ("_every", "_every_ns", "seconds", "ns"))


class Alarm:
    """A timer of Linux's, on the event loop that runs."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._file = self._libc.timerfd_create(_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._file < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._file, self._ring)
        self._waiting: asyncio.Future[None] | None = None

    async def until(self, moment: float) -> None:
        """Wait until a moment of `time.perf_counter`."""
        if moment <= time.perf_counter():
            return
        times = _Times(0, 0, int(moment), int(moment % 1 * 1e9))
        self._waiting = self._loop.create_future()
        self._libc.timerfd_settime(self._file, _ABSOLUTE, ctypes.byref(times), None)
        await self._waiting

    def _ring(self) -> None:
        os.read(self._file, 8)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def close(self) -> None:
        """Give it back."""
        self._loop.remove_reader(self._file)
        os.close(self._file)
