"""The sessions in which a model generates, kept from one call to the next: nothing is traced again.

They run a copy of the model in evaluation mode, which is compared with the model before each use, number by number.
Other weights, however they were written, are copied into it; a model that was changed otherwise is copied again.
"""

import contextlib
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import torch

from treadle.compiler.module_contents import tensors_of
from treadle.running.copies import evaluated_copy
from treadle.running.likeness import Likeness, likeness
from treadle.seq2seq.decoding import DecodingSession

_MOST_SESSIONS = 4
"""For so many batch sizes, those of late, there are sessions."""
_HELD_BYTES = 1 << 28
"""The copy of a larger model is not kept."""


class _Kept:
    """A copy of a model, and sessions of it by their batch size, that of the last use last."""

    @torch.inference_mode(False)  # what is kept is written into later, outside of it, too
    @torch.no_grad()
    def __init__(self, model: Any):
        self.lock = threading.Lock()  # a session is used by one call at a time
        self._copy_again(model)

    def _copy_again(self, model: Any) -> None:
        self.copy = evaluated_copy(model)
        self._sessions: dict[int, DecodingSession] = {}

    @torch.inference_mode(False)
    @torch.no_grad()
    def session(self, model: Any, rows: int) -> DecodingSession:
        """A session of so many rows, of the model as it is now."""
        like = likeness(model, self.copy)
        if like is Likeness.OTHER:
            self._copy_again(model)
        elif like is Likeness.OTHER_NUMBERS:
            mine = tensors_of(self.copy)
            for name, tensor in tensors_of(model).items():
                mine[name].copy_(tensor)
            for one in self._sessions.values():
                one.refresh()
        found = self._sessions.pop(rows, None) or DecodingSession(self.copy, rows, copies=False)
        self._sessions[rows] = found
        if len(self._sessions) > _MOST_SESSIONS:
            self._sessions.pop(next(iter(self._sessions)))
        return found


_kept: "weakref.WeakKeyDictionary[Any, _Kept]" = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def session_for(model: Any, rows: int) -> Iterator[DecodingSession]:
    """A session of a model for one call; where another thread has the one that is kept, one that is not."""
    small = sum(tensor.nbytes for tensor in tensors_of(model).values()) <= _HELD_BYTES
    kept = (_kept.get(model) or _kept.setdefault(model, _Kept(model))) if small else None
    if kept is None or not kept.lock.acquire(blocking=False):
        yield DecodingSession(model, rows)
        return
    try:
        session = kept.session(model, rows)
        try:
            yield session
        finally:
            session.forget()
    finally:
        kept.lock.release()
