"""States in files, with the fingerprint of the network that they belong to."""

import os

from torch import Tensor, nn

from treadle import state as states
from treadle.atomic import write_whole
from treadle.errors import StateError
from treadle.files.model_file import content_of, fingerprint, parse, read
from treadle.protocol import State

KIND = "treadle state"


def save_state(path: str | os.PathLike[str], state: State, model: nn.Module) -> None:
    """Write a state to a ``.safetensors`` file, so that a stream can be continued later or elsewhere.

    Args:
        path: the file to write.
        state: what a `Recurrent`, a drop-in, a step or a session returned.
        model: the network that it belongs to; its fingerprint goes into the file.

    Raises:
        StateError: the state is not one of this network's.
        TypeError: ``model`` has no states.
        ValueError: it is bidirectional, so that it has none to continue from.
        OSError: the file cannot be written.

    Example:
        >>> import tempfile, os, torch, treadle as td
        >>> path = os.path.join(tempfile.mkdtemp(), "state.safetensors")
        >>> rnn = td.Recurrent(td.LSTMCell(3, 5))
        >>> ys, state = rnn(torch.randn(2, 7, 3))
        >>> td.save_state(path, state, rnn)
        >>> torch.equal(td.load_state(path, rnn).c, state.c)
        True
    """
    name, state, model = type(model).__name__, states.by_name(model, state), states.over_time(model)
    if not hasattr(model, "initial_state"):
        raise TypeError(f"a {name} has no initial_state(batch_size), so it keeps no states: pass a cell or a network")
    rows = states.batch_size_of(state)
    state = states.check_state(state, _like(model, rows, state), rows, name)
    write_whole(path, state_content(state, fingerprint(model)))


def state_content(state: State, belongs_to: str, **notes: str) -> bytes:
    """The bytes of a state file: of a state, the fingerprint of its network, and notes."""
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in states.named_tensors(state)}
    return content_of(tensors, {"format": KIND, "fingerprint": belongs_to, **notes})


def state_of_content(content: bytes, name: str, like: State, belongs_to: str) -> tuple[State, dict[str, str]]:
    """A state from the bytes of a state file, and its notes.

    Args:
        content: of the file.
        name: how messages call it.
        like: a state of the network, with as many rows as the state has to have.
        belongs_to: the fingerprint of the network.

    Raises:
        StateError, ModelFileError: as of `load_state`.
    """
    tensors, metadata = parse(content, KIND, name)
    state = _belonging(name, tensors, metadata, like, belongs_to)
    return states.check_state(state, like, states.batch_size_of(like), "this network"), metadata


def load_state(path: str | os.PathLike[str], model: nn.Module) -> State:
    """Read a state that `save_state` wrote, for the network that it belongs to.

    Args:
        path: the file.
        model: the network; its weights must be those with which the state was saved.

    Returns:
        The state, on the device of the network; of a drop-in, its ``hx``.

    Raises:
        StateError: it is the state of another network, or of this one with other weights.
        ModelFileError: the file is not a state file, is damaged, or was made by a newer treadle.
        OSError: the file cannot be read.
    """
    given, model = model, states.over_time(model)
    tensors, metadata = read(path, KIND)
    like = _like(model, 1, None)
    state = _belonging(path, tensors, metadata, like, fingerprint(model))
    rows = states.batch_size_of(state)
    states.check_state(state, states.map_state(Tensor.cpu, _like(model, rows, state)), rows, type(model).__name__)
    return states.as_given(given, states.map_state(lambda tensor, row: tensor.to(row.device), state, like))


def _belonging(
    path: str | os.PathLike[str], tensors: dict[str, Tensor], metadata: dict[str, str], like: State, belongs_to: str
) -> State:
    """Tensors as a state, once they are known to be of this network."""
    if metadata.get("fingerprint") != belongs_to:
        raise StateError(
            f"{path} holds the state of another network, or of this one with other weights: load it with the"
            " one it was saved for"
        )
    if {name for name, _ in states.named_tensors(like)} != tensors.keys():
        raise StateError(
            f"{path} holds {sorted(tensors)}, but the network keeps {[name for name, _ in states.named_tensors(like)]}"
        )
    return states.rebuild(like, tensors)


def _like(model: nn.Module, rows: int, state: State) -> State:
    """The network's initial state in the precision of ``state``: it may run in another one than it was made in."""
    initial: State = model.initial_state(rows)  # pyright: ignore[reportCallIssue]
    if state is None:
        return initial
    given: dict[str, Tensor] = dict(states.named_tensors(state))
    precision = {name: tensor.dtype for name, tensor in given.items()}
    tensors = {name: tensor.to(precision.get(name, tensor.dtype)) for name, tensor in states.named_tensors(initial)}
    return states.rebuild(initial, tensors)
