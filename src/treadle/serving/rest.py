"""The Open Inference Protocol over HTTP: requests and answers as JSON, tensors in it or as bytes behind it."""

import json
import math
from collections.abc import Awaitable, Callable
from typing import Any

from numpy.typing import NDArray

from treadle.serving import descriptions, json_text, openapi
from treadle.serving.bodies import Receive, Scope, read_body
from treadle.serving.dataplane import Dataplane, Outcome, Request, sequence_id
from treadle.serving.gate import Gate
from treadle.serving.refusals import Kind, Refused, as_refused
from treadle.serving.requests import boolean, chosen, request_of
from treadle.serving.tensors import (
    checked_datatype,
    checked_shape,
    datatype_of,
    from_bytes,
    from_list,
    named,
    to_bytes,
    to_json,
    write_json,
)
from treadle.serving.turnstile import Turnstile

Send = Callable[[dict[str, Any]], Awaitable[None]]

JSON = b"application/json"
OCTETS = b"application/octet-stream"
_JSON_LENGTH = b"inference-header-content-length"
LONG = 2048
"""Bytes of numbers that take so long to read or to write that others must not wait for several such requests."""


class Endpoint:
    """One of the server's addresses: who asks is known, refusals are answered in the protocol's form.

    Args:
        plane: what is asked.
        gate: who is let in; None where anybody is.
        answer: from the scope of a request, what receives its body, and its owner, to a status, a type, a body, and
            further headers.
    """

    def __init__(self, plane: Dataplane, gate: Gate | None, answer: Callable[..., Awaitable[Any]]):
        self.plane, self.gate, self.answer = plane, gate, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's door."""
        self.plane.start()
        try:
            owner = "" if self.gate is None else self.gate.owner(scope)
            status, kind, body, headers = await self.answer(scope, receive, owner)
        except Exception as error:
            refused = as_refused(error, f"{scope['method']} {scope['path']}")
            status, kind, body, headers = refusal(self.plane, refused)
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(b"content-type", kind), (b"content-length", b"%d" % len(body)), *headers],
            }
        )
        await send({"type": "http.response.body", "body": body})


def refusal(plane: Dataplane, refused: Refused) -> tuple[int, bytes, bytes, list[tuple[bytes, bytes]]]:
    """A refusal as a response."""
    plane.reject(refused)
    headers = []
    if refused.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(refused.retry_after))))
    if refused.kind is Kind.NO_TOKEN:
        headers.append((b"www-authenticate", b"Bearer"))
    said = {"error": str(refused), "kind": refused.kind.name.lower()}
    return refused.kind.status, JSON, json.dumps(said).encode(), headers


def _header(scope: Scope, name: bytes) -> str | None:
    for key, value in scope["headers"]:
        if key == name:
            return value.decode("latin-1")
    return None


class Inference:
    """``POST /v2/models/M/infer``."""

    def __init__(self, plane: Dataplane):
        self.plane, self.to_read, self.to_write = plane, Turnstile(), Turnstile()

    async def __call__(self, scope: Scope, receive: Receive, owner: str) -> Any:
        """From a request to a response."""
        model, version = scope["path_params"]["model"], scope["path_params"].get("version")
        body = await read_body(scope, receive, self.plane.options.request_bytes)
        with self.plane.reading(model):
            if len(body) > LONG:
                await self.to_read.passed()
            said, binary = parse_body(body, _header(scope, _JSON_LENGTH))
            request, wanted, in_bytes = parse_request(said, binary, self.plane.options.request_bytes)
        if wanted:
            chosen([(one.name, None) for one in self.plane.model(model).latest.meaning.outputs], wanted)
        outcome = await self.plane.infer(model, version, owner, request)
        if sum(values.nbytes for _, values in outcome.outputs) > LONG:
            await self.to_write.passed()
        return written(outcome, said.get("id"), wanted, in_bytes)


