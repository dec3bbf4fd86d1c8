"""The network that translates."""

from torch import nn

from treadle.seq2seq import Attention, Bidirectional, EncoderDecoder
from treadle.training.network import layers_of
from treadle.wiring import Graph

REACH = 8
"""How far attention tells places apart: what is farther counts as just as far."""


def translation_model(
    source_tokens: int,
    target_tokens: int,
    hidden_size: int = 128,
    embedding_size: int = 64,
    cell: str = "lstm",
    layers: int = 1,
    attention: str = "dot",
    dropout: float = 0.1,
) -> EncoderDecoder:
    """A network from tokens to scores of tokens: read in both directions, attend, then a layer and a linear head.

    Args:
        source_tokens: how many the encoder reads.
        target_tokens: how many the decoder reads and scores.
        hidden_size: ``H`` of every layer.
        embedding_size: features that stand for a token.
        cell: a name in `treadle.training.CELLS`.
        layers: in each direction of the encoder, and below the attention in the decoder; one more is above it.
        attention: ``"dot"``, ``"additive"`` or ``"none"``.
        dropout: of embeddings and before the scores, while training.

    Raises:
        ValueError: no such cell or attention.
        ShapeError: a size is not a positive whole number.

    Example:
        >>> import torch
        >>> from treadle.recipes.translate import translation_model
        >>> model = translation_model(30, 12, hidden_size=8)
        >>> scores, _ = model(torch.randint(30, (2, 9)), torch.randint(12, (2, 5)))
        >>> scores.shape
        torch.Size([2, 5, 12])
    """

    def reader(tokens: int) -> Graph:
        graph = Graph(())
        node = graph.add("embedded", nn.Embedding(tokens, embedding_size), reads=graph.x)
        if dropout:
            node = graph.add("dropout", nn.Dropout(dropout), reads=node)
        stack = layers_of(cell, "stack", layers, embedding_size, hidden_size, dropout)
        return graph.outputs(graph.add("layers", stack, reads=node))

    if attention not in ("dot", "additive", "none"):
        raise ValueError(f"attention is dot, additive or none, but {attention!r} was passed")
    found = 0 if attention == "none" else 2 * hidden_size
    look = Attention(hidden_size, found, attention, hidden_size, REACH) if found else None  # pyright: ignore
    head = Graph(hidden_size + found)
    node = head.add("layers", layers_of(cell, "stack", 1, hidden_size + found, hidden_size), reads=head.x)
    reads = [node, head.x]  # what attention has found needs no memory to be said
    if dropout:
        reads = [head.add("dropout", nn.Dropout(dropout), reads=reads)]
    head.outputs(head.add("scores", nn.Linear(2 * hidden_size + found, target_tokens), reads=reads))
    encoder = Bidirectional(reader(source_tokens), reader(source_tokens))
    return EncoderDecoder(encoder, reader(target_tokens), head, attention=look)
