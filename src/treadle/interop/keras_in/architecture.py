"""Which layers a model of Keras has, and which reads what: Keras 1 to 3, sequential and functional, as calls."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from treadle.errors import InteropError

_MOST_LAYERS = 10_000
_SEQUENTIAL, _FUNCTIONAL = ("Sequential",), ("Functional", "Model")
MODELS = (*_SEQUENTIAL, *_FUNCTIONAL)
"""The classes of models, which may be layers, too."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer as its file describes it.

    Attributes:
        kind: the name of its class.
        is_operation: whether it is a bare operation such as x + y, which has no weights.
    """

    name: str
    kind: str
    config: Mapping[str, Any]
    is_operation: bool = False


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of a layer.

    Attributes:
        inputs: the names of the values that it reads, and numbers.
        output: what the call is called; its n-th output is ``(output, n)``.
        options: values by the name of the argument, such as ``initial_state``.
    """

    layer: str
    inputs: tuple[Any, ...]
    output: str
    options: Mapping[str, Any]


Value = tuple[str, int]
"""A value: an output of a call."""


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The layers of a model by name, their calls in an order in which they can run, and what goes in and out.

    Attributes:
        models: those of the layers that are models themselves, by name.
    """

    layers: Mapping[str, Layer]
    calls: tuple[Call, ...]
    inputs: tuple[str, ...]
    outputs: tuple[Value, ...]
    is_sequential: bool
    models: Mapping[str, "Architecture"] = dataclasses.field(default_factory=dict)


def read_architecture(model: Any) -> Architecture:
    """The architecture in the JSON of a model: its class and its config.

    Raises:
        InteropError: the model is of a class of its own, or its description does not hold together.
    """
    try:
        kind, config = model["class_name"], model["config"]
        if kind in MODELS:
            found = _sequential(config) if kind in _SEQUENTIAL else _functional(config)
            inner = [layer for layer in found.layers.values() if layer.kind in MODELS]
            models = {one.name: read_architecture({"class_name": one.kind, "config": one.config}) for one in inner}
            return dataclasses.replace(found, models=models)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        if isinstance(error, InteropError):
            raise
        reason = f"{type(error).__name__}: {error}"
        raise InteropError(f"the model's description does not hold together ({reason})") from None
    raise InteropError(
        f"the model is of the class {kind!r:.60}: Sequential and functional models of Keras' layers can be read"
    )


def read_layer(entry: Any) -> Layer:
    """A layer in JSON.

    Raises:
        InteropError: it is of a class that is not Keras' own.
    """
    kind, config = entry["class_name"], entry["config"]
    name = entry.get("name") or config.get("name")
    if not isinstance(name, str) or not isinstance(kind, str) or not isinstance(config, Mapping):
        raise InteropError(f"a layer of the class {kind!r:.60} has no name")
    module = entry.get("module") or "keras.layers"
    is_operation = module.startswith("keras.src.ops.") or _is_bare(entry)
    if not is_operation and module.split(".")[0] not in ("keras", "keras_core", "tensorflow"):
        kind = f"{module}>{kind}"  # of somebody's own: no layer is called so
    registered = entry.get("registered_name")
    return Layer(name, registered if registered and ">" in registered else kind, config, is_operation)


def _is_bare(entry: Mapping[str, Any]) -> bool:
    """Whether this is an operation of Keras 3 in an ``.h5`` file, which names no modules; layers say more."""
    nodes = entry.get("inbound_nodes") or []
    has_more = entry["config"].keys() - {"name", "axis", "keepdims", "dtype"}
    return "module" not in entry and not has_more and any(isinstance(node, Mapping) for node in nodes)


def _entries(config: Any) -> list[Any]:
    entries = config if isinstance(config, list) else config["layers"]
    if len(entries) > _MOST_LAYERS:
        raise InteropError(f"the model has {len(entries)} layers, more than {_MOST_LAYERS}")
    return entries


def _sequential(config: Any) -> Architecture:
    layers = [read_layer(entry) for entry in _entries(config)]
    if not layers:
        raise InteropError("the model has no layers")
    if layers[0].kind != "InputLayer":
        known = {key: layers[0].config[key] for key in ("batch_input_shape", "batch_shape") if key in layers[0].config}
        if layers[0].kind == "Bidirectional" and not known:  # of old, only the layer in it says so
            inner = layers[0].config["layer"]["config"]
            known = {key: inner[key] for key in ("batch_input_shape",) if key in inner}
        layers.insert(0, Layer("input of " + layers[0].name, "InputLayer", known))
    calls, value = [], (layers[0].name, 0)
    for layer in layers[1:]:
        if layer.kind == "InputLayer":
            raise InteropError(f"layer {layer.name!r}: an InputLayer in the middle of a Sequential cannot be read")
        calls.append(Call(layer.name, (value,), layer.name, {}))
        value = (layer.name, 0)
    by_name = _by_name(layers)
    return Architecture(by_name, tuple(calls), (layers[0].name,), (value,), True)


def _by_name(layers: Sequence[Layer]) -> dict[str, Layer]:
    found = {layer.name: layer for layer in layers}
    if len(found) < len(layers):
        raise InteropError("two layers of the model have one name")
    return found


def _functional(config: Any) -> Architecture:
    entries = _entries(config)
    layers = [read_layer(entry) for entry in entries]
    calls = _counted(list(_calls(layers, entries)), layers, _ends(config["output_layers"]))
    inputs = tuple(name for name, _ in _ends(config["input_layers"]))
    outputs = tuple(_ends(config["output_layers"]))
    return Architecture(_by_name(layers), _in_order(calls, inputs, outputs), inputs, outputs, False)


def _calls(layers: Sequence[Layer], entries: Sequence[Any]) -> Iterator[Call]:
    for layer, entry in zip(layers, entries, strict=True):
        for number, node in enumerate(entry.get("inbound_nodes") or []):
            inputs, options = _of_today(node) if isinstance(node, Mapping) else _of_old(node)
            yield Call(layer.name, inputs, _output(layer.name, number), options)


def _counted(calls: list[Call], layers: Sequence[Layer], outputs: Sequence[Value]) -> list[Call]:
    """The calls of models that are layers, counted as who reads them does: from 1 on where 0 is the model by itself."""
    read = {name for call in calls for name, _ in values_of(call)} | {name for name, _ in outputs}
    for layer in layers:
        own = [n for n, call in enumerate(calls) if call.layer == layer.name]
        if layer.kind in MODELS and _output(layer.name, len(own)) in read:
            for number, n in enumerate(own, 1):
                calls[n] = dataclasses.replace(calls[n], output=_output(layer.name, number))
    return calls


def _output(layer: str, number: int) -> str:
    """What the call of a layer of this number is called."""
    return layer if number == 0 else f"{layer} (call {number})"


def _ends(values: Any) -> list[Value]:
    """The values that go in or out: a list of places, one place, or a dict of them."""
    if isinstance(values, Mapping):
        values = list(values.values())
    if values and isinstance(values[0], str):
        values = [values]
    return [(_output(name, call), int(n)) for name, call, n, *_ in values]


def _of_old(node: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call in Keras 1 and 2: ``[[layer, call, output, options], …]``."""
    if node and isinstance(node[0], str):
        node = [node]
    inputs, options = [], {}
    for name, call, n, *rest in node:
        inputs.append((_output(name, call), int(n)))
        options |= rest[0] if rest and rest[0] else {}
    return tuple(inputs), {key: _place(value) for key, value in options.items()}


