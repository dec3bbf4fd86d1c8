"""The server's addresses as an OpenAPI document, with each model's own tensors: it says exactly what is read."""

import math
from typing import Any

import numpy as np

import treadle
from treadle.serving.dataplane import LONGEST_ID, Dataplane
from treadle.serving.live_model import LiveModel
from treadle.serving.refusals import Kind
from treadle.serving.served import ServedModel

Json = dict[str, Any]
ERROR = {"$ref": "#/components/responses/Error"}
ROUNDS_TO_INFINITY = 2.0**128 - 2.0**103
"""The first number that float32 does not hold."""
MOST_ROWS = 4
"""Rows of a request without a sequence that the document speaks of; more are read."""


def document(plane: Dataplane) -> Json:
    """The whole document, for the models that are served now."""
    paths: Json = {
        "/v2": {"get": _answers("The server", {"type": "object", "required": ["name", "version", "extensions"]})},
        "/v2/health/live": {"get": _answers("Whether it lives", _flags("live"), security=False)},
        "/v2/health/ready": {"get": _answers("Whether it answers", _flags("ready"), 503, security=False)},
        "/v2/models/stats": {"get": _answers("What all models have done", _object("model_stats"))},
    }
    for served in plane.models.values():
        paths |= _paths_of(served, served.latest)
    security = {"token": {"type": "http", "scheme": "bearer"}}
    kinds = {"type": "string", "enum": [kind.name.lower() for kind in Kind]}
    error = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}, "kind": kinds}}
    content = {"application/json": {"schema": error}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "treadle serve",
            "version": treadle.__version__,
            "description": "The Open Inference Protocol (KServe v2) with Triton's sequence extension.",
        },
        "paths": paths,
        "security": [{"token": []}, {}],
        "components": {
            "securitySchemes": security,
            "responses": {"Error": {"description": "It is refused, and why.", "content": content}},
        },
    }


def _paths_of(served: ServedModel, live: LiveModel) -> Json:
    """The addresses of one model."""
    base = f"/v2/models/{served.name}"
    infer = _answers("Take steps", _response(live), *(400, 404, 409, 413, 415, 429, 503, 504, 500))
    infer["responses"]["200"]["content"]["application/octet-stream"] = {"schema": {}}  # what was wanted as bytes
    infer["requestBody"] = {
        "required": True,
        "content": {"application/json": {"schema": _request(live)}},
    }
    name = {
        "name": "sequence",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST_ID, "pattern": "^[A-Za-z0-9_-]+$"},
    }
    step = {"name": "step", "in": "query", "schema": {"type": "integer", "minimum": 0, "maximum": 2**53}}
    state = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    get_state = _answers("The state of a sequence, as treadle.save_state writes it", {}, 400, 404, 409, 429, 503)
    get_state["responses"]["200"]["content"] = state
    put = _object("sequence_id", "step")
    put_state = _answers("Continue from a state", put, 400, 404, 409, 413, 415, 429, 503)
    put_state |= {"requestBody": {"required": True, "content": state}, "parameters": [step]}
    metadata = _object("name", "versions", "platform", "inputs", "outputs")
    about = _object("sequence_id", "step", "idle_seconds")
    found: Json = {
        base: {"get": _answers("What it reads and gives", metadata)},
        f"{base}/ready": {"get": _answers("Whether it answers", _flags("ready"), 503)},
        f"{base}/config": {"get": _answers("Its configuration", _object("name", "max_batch_size"))},
        f"{base}/stats": {"get": _answers("What it has done", _object("model_stats"))},
        f"{base}/infer": {"post": infer},
    }
    version = {"name": "version", "in": "path", "required": True, "schema": {"type": "string", "enum": [live.number]}}
    for path, said in list(found.items()):
        tail = path.removeprefix(base)
        ((method, operation),) = said.items()
        operation = operation | {"responses": operation["responses"] | {"404": ERROR}, "parameters": [version]}
        found[f"{base}/versions/{{version}}{tail}"] = {method: operation}
    one = f"{base}/sequences/{{sequence}}"
    found[one] = {
        "parameters": [name],
        "get": _answers("Where a sequence is", about, 400, 404, 409, 429, 503),
        "delete": _answers("End a sequence", _object("sequence_id", "deleted"), 400, 404, 409, 429, 503),
    }
    found[f"{one}/state"] = {"parameters": [name], "get": get_state, "put": put_state}
    return found