def parse_body(body: bytes, length: str | None) -> tuple[dict[str, Any], memoryview]:
    """The JSON object of a request, and the bytes behind it."""
    if length is None:
        size = len(body)
    elif length.isascii() and length.isdigit() and int(length) <= len(body):
        size = int(length)
    else:
        raise Refused(Kind.MALFORMED, "Inference-Header-Content-Length is not the number of bytes of the JSON object")
    said = json_text.read(body[:size] if size < len(body) else body)
    if not isinstance(said, dict):
        raise Refused(Kind.MALFORMED, "the request is no JSON object")
    return said, memoryview(body)[size:]


def parse_request(
    said: dict[str, Any], binary: memoryview, most: int
) -> tuple[Request, dict[str, bool | None] | None, bool]:
    """A request; which outputs are wanted, and of each whether in bytes; and whether all are wanted in bytes."""
    parameters = _dict(said.get("parameters"), "parameters")
    inputs = said.get("inputs")
    if not isinstance(inputs, list) or not inputs or not all(isinstance(one, dict) for one in inputs):
        raise Refused(Kind.MALFORMED, "the request has no list of inputs")
    if "id" in said and not isinstance(said["id"], str):
        raise Refused(Kind.MALFORMED, "the id of a request has to be a text")
    tensors, place = [], 0
    for one in inputs:
        name, values, place = _tensor(one, binary, place, most)
        tensors.append((name, values))
    if place != len(binary):
        raise Refused(Kind.MALFORMED, f"the request has {len(binary)} bytes of tensors, but its inputs take {place}")
    wanted = None
    if said.get("outputs") is not None:
        if not isinstance(said["outputs"], list):
            raise Refused(Kind.MALFORMED, "outputs has to be a list")
        wanted = dict(_output(one) for one in said["outputs"]) or None
    in_bytes = boolean(parameters, "binary_data_output")
    return request_of(named(tensors), parameters), wanted, in_bytes


