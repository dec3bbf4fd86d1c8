"""Tensors as JSON: type, shape and the bytes, little end first, in base64."""

import base64
import math
import sys
from typing import Any

import torch
from torch import Tensor

_NARROW = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
_INTEGERS = (torch.int8, torch.int16, torch.uint8)


def array(tensor: Tensor) -> dict[str, Any]:
    """A tensor as the page reads it: ``float32``, ``float64``, ``int32``, ``int64`` or ``bool``."""
    tensor = tensor.detach().cpu().contiguous()
    dtype = _NARROW.get(tensor.dtype, tensor.dtype)
    fits = dtype in _INTEGERS or (dtype == torch.int64 and not bool((tensor.abs() >= 2**31).any()))
    numbers = tensor.to(torch.int32 if fits else dtype).numpy()
    if sys.byteorder == "big":
        numbers = numbers.byteswap()
    data = base64.b64encode(numbers.tobytes()).decode()
    return {"dtype": str(numbers.dtype), "shape": list(numbers.shape), "data": data}


def number(value: float | bool) -> float | str | bool:
    """A number as JSON has it; what JSON does not have, by name: ``"inf"``, ``"-inf"``, ``"nan"``."""
    return value if math.isfinite(value) else str(value)
