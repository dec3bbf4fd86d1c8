"""A larger vocabulary for a trained network."""

import copy
from collections.abc import Iterable
from typing import Any, TypeVar

from torch import nn

from treadle.adapt.carry import Carrier
from treadle.adapt.parts import CONVOLUTIONS, features_out, finished, outermost, with_part
from treadle.adapt.patterns import chosen
from treadle.adapt.places import Changed, Places, Start, appended
from treadle.adapt.trainable import trainable
from treadle.adapt.wider import grown_layer, read_wider, wider
from treadle.errors import AdaptError

M = TypeVar("M", bound=nn.Module)


@trainable
def grow_vocabulary(network: M, size: int, *, at: Iterable[str] | str | None = None, start: Start = "mean") -> M:
    """A copy of a network with a vocabulary of ``size`` tokens; the new ones come after the old.

    Embeddings get rows for the new tokens, and the layer that scores tokens gets outputs for them. The old scores are
    what they were for sequences of old tokens. Weights that an embedding shares with the scores stay shared.

    Args:
        network: any network with a `torch.nn.Embedding`.
        size: the new number of tokens.
        at: patterns of the embeddings and the scoring layers; by default all embeddings, and the one layer that scores
            as many tokens, or shares weights with an embedding.
        start: how a new token starts: as the ``"mean"`` of all old ones, which scores as an average token does, as
            ``"zeros"``, or ``"xavier"``.

    Raises:
        AdaptError: there is no embedding, embeddings differ in their tokens, several layers might score them, or the
            size is smaller.

    Source: the mean as a start is Hewitt's, *Initializing New Word Embeddings for Pretrained Language Models*, 2021.

    Example:
        >>> import torch, treadle as td
        >>> g = td.Graph(())
        >>> embedded = g.add("embedded", torch.nn.Embedding(10, 8), reads=g.x)
        >>> low = g.add("low", td.LSTMCell(8, 8), reads=embedded)
        >>> scores = g.add("scores", torch.nn.Linear(8, 10), reads=low)
        >>> model = td.Recurrent(g.outputs(scores))
        >>> larger = td.adapt.grow_vocabulary(model, 12)
        >>> tokens = torch.randint(10, (2, 7))
        >>> (ys, _), (new_ys, _) = model(tokens), larger(tokens)
        >>> torch.allclose(new_ys[..., :10], ys, atol=1e-6), larger.cell.output_size
        (True, 12)
    """
    if start not in ("mean", "zeros", "xavier"):
        raise AdaptError(f"new tokens start as mean, zeros or xavier, but {start!r} was passed")
    modules = dict(network.named_modules())
    candidates = {
        path: module for path, module in modules.items() if isinstance(module, (nn.Embedding, nn.Linear, *CONVOLUTIONS))
    }
    named = set(candidates)
    if at is not None:
        named = {path for paths in chosen(at, list(candidates), "embedding or linear layer").values() for path in paths}
    embeddings = {p: m for p, m in candidates.items() if p in named and isinstance(m, nn.Embedding)}
    sizes = {module.num_embeddings for module in embeddings.values()}
    if not sizes and at is None:
        raise AdaptError("there is no torch.nn.Embedding in this network, so its tokens are not known: pass at=")
    if at is not None:
        sizes |= {features_out(candidates[p]) or 0 for p in named if p not in embeddings}
    if len(sizes) != 1:
        listed = ", ".join(f"{path} ({module.num_embeddings})" for path, module in embeddings.items())
        raise AdaptError(f"these know different numbers of tokens: {listed or sizes}; say with at= which are to grow")
    (old,) = sizes
    if not isinstance(size, int) or isinstance(size, bool) or size < old:
        raise AdaptError(
            f"the network knows {old} tokens, and vocabularies grow only: pass {old} or more, not {size!r}"
        )
    scoring = [p for p in candidates if p in named and p not in embeddings and features_out(candidates[p]) == old]
    if at is None:
        tied = [p for p in scoring if any(candidates[p].weight is e.weight for e in embeddings.values())]
        scoring = tied or scoring
        if len(scoring) > 1 and not tied:
            raise AdaptError(
                f"{', '.join(scoring)} all give {old} features, so it is not known which scores tokens: pass"
                f" at=[{', '.join(map(repr, [*embeddings, scoring[-1]]))}]"
            )
    growing = {*embeddings, *scoring}
    ids = {id(candidates[path]) for path in growing}
    left = set(ids)

    def change(path: str, module: Any, places: Places) -> Changed | None:
        if isinstance(module, nn.Softmax | nn.LogSoftmax):
            return copy.deepcopy(module), places  # it has a share for every token
        if id(module) not in ids:
            return None
        left.discard(id(module))
        if not isinstance(module, nn.Embedding):
            return grown_layer(path, read_wider(path, module, places, "zeros")[0], size, start)
        new, rows = copy.deepcopy(module), appended(old, size)
        if rows is not None:
            new.weight, new.num_embeddings = wider(module.weight, {0: rows}, start), size
        return new, None

    carry, result = Carrier(change=change).carry, network
    for path in dict.fromkeys(outermost(network, path) for path in modules if path in growing):
        new, _ = carry(path, network.get_submodule(path), None)
        result = with_part(result, path, new)
    for path in growing:
        if id(candidates[path]) in left:  # inside a cell of a user's own, which calls it as it likes
            result = with_part(result, path, carry(path, candidates[path], None)[0])
    return finished(network, result)
