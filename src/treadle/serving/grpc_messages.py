"""The protocol's messages: requests from them, and answers as them."""

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from treadle.serving.dataplane import Outcome, Request
from treadle.serving.proto_file import ProtoFile
from treadle.serving.refusals import Kind, Refused
from treadle.serving.requests import chosen, request_of
from treadle.serving.tensors import (
    checked_datatype,
    checked_shape,
    datatype_of,
    from_bytes,
    named,
    to_bytes,
)

CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Where the numbers of a tensor are that is not sent as bytes; FP16 always is."""


@functools.cache
def protocol() -> ProtoFile:
    """The protocol, read once."""
    return ProtoFile(Path(__file__).with_name("open_inference.proto"))


def parameter_of(value: Any) -> Any:
    """What an `InferParameter` holds."""
    which = value.WhichOneof("parameter_choice")
    return None if which is None else getattr(value, which)


def set_parameter(message: Any, value: Any) -> None:
    """Fill an `InferParameter`."""
    if isinstance(value, bool):
        message.bool_param = value
    elif isinstance(value, int):
        if value < 2**63:
            message.int64_param = value
        else:
            message.uint64_param = value
    else:
        message.string_param = str(value)


def request_from(message: Any, most: int) -> Request:
    """A request, from a `ModelInferRequest`.

    Raises:
        Refused: it is none.
    """
    raw: Sequence[bytes] = message.raw_input_contents
    inputs = message.inputs
    if not inputs:
        raise Refused(Kind.MALFORMED, "the request has no inputs")
    if raw and len(raw) != len(inputs):
        raise Refused(Kind.MALFORMED, f"the request has {len(inputs)} inputs, but {len(raw)} raw_input_contents")
    tensors = []
    for place, one in enumerate(inputs):
        shape, dtype = checked_shape(one.name, list(one.shape), most), checked_datatype(one.name, one.datatype)
        values = from_bytes(one.name, raw[place], dtype, shape) if raw else _from_contents(one, dtype, shape)
        tensors.append((one.name, values))
    parameters = {name: parameter_of(value) for name, value in message.parameters.items()}
    return request_of(named(tensors), parameters)


def _from_contents(one: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """A tensor that is listed in an `InferTensorContents`."""
    where = CONTENTS.get(one.datatype)
    if where is None:
        raise Refused(Kind.MALFORMED, f"{one.name!r:.80} of {one.datatype} has to be sent in raw_input_contents")
    data = getattr(one.contents, where)
    if len(data) != math.prod(shape):
        raise Refused(
            Kind.MALFORMED, f"{one.name!r:.80} has the shape {list(shape)}, but {len(data)} numbers in its {where}"
        )
    if dtype.hasobject:
        found = np.empty(len(data), object)
        found[:] = data
        return found.reshape(shape)
    values = np.array(data)
    converted = values.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(values, converted):
        raise Refused(Kind.MALFORMED, f"the data of {one.name!r:.80} has a number that {one.datatype} cannot hold")
    return converted.reshape(shape)


def response_from(outcome: Outcome, message: Any, response: Any) -> Any:
    """An outcome as a `ModelInferResponse`: in bytes, if the request was, as it should be."""
    response.model_name, response.model_version = outcome.live.name, outcome.live.number
    response.id = message.id
    for name, value in outcome.parameters.items():
        set_parameter(response.parameters[name], value)
    wanted = [one.name for one in message.outputs]
    listed = len(message.raw_input_contents) == 0
    for name, values in chosen(outcome.outputs, wanted):
        datatype = datatype_of(values)
        output = response.outputs.add(name=name, datatype=datatype, shape=values.shape)
        if listed and datatype in CONTENTS:
            getattr(output.contents, CONTENTS[datatype]).extend(values.reshape(-1).tolist())
        else:
            response.raw_output_contents.append(to_bytes(values))
    return response
