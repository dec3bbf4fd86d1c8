"""Tensors as the Open Inference Protocol names them, writes them as JSON, and lays them out in bytes."""

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from treadle.serving.json_text import write_numbers
from treadle.serving.refusals import Kind, Refused

DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    **{f"UINT{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    **{f"INT{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
    "BYTES": np.dtype(object),
}
write_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
"""A value as JSON, without spaces."""
NAMES = {dtype: name for name, dtype in DATATYPES.items()}
MOST_AXES = 8


class TensorKind(NamedTuple):
    """One tensor that a model reads or gives.

    Attributes:
        name: by which requests call it.
        datatype: the protocol's word for its numbers.
        shape: of one row at one step.
        columns: names of the features, where they have any.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    columns: tuple[str, ...] = ()

    def described(self) -> dict[str, Any]:
        """As the metadata of a model has it: any number of rows before the shape."""
        about: dict[str, Any] = {"name": self.name, "datatype": self.datatype, "shape": [-1, *self.shape]}
        return about | ({"parameters": {"columns": list(self.columns)}} if self.columns else {})


def checked_shape(name: str, shape: Any, most: int) -> tuple[int, ...]:
    """A shape that a request gives, once it is known to be one."""
    if not isinstance(shape, list) or not 1 <= len(shape) <= MOST_AXES or any(type(size) is not int for size in shape):
        raise Refused(Kind.MALFORMED, f"the shape of {name!r:.80} has to be a list of 1 to {MOST_AXES} whole numbers")
    if any(size < 1 for size in shape):
        raise Refused(Kind.MALFORMED, f"{name!r:.80} has the shape {shape}, but every size has to be 1 or more")
    if math.prod(shape) > most:
        raise Refused(Kind.TOO_LARGE, f"{name!r:.80} has the shape {shape}, of more numbers than a request may have")
    return tuple(shape)


def checked_datatype(name: str, datatype: Any) -> np.dtype[Any]:
    """The NumPy type of one of the protocol's datatypes."""
    found = DATATYPES.get(datatype) if isinstance(datatype, str) else None
    if found is None:
        raise Refused(
            Kind.MALFORMED, f"{name!r:.80} has the datatype {datatype!r:.40}: choose one of {', '.join(DATATYPES)}"
        )
    return found


def from_list(name: str, data: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """A tensor whose numbers are listed in JSON, flat or nested."""
    if not isinstance(data, list):
        raise Refused(Kind.MALFORMED, f"the data of {name!r:.80} has to be a list")
    if dtype.hasobject:
        return _texts(name, data, shape)
    try:
        values = np.array(data)
    except (ValueError, OverflowError):
        raise Refused(Kind.MALFORMED, f"the data of {name!r:.80} has lists of different lengths") from None
    kinds = "b" if dtype.kind == "b" else "iuf"  # 9.0 is a whole number in JSON
    if values.dtype.kind not in kinds or (kinds != "b" and _has_booleans(data)):
        raise Refused(Kind.MALFORMED, f"the data of {name!r:.80} has to be numbers such as {NAMES[dtype]} holds")
    if (values.ndim > 1 and values.shape != shape) or values.size != math.prod(shape):
        raise Refused(
            Kind.MALFORMED, f"{name!r:.80} has the shape {list(shape)}, but its data has {list(values.shape)}"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        converted = values.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(converted, values):
        raise Refused(Kind.MALFORMED, f"the data of {name!r:.80} has a number that {NAMES[dtype]} cannot hold")
    return converted.reshape(shape)


def _has_booleans(data: list[Any]) -> bool:
    """Whether there is a boolean among numbers, which NumPy takes for a number."""
    types = set(map(type, data))
    return bool in types or (list in types and any(_has_booleans(one) for one in data))


def _texts(name: str, data: list[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if any(not isinstance(one, str) for one in data) or len(data) != math.prod(shape):
        raise Refused(Kind.MALFORMED, f"the data of {name!r:.80} has to be {math.prod(shape)} texts")
    found = np.empty(len(data), object)
    found[:] = [one.encode(errors="surrogatepass") for one in data]
    return found.reshape(shape)


def from_bytes(name: str, data: bytes | memoryview, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """A tensor whose numbers lie one after another in bytes, little-endian; texts with their length before them."""
    if dtype.hasobject:
        return _counted_texts(name, bytes(data), shape)
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise Refused(
            Kind.MALFORMED,
            f"{name!r:.80} has {len(data)} bytes, but the shape {list(shape)} of {NAMES[dtype]} takes"
            f" {math.prod(shape) * dtype.itemsize}",
        )
    values = np.frombuffer(data, dtype).reshape(shape)
    # Behind a JSON object they begin anywhere; kernels read from addresses that are multiples of their size.
    return values if values.flags.aligned else values.copy()


def _counted_texts(name: str, data: bytes, shape: tuple[int, ...]) -> NDArray[Any]:
    found, place, count = [], 0, math.prod(shape)
    while place < len(data) and len(found) <= count:
        size = int.from_bytes(data[place : place + 4], "little")
        found.append(data[place + 4 : place + 4 + size])
        place += 4 + size
    if place != len(data) or len(found) != count:
        raise Refused(Kind.MALFORMED, f"{name!r:.80} does not have {count} texts, each after its length in 4 bytes")
    texts = np.empty(count, object)
    texts[:] = found
    return texts.reshape(shape)


def to_bytes(values: NDArray[Any]) -> bytes:
    """The reverse of `from_bytes`."""
    if values.dtype.hasobject:
        return b"".join(len(one).to_bytes(4, "little") + one for one in values.reshape(-1))
    return values.tobytes()


def to_json(name: str, values: NDArray[Any]) -> str:
    """Numbers as a list in JSON, flat, each in as many digits as tell it from all others of its datatype.

    JSON has no word for what is no number, so that such an answer can only be had in bytes.
    """
    if values.dtype.hasobject:
        return write_json([one.decode(errors="replace") for one in values.reshape(-1)])
    flat = values.reshape(-1)
    if values.dtype.kind == "f" and not np.isfinite(flat).all():
        raise Refused(
            Kind.FAILED, f"{name!r:.80} has numbers that are not finite, which JSON cannot hold: ask for binary data"
        )
    if values.dtype == DATATYPES["FP16"] and flat.size:  # orjson writes the digits of the same number in float32
        text = "%.5g," * flat.size % tuple(flat.tolist())
        return f"[{text.replace('-0,', '-0.0,')[:-1]}]"  # a whole number has no sign if it is zero
    return write_numbers(flat)


def datatype_of(values: NDArray[Any]) -> str:
    """The protocol's word for an array's numbers."""
    return NAMES[values.dtype]


def named(tensors: Sequence[tuple[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Tensors by name, each once."""
    found = dict(tensors)
    if len(found) != len(tensors):
        raise Refused(Kind.MALFORMED, "two inputs have the same name")
    return found
