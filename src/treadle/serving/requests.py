"""What every way of asking has in common: the parameters of a request, and the outputs that it wants."""

from typing import Any

from numpy.typing import NDArray

from treadle.serving.dataplane import Request, sequence_id
from treadle.serving.refusals import Kind, Refused


def request_of(tensors: dict[str, NDArray[Any]], parameters: dict[str, Any]) -> Request:
    """A request, from its tensors and the parameters of the sequence extension."""
    if not parameters:
        return Request(tensors)
    step, timeout = whole(parameters, "step"), whole(parameters, "timeout")
    called = _without_point(parameters.get("sequence_id", ""))
    return Request(
        tensors,
        sequence=sequence_id(called),
        start=boolean(parameters, "sequence_start"),
        end=boolean(parameters, "sequence_end"),
        step=step,
        timeout=timeout / 1e6 if timeout else None,
        called=called,
    )


def whole(parameters: dict[str, Any], name: str) -> int | None:
    """A parameter that is a whole number, which JSON may write as 7.0; None if it is not there."""
    value = parameters.get(name, ...)
    if value is ...:
        return None
    value = _without_point(value)
    if type(value) is not int or not 0 <= value < 2**63:
        raise Refused(Kind.MALFORMED, f"{name} is a whole number of 0 or more, not {value!r:.40}")
    return value


def _without_point(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


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