def _dict(value: Any, name: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refused(Kind.MALFORMED, f"{name} has to be an object")
    return value


def _tensor(said: dict[str, Any], binary: memoryview, place: int, most: int) -> tuple[str, NDArray[Any], int]:
    """A tensor of a request, and where the next one's bytes begin."""
    name = said.get("name")
    if not isinstance(name, str):
        raise Refused(Kind.MALFORMED, "an input has no name")
    shape, dtype = checked_shape(name, said.get("shape"), most), checked_datatype(name, said.get("datatype"))
    size = _dict(said.get("parameters"), f"parameters of {name!r:.80}").get("binary_data_size")
    if size is None:
        return name, from_list(name, said.get("data"), dtype, shape), place
    if type(size) is not int or not 0 <= size <= len(binary) - place or "data" in said:
        raise Refused(Kind.MALFORMED, f"binary_data_size of {name!r:.80} does not fit the bytes that were sent")
    return name, from_bytes(name, binary[place : place + size], dtype, shape), place + size


def _output(said: Any) -> tuple[str, bool | None]:
    if not isinstance(said, dict) or not isinstance(said.get("name"), str):
        raise Refused(Kind.MALFORMED, "an output that is wanted has no name")
    parameters = _dict(said.get("parameters"), "parameters of an output")
    if parameters.get("classification"):
        raise Refused(Kind.MALFORMED, "the classification extension is not supported: take the scores")
    return said["name"], boolean(parameters, "binary_data") if "binary_data" in parameters else None


def written(
    outcome: Outcome, id: str | None, wanted: dict[str, bool | None] | None, in_bytes: bool
) -> tuple[int, bytes, bytes, list[tuple[bytes, bytes]]]:
    """An outcome as a response: JSON, and behind it the tensors that are wanted in bytes."""
    said: dict[str, Any] = {"model_name": outcome.live.name, "model_version": outcome.live.number}
    if id:
        said["id"] = id
    if outcome.parameters:
        said["parameters"] = outcome.parameters
    outputs, parts = [], []  # as texts; the tensors that are bytes
    for name, values in chosen(outcome.outputs, wanted):
        one: dict[str, Any] = {"name": name, "datatype": datatype_of(values), "shape": list(values.shape)}
        as_bytes = None if wanted is None else wanted[name]
        if in_bytes if as_bytes is None else as_bytes:
            content = to_bytes(values)
            one["parameters"] = {"binary_data_size": len(content)}
            parts.append(content)
            outputs.append(write_json(one))
        else:
            outputs.append(f'{write_json(one)[:-1]},"data":{to_json(name, values)}}}')
    body = f'{write_json(said)[:-1]},"outputs":[{",".join(outputs)}]}}'.encode()
    if not parts:
        return 200, JSON, body, []
    return 200, OCTETS, b"".join([body, *parts]), [(_JSON_LENGTH, b"%d" % len(body))]


class Pages:
    """The addresses at which a server tells of itself, and of the sequences that it has."""

    def __init__(self, plane: Dataplane):
        self.plane = plane

    async def live(self, scope: Scope, receive: Receive, owner: str) -> Any:
        """``/v2/health/live``"""
        return _json({"live": True})

    async def ready(self, scope: Scope, receive: Receive, owner: str) -> Any:
        """``/v2/health/ready``"""
        return _json({"ready": self.plane.ready}, 200 if self.plane.ready else 503)

    async def server(self, scope: Scope, receive: Receive, owner: str) -> Any:
        """``/v2``"""
        return _json(descriptions.server_metadata())

    async def openapi(self, scope: Scope, receive: Receive, owner: str) -> Any:
        """``/openapi.json``"""
        return _json(openapi.document(self.plane))

    async def metadata(self, scope: Scope, receive: Receive, owner: str) -> Any:
        """``/v2/models/M``"""
        return _json(descriptions.model_metadata(*self._model(scope)))

    async def model_ready(self, scope: Scope, receive: Receive, owner: str) -> Any:
        """``/v2/models/M/ready``"""
        served, _ = self._model(scope)
        return _json({"name": served.name, "ready": self.plane.ready}, 200 if self.plane.ready else 503)

    async def config(self, scope: Scope, receive: Receive, owner: str) -> Any:
        """``/v2/models/M/config``"""
        return _json(descriptions.model_config(*self._model(scope)))

    async def stats(self, scope: Scope, receive: Receive, owner: str) -> Any:
        """``/v2/models/M/stats`` and ``/v2/models/stats``"""
        lives = [self._model(scope)[1]] if "model" in scope["path_params"] else self.plane.versions()
        return _json(descriptions.model_statistics(self.plane, lives))

    async def sequence(self, scope: Scope, receive: Receive, owner: str) -> Any:
        """``/v2/models/M/sequences/ID``"""
        model, sequence = self._sequence(scope)
        if scope["method"] == "DELETE":
            await self.plane.delete(model, owner, sequence)
            return _json({"model_name": model, "sequence_id": sequence, "deleted": True})
        return _json(await self.plane.about(model, owner, sequence))

    async def state(self, scope: Scope, receive: Receive, owner: str) -> Any:
        """``/v2/models/M/sequences/ID/state``"""
        model, sequence = self._sequence(scope)
        if scope["method"] != "PUT":
            return 200, OCTETS, await self.plane.state(model, owner, sequence), []
        content = await read_body(scope, receive, self.plane.options.request_bytes)
        step = await self.plane.set_state(model, owner, sequence, content, step_asked(scope))
        return _json({"model_name": model, "sequence_id": sequence, "step": step})

    def _model(self, scope: Scope) -> Any:
        served = self.plane.model(scope["path_params"]["model"])
        return served, served.version(scope["path_params"].get("version"))

    def _sequence(self, scope: Scope) -> tuple[str, str]:
        found = sequence_id(scope["path_params"]["sequence"])
        if found is None:
            raise Refused(Kind.MALFORMED, "the id of the sequence is empty")
        return scope["path_params"]["model"], found


def step_asked(scope: Scope) -> int | None:
    """``?step=7``"""
    from urllib.parse import parse_qs

    found = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).get("step")
    if found is None:
        return None
    if len(found) != 1 or not (found[0].isascii() and found[0].isdigit() and len(found[0]) < 19):
        raise Refused(Kind.MALFORMED, "step is the position of the state, a whole number")
    return int(found[0])


def _json(value: Any, status: int = 200) -> tuple[int, bytes, bytes, list[tuple[bytes, bytes]]]:
    return status, JSON, json.dumps(value).encode(), []