def _answers(summary: str, schema: Json, *refusals: int, security: bool = True) -> Json:
    """An operation with its answer and its refusals."""
    answer = {"description": "The answer.", "content": {"application/json": {"schema": schema}}}
    codes = [*((401, 403) if security else ()), *refusals]
    found: Json = {"summary": summary, "responses": {"200": answer} | {str(code): ERROR for code in codes}}
    return found if security else found | {"security": []}


def _object(*names: str) -> Json:
    return {"type": "object", "required": list(names)}


def _flags(name: str) -> Json:
    return {"type": "object", "required": [name], "properties": {name: {"type": "boolean"}}}


def _request(live: LiveModel) -> Json:
    """The schema of a request: a row of a sequence, or rows that belong to none."""
    position = {"type": "integer", "minimum": 0, "maximum": 2**53}
    # A timeout is left out: that it passes, and the answer is 504, would look like a fault of the server.
    anyhow: Json = {"binary_data_output": {"type": "boolean"}}
    number = {"type": "integer", "minimum": 1, "maximum": 2**64 - 1}
    text = {"type": "string", "minLength": 1, "maxLength": LONGEST_ID}
    of_sequence = {
        "sequence_id": {"oneOf": [number, text]},
        "sequence_start": {"type": "boolean"},
        "sequence_end": {"type": "boolean"},
        "step": position,
    }
    output = {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"enum": [one.name for one in live.meaning.outputs]},
            "parameters": {"type": ["object", "null"], "properties": {"binary_data": {"type": "boolean"}}},
        },
    }

    def request(parameters: Json, rows: int, *required: str) -> Json:
        tensors = {"type": "array", "minItems": 1, "maxItems": 1, "items": _input(live, rows)}
        return {
            "type": "object",
            "required": ["inputs", *required],
            "properties": {
                "id": {"type": "string"},
                "parameters": parameters,
                "inputs": tensors,
                "outputs": {"type": ["array", "null"], "items": output},
            },
        }

    step: Json = {"type": "object", "required": ["sequence_id"], "properties": anyhow | of_sequence}
    rows = {"type": ["object", "null"], "properties": anyhow | dict.fromkeys(of_sequence, False)}
    return {"oneOf": [request(step, 1, "parameters"), *(request(rows, count) for count in range(1, MOST_ROWS + 1))]}


def _input(live: LiveModel, rows: int) -> Json:
    """The schema of an input of so many rows."""
    kind = live.meaning.inputs[0]
    size = rows * math.prod(kind.shape)
    largest = float(np.finfo(np.float64).max)
    number: Json = {"type": "number", "minimum": -largest, "maximum": largest}
    if kind.datatype == "FP32":
        number = {"type": "number", "exclusiveMinimum": -ROUNDS_TO_INFINITY, "exclusiveMaximum": ROUNDS_TO_INFINITY}
    if kind.datatype.startswith(("INT", "UINT")):
        most = 255 if kind.datatype == "UINT8" else max(live.meaning.highest, 1) - 1
        number = {"type": "integer", "minimum": 0, "maximum": most}
    return {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "properties": {
            "name": {"const": kind.name},
            "shape": {"const": [rows, *kind.shape]},
            "datatype": {"const": kind.datatype},
            "data": {"type": "array", "items": number, "minItems": size, "maxItems": size},
            "parameters": {"type": ["object", "null"], "properties": {"binary_data_size": False}},
        },
    }


def _response(live: LiveModel) -> Json:
    tensor = {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": {"enum": [one.name for one in live.meaning.outputs]},
            "datatype": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer"}},
            "data": {"type": "array"},
            "parameters": {"type": "object"},
        },
    }
    return {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": {"const": live.name},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "outputs": {"type": "array", "items": tensor},
        },
    }
