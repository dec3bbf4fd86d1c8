"""What is kept of a sequence: state, position, fingerprint of the model and last answer, together."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from treadle import state as states
from treadle.errors import ModelFileError
from treadle.files.model_file import content_of, parse
from treadle.serving.sequences import Answer, Kept, Key

FORMAT = "treadle sequence"
_STATE, _ANSWER = "state/", "answer"


class Record(NamedTuple):
    """What is kept of a sequence.

    Attributes:
        key: whose it is, and its id.
        model: the name of the model.
        fingerprint: of the network.
        position: steps taken.
        state: after them; None of a sequence that has ended.
        kept: its last answer.
        ended: why it ended; empty if it lives.
    """

    key: Key
    model: str
    fingerprint: str
    position: int
    state: Any
    kept: Kept | None
    ended: str

    def content(self) -> bytes:
        """As a safetensors file."""
        tensors: dict[str, Tensor] = {}
        if self.state is not None:
            tensors = {f"{_STATE}{name}": one.contiguous() for name, one in states.named_tensors(self.state)}
        metadata = {
            "format": FORMAT,
            "key": json.dumps(self.key),
            "model": self.model,
            "fingerprint": self.fingerprint,
            "position": str(self.position),
            "ended": self.ended,
        }
        if self.kept is not None:
            tensors[_ANSWER] = torch.from_numpy(np.ascontiguousarray(self.kept.answer.ys))
            metadata |= {"answered": str(self.kept.answer.step), "digest": self.kept.digest.hex()}
        return content_of(tensors, metadata)

    @classmethod
    def read(cls, content: bytes, like: Any) -> "Record":
        """The reverse; ``like`` is a state of the network, for the structure.

        Raises:
            ModelFileError: it is no such record, or damaged.
        """
        tensors, metadata = parse(content, FORMAT, "what was kept")
        try:
            kept = None
            if _ANSWER in tensors:
                answer = Answer(tensors.pop(_ANSWER).numpy(), int(metadata["answered"]))
                kept = Kept(answer, bytes.fromhex(metadata["digest"]))
            owner, name = json.loads(metadata["key"])
            state = None if metadata["ended"] else _rebuilt(tensors, like)
            return cls(
                (owner, name),
                metadata["model"],
                metadata["fingerprint"],
                int(metadata["position"]),
                state,
                kept,
                metadata["ended"],
            )
        except (KeyError, ValueError, TypeError) as error:
            raise ModelFileError(f"what was kept is damaged: {error}") from None


def _rebuilt(tensors: Mapping[str, Tensor], like: Any) -> Any:
    """A state in the structure of ``like``, as far as it has the same names; else its tensors by name."""
    named = {name.removeprefix(_STATE): tensor for name, tensor in tensors.items()}
    same = [name for name, _ in states.named_tensors(like)] and set(dict(states.named_tensors(like))) == set(named)
    return states.rebuild(like, named) if same or not named else named
