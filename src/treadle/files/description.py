"""Networks as data: what a network is made of, as JSON, and back. Nothing but constructors on a list is ever called.

A module is described by its class and the arguments of its constructor, which are read from its attributes of the same
names (``self.hidden_size`` for ``hidden_size``), as scikit-learn does, or from its method ``constructor_arguments``. A
class is only ever looked up by name among treadle's own, a fixed list of `torch.nn`'s, and those that the caller
passes: a description cannot name anything else.
"""

import functools
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from treadle import cells, gradients
from treadle.control.loop import ClosedLoop
from treadle.control.spaces import Continuous, Discrete, Likeliest
from treadle.errors import ModelFileError, TreadleError
from treadle.running import dropin
from treadle.running.recurrent import Recurrent
from treadle.running.reversed import Reversed
from treadle.seq2seq import Attention, Bidirectional, EncoderDecoder
from treadle.wiring.graph import Delayed, Graph, Node, Read, StateField, Sum
from treadle.wiring.mean import MeanCell
from treadle.wiring.noisy_state import NoisyStateCell
from treadle.wiring.sizes import as_number
from treadle.wiring.stack import Stack

MEMORYLESS = (
    *("Linear", "Identity", "Embedding", "Flatten", "Unflatten", "Sequential"),
    *("Conv1d", "Conv2d", "Conv3d", "MaxPool1d", "MaxPool2d", "AvgPool1d", "AvgPool2d", "Upsample"),
    *("LayerNorm", "GroupNorm", "RMSNorm", "Dropout", "Dropout1d", "Dropout2d", "AlphaDropout"),
    *("PReLU", "ReLU", "ReLU6", "LeakyReLU", "ELU", "SELU", "CELU", "GELU", "SiLU", "Mish", "GLU"),
    *(
        "Tanh",
        "Sigmoid",
        "Hardsigmoid",
        "Hardswish",
        "Hardtanh",
        "Threshold",
        "Softplus",
        "Softsign",
        "Softmax",
        "LogSoftmax",
        "LogSigmoid",
    ),
)
"""The modules of `torch.nn` that a file may name."""


MOST_LAYERS, MOST_MODULES, LONGEST_DELAY = 1_000, 100_000, 10_000
"""What a file may ask for; far more than anybody uses, and little enough to be refused quickly."""


Kind = TypeVar("Kind", bound=type)
_of_rooms_above: dict[str, type] = {}


def kept_in_files(name: str) -> Callable[[Kind], Kind]:
    """A decorator for classes of rooms above this one that files may name.

    As of every class here, its constructor's arguments are its attributes of the same names, or what its method
    ``constructor_arguments`` gives; it must not do anything but build, whatever it is given.

    Args:
        name: what files call the class, ``"treadle.…"``.
    """

    def keep(kind: Kind) -> Kind:
        if _of_rooms_above.setdefault(name, kind) is not kind:
            raise ValueError(f"files call {_of_rooms_above[name].__qualname__} {name!r} already: choose another name")
        return kind

    return keep


def _known() -> dict[str, type]:
    own = {name: getattr(cells, name) for name in cells.__all__ if name.endswith("Cell") and name != "RecurrentCell"}
    own |= {name: getattr(dropin, name) for name in dropin.__all__}
    own |= {"Stack": Stack, "Graph": Graph, "Recurrent": Recurrent}
    own |= {"ClosedLoop": ClosedLoop, "Discrete": Discrete, "Continuous": Continuous, "Likeliest": Likeliest}
    own |= {
        kind.__name__: kind for kind in (MeanCell, NoisyStateCell, EncoderDecoder, Bidirectional, Reversed, Attention)
    }
    own |= {method.__name__: method for method in gradients.METHODS}
    names = {f"treadle.{name}": kind for name, kind in own.items()} | _of_rooms_above
    return names | {f"torch.nn.{name}": getattr(nn, name) for name in MEMORYLESS}


def describe(model: Any) -> str:
    """A network as JSON, without its weights."""
    names = {kind: name for name, kind in _known().items()}
    return json.dumps(_describe(model, names))


