"""A model as it was at one moment: what decoding sessions run, and share as long as the model is as it was."""

import weakref
from typing import Any

from treadle.compiler.module_contents import tensors_of
from treadle.running.copies import detached_copy
from treadle.running.likeness import Likeness, likeness

_HELD_BYTES = 1 << 26
"""Up to this size a copy is kept for sessions to come; a larger one while sessions have it."""

_held: "weakref.WeakKeyDictionary[Any, Any]" = weakref.WeakKeyDictionary()
_used: "weakref.WeakKeyDictionary[Any, weakref.ref[Any]]" = weakref.WeakKeyDictionary()


def as_it_is_now(model: Any) -> Any:
    """A copy of a model in evaluation mode, which nobody writes into: the last one, if the model holds what it held."""
    reference = _used.get(model)
    found = None if reference is None else reference()
    if found is not None and likeness(model, found) is Likeness.SAME:
        return found
    found = evaluated_copy(model)
    _held.pop(model, None)
    _used[model] = weakref.ref(found)
    if sum(tensor.nbytes for tensor in tensors_of(model).values()) <= _HELD_BYTES:
        _held[model] = found
    return found


def evaluated_copy(model: Any) -> Any:
    """A copy of a model in evaluation mode, without gradients."""
    copied = detached_copy(model).eval().requires_grad_(False)
    copied.zero_grad()  # gradients were copied as well
    return copied
