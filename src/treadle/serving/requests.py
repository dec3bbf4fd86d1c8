"""What every way of asking has in common: the parameters of a request, and the outputs that it wants."""

from typing import Any

from numpy.typing import NDArray

from treadle.serving.dataplane import Request, sequence_id
from treadle.serving.refusals import Kind, Refused


def request_of(tensors: dict[str, NDArray[Any]], parameters: dict[str, Any]) -> Request:
    """A request, from its tensors and the parameters of the sequence extension."""
    if not parameters:
        return Request(tensors)
    step, timeout = parameters.get("step"), parameters.get("timeout")
    if step is not None and (type(step) is not int or not 0 <= step < 2**63):
        raise Refused(Kind.MALFORMED, f"step is the position that the sequence is expected at, not {step!r:.40}")
    if timeout is not None and (type(timeout) is not int or not 0 <= timeout < 2**63):
        raise Refused(Kind.MALFORMED, f"timeout is a whole number of microseconds, not {timeout!r:.40}")
    return Request(
        tensors,
        sequence_id(parameters.get("sequence_id")),
        boolean(parameters, "sequence_start"),
        boolean(parameters, "sequence_end"),
        step,
        timeout / 1e6 if timeout else None,
        parameters.get("sequence_id") or "",
    )


def boolean(parameters: dict[str, Any], name: str) -> bool:
    """A parameter that is true or false; false if it is not there."""
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise Refused(Kind.MALFORMED, f"{name} is true or false, not {value!r:.40}")
    return value


def chosen(outputs: list[tuple[str, Any]], wanted: Any) -> list[tuple[str, Any]]:
    """The outputs that are wanted; all if none is named."""
    if not wanted:
        return outputs
    known = dict(outputs)
    for name in wanted:
        if name not in known:
            raise Refused(Kind.MALFORMED, f"the model has no output {name!r:.80}, but {', '.join(known)}")
    return [(name, known[name]) for name in wanted]
