"""States in files, with the fingerprint of the network that they belong to."""

import os

from torch import Tensor, nn

from treadle import state as states
from treadle.errors import StateError
from treadle.files.model_file import fingerprint, read, write
from treadle.protocol import State


def save_state(path: str | os.PathLike[str], state: State, model: nn.Module) -> None:
    """Write a state to a ``.safetensors`` file, so that a stream can be continued later or elsewhere.

    Args:
        path: the file to write.
        state: what a `Recurrent`, a step or a session returned.
        model: the network that it belongs to; its fingerprint goes into the file.

    Raises:
        StateError: the state is not one of this network's.
        TypeError: ``model`` is a drop-in, whose ``hx`` is not by name.
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
    rows = states.batch_size_of(state)
    if not hasattr(model, "initial_state"):
        raise TypeError(
            f"a {type(model).__name__} keeps no states by name: pass its .recurrent(), and the state of that"
        )
    state = states.check_state(state, _like(model, rows, state), rows, type(model).__name__)
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in states.named_tensors(state)}
    write(path, tensors, {"format": "treadle state", "fingerprint": fingerprint(model)})


def load_state(path: str | os.PathLike[str], model: nn.Module) -> State:
    """Read a state that `save_state` wrote, for the network that it belongs to.

    Args:
        path: the file.
        model: the network; its weights must be those with which the state was saved.

    Returns:
        The state, on the device of the network.

    Raises:
        StateError: it is the state of another network, or of this one with other weights.
        ModelFileError: the file is not a state file, is damaged, or was made by a newer treadle.
        OSError: the file cannot be read.
    """
    tensors, metadata = read(path, "treadle state")
    if metadata.get("fingerprint") != fingerprint(model):
        raise StateError(
            f"{path} holds the state of another network, or of this one with other weights: load it with the"
            " one it was saved for"
        )
    like = _like(model, 1, None)
    if {name for name, _ in states.named_tensors(like)} != tensors.keys():
        raise StateError(
            f"{path} holds {sorted(tensors)}, but the network keeps {[name for name, _ in states.named_tensors(like)]}"
        )
    state = states.rebuild(like, tensors)
    rows = states.batch_size_of(state)
    states.check_state(state, states.map_state(Tensor.cpu, _like(model, rows, state)), rows, type(model).__name__)
    return states.map_state(lambda tensor, row: tensor.to(row.device), state, like)


def _like(model: nn.Module, rows: int, state: State) -> State:
    """The network's initial state in the precision of ``state``: it may run in another one than it was made in."""
    initial: State = model.initial_state(rows)  # pyright: ignore[reportCallIssue]
    if state is None:
        return initial
    given: dict[str, Tensor] = dict(states.named_tensors(state))
    precision = {name: tensor.dtype for name, tensor in given.items()}
    tensors = {name: tensor.to(precision.get(name, tensor.dtype)) for name, tensor in states.named_tensors(initial)}
    return states.rebuild(initial, tensors)