def build(text: str, extra: Iterable[type] = ()) -> Any:
    """The network that `describe` described, with fresh weights; it may name the classes ``extra``, too."""
    known = _known()
    for kind in extra:
        if not isinstance(kind, type):
            raise TypeError(f"cells= takes classes, but was given {kind!r:.60}: pass the class itself")
        if known.setdefault(kind.__name__, kind) is not kind:
            raise ModelFileError(f"two classes passed as cells= are called {kind.__name__!r}: rename one of them")
    try:
        return _build(json.loads(text), known)
    except ModelFileError:
        raise
    except TreadleError as error:
        raise ModelFileError(f"the file describes a network that does not fit together: {error}") from error
    except RecursionError:
        raise ModelFileError(
            "the file's description of the network is nested too deeply to be one of treadle's"
        ) from None
    except Exception as error:
        raise ModelFileError(
            f"the file's description of the network is damaged ({type(error).__name__}: {error})"
        ) from error


def _describe(value: Any, names: Mapping[type, str]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_describe(part, names) for part in value]
    if isinstance(value, tuple):
        return {"tuple": [_describe(part, names) for part in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": [[key, _describe(part, names)] for key, part in value.items()]}
    if isinstance(value, type):
        return {"class": names.get(value, value.__name__)}
    if isinstance(value, functools.partial) and isinstance(value.func, type) and not value.args:
        return _describe(value.func, names) | {"with": {k: _describe(v, names) for k, v in value.keywords.items()}}
    name = names.get(type(value))
    if type(value) is Graph:
        return {"type": name, "graph": _describe_graph(value, names)}
    if type(value) is nn.Sequential:
        return {"type": name, "parts": [_describe(part, names) for part in value]}
    if isinstance(value, nn.Module) or name is not None:
        return {
            "type": name or type(value).__name__,
            "arguments": {k: _describe(v, names) for k, v in arguments_of(value).items()},
        }
    raise ModelFileError(
        f"a model file cannot hold {value!r:.60} (a {type(value).__name__}): only numbers, words, lists, dicts by words"
        " and modules"
    )


def arguments_of(module: Any) -> dict[str, Any]:
    """The arguments that would construct the module again."""
    if hasattr(module, "constructor_arguments"):
        return module.constructor_arguments()
    found = {}
    for name, parameter in inspect.signature(type(module)).parameters.items():
        if name in ("device", "dtype") or name.startswith("_"):
            continue  # the weights say these
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            if type(module).__module__.startswith("torch.nn."):
                continue  # Identity takes anything and keeps nothing
            kind = type(module).__name__
            raise ModelFileError(
                f"{kind}.__init__ takes *{name}, which says nothing of what was passed: define a method"
                f" constructor_arguments in {kind} that returns them as a dict"
            )
        value = getattr(module, name, inspect.Parameter.empty)
        if isinstance(value, Tensor) or (value is None and isinstance(parameter.default, bool)):
            value = value is not None  # torch.nn keeps the bias itself under the name of the switch
        if value is inspect.Parameter.empty or inspect.ismethod(value):
            kind = type(module).__name__
            raise ModelFileError(
                f"{kind}.__init__ takes {name!r}, but the instance does not keep it: write self.{name} = {name} in it"
            )
        found[name] = value
    return found


def _describe_graph(graph: Graph, names: Mapping[type, str]) -> dict[str, Any]:
    seen: dict[int, str] = {}
    nodes = []
    for name, connection in graph.connections.items():
        module = graph.get_submodule(name)
        shared = seen.setdefault(id(module), name)
        nodes.append(
            {
                "name": name,
                "size": _describe(graph.nodes[name].size, names),
                "module": _describe(module, names) if shared == name else {"same_as": shared},
                "reads": [_describe_read(read) for read in connection.reads],
                "previous": {field: _describe_read(read) for field, read in connection.previous},
            }
        )
    outputs = [_describe_read(read) for read in graph.output_reads]
    return {"input_size": _describe(graph.input_size, names), "nodes": nodes, "outputs": outputs}


def _describe_read(read: Read) -> dict[str, Any]:
    match read:
        case Delayed():
            return {"node": read.name, "delayed": read.k}
        case StateField():
            return {"node": read.name, "state": read.field}
        case Sum():
            return {"sum": [_describe_read(part) for part in read.parts]}
    return {"node": read.name}


def _build(value: Any, known: Mapping[str, type]) -> Any:
    if not isinstance(value, dict):
        return [_build(part, known) for part in value] if isinstance(value, list) else value
    if "tuple" in value:
        return tuple(_build(part, known) for part in value["tuple"])
    if "dict" in value:
        return {str(key): _build(part, known) for key, part in value["dict"]}
    if "class" in value:
        kind = _class(value["class"], known)
        return functools.partial(kind, **_build_arguments(value["with"], known)) if "with" in value else kind
    kind = _class(value["type"], known)
    if "graph" in value and issubclass(kind, Graph):
        return _build_graph(value["graph"], known)
    if "parts" in value and issubclass(kind, nn.Sequential):
        return kind(*(_build(part, known) for part in value["parts"]))
    return kind(**_build_arguments(value["arguments"], known))


def _build_arguments(arguments: Mapping[str, Any], known: Mapping[str, type]) -> dict[str, Any]:
    for name, argument in arguments.items():
        # Nobody writes these: they would let a file choose where memory is taken, or how much.
        if name in ("device", "dtype") or name.startswith("_"):
            raise ModelFileError(f"the file passes {name!r:.40} to a constructor, which no treadle writes")
        if name == "num_layers" and not (isinstance(argument, int) and argument <= MOST_LAYERS):
            raise ModelFileError(f"the file describes a network of more than {MOST_LAYERS:,} layers")
    return {name: _build(argument, known) for name, argument in arguments.items()}


def _class(name: Any, known: Mapping[str, type]) -> type:
    if not isinstance(name, str) or name not in known:
        own = isinstance(name, str) and "." not in name
        advice = (
            f"pass the class: td.load(path, cells=[{name}])" if own else "it was not written by this version of treadle"
        )
        raise ModelFileError(f"the file needs {name!r:.80}, which this loader does not know: {advice}")
    return known[name]


def _build_graph(description: Mapping[str, Any], known: Mapping[str, type]) -> Graph:
    graph = Graph(_build(description["input_size"], known))
    nodes, counted = {"x": graph.x}, {}
    sizes = {node["name"]: as_number(_build(node["size"], known)) for node in description["nodes"]}

    def read(item: Mapping[str, Any]) -> Read:
        if "sum" in item:
            parts = tuple(read(part) for part in item["sum"])
            return Sum(parts, next((part.size for part in parts if part.size is not None), None))
        name = item["node"]
        node: Node = nodes[name] if name in nodes else graph.later(name, sizes[name])
        if "delayed" in item:
            if not (isinstance(item["delayed"], int) and item["delayed"] <= LONGEST_DELAY):
                raise ModelFileError(f"the file describes a delay of more than {LONGEST_DELAY:,} steps")
            return node.delayed(item["delayed"])
        return node.state(item["state"]) if "state" in item else node

    for node in description["nodes"]:
        module = node["module"]
        module = graph.get_submodule(module["same_as"]) if "same_as" in module else _build(module, known)
        # Graphs of shared graphs can say in a few lines what nobody could step in a lifetime.
        if occurrences(module, counted) > MOST_MODULES:
            raise ModelFileError(f"the file describes a network of more than {MOST_MODULES:,} modules")
        previous = {field: read(item) for field, item in node["previous"].items()}
        nodes[node["name"]] = graph.add(node["name"], module, [read(item) for item in node["reads"]], previous)
    return graph.outputs(*(read(item) for item in description["outputs"]))


def occurrences(module: nn.Module, counted: dict[int, int]) -> int:
    """How many modules there are in a module, one that stands in several places as often as it stands there."""
    if id(module) not in counted:
        parts = [part for part in module._modules.values() if part is not None]
        counted[id(module)] = 1 + sum(occurrences(part, counted) for part in parts)
    return counted[id(module)]


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by name, on the CPU, contiguous, sharing no memory."""
    found = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise ModelFileError(
                f"{name} in the state_dict is a {type(value).__name__}: a model file holds tensors only"
            )
        found[name] = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    return found