def _place(value: Any) -> Any:
    """Values within an option: lists of ``[layer, call, output]``."""
    if isinstance(value, list) and len(value) in (3, 4) and isinstance(value[0], str):
        return (_output(value[0], value[1]), int(value[2]))
    return [_place(part) for part in value] if isinstance(value, list) else value


def _of_today(node: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call in Keras 3: arguments in which tensors are places."""
    args = [_tensors(value) for value in node["args"]]
    if len(args) == 1 and isinstance(args[0], list):
        args = args[0]
    options = {key: _tensors(value) for key, value in node["kwargs"].items()}
    if options.get("initial_state") is not None and options.get("mask") is None:
        options["ignore_mask"] = True  # Keras 3 masks a layer by itself only where it reads a single value
    return tuple(args), options


def _tensors(value: Any) -> Any:
    if isinstance(value, list):
        return [_tensors(part) for part in value]
    if isinstance(value, Mapping):
        if value.get("class_name") != "__keras_tensor__":
            raise InteropError(f"an argument of the class {value.get('class_name')!r:.60} cannot be read")
        name, call, n = value["config"]["keras_history"]
        return (_output(name, call), int(n))
    return value


def values_of(call: Call) -> list[Value]:
    """All values that a call reads."""
    found: list[Value] = []

    def look(value: Any) -> None:
        if isinstance(value, tuple):
            found.append(value)
        elif isinstance(value, list):
            for part in value:
                look(part)

    look(list(call.inputs))
    look(list(call.options.values()))
    return found


def _in_order(calls: Sequence[Call], inputs: Sequence[str], outputs: Sequence[Value]) -> tuple[Call, ...]:
    """The calls that the outputs need, each after those that it reads."""
    by_output = {call.output: call for call in calls}
    done: dict[str, Call] = {}
    waiting: list[tuple[str, bool]] = [(name, False) for name, _ in reversed(outputs)]
    open_calls: set[str] = set()
    while waiting:
        name, is_ready = waiting.pop()
        if name in done or name in inputs:
            continue
        if name not in by_output:
            raise InteropError(f"the model reads {name!r}, which no layer gives")
        if is_ready:
            done[name] = by_output[name]
            continue
        if name in open_calls:
            raise InteropError(f"layer {by_output[name].layer!r} reads its own output")
        open_calls.add(name)
        waiting.append((name, True))
        waiting += [(read, False) for read, _ in values_of(by_output[name])]
    return tuple(done.values())
