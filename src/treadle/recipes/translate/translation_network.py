"""The network that translates."""

from torch import nn

from treadle.seq2seq import Attention, Bidirectional, EncoderDecoder
from treadle.training.layered_networks import layers_of
from treadle.wiring import Graph

REACH = 8
"""How far attention tells places apart: what is farther counts as just as far."""
WINDOW = 2
"""Window of attention, relative to where it looked last."""


def translation_model(
    source_tokens: int,
    target_tokens: int,
    hidden_size: int = 128,
    embedding_size: int = 64,
    cell: str = "lstm",
    layers: int = 1,
    attention: str = "dot",
    dropout: float = 0.1,
    fertility: float = 1.0,
    wiring: str = "stack",
) -> EncoderDecoder:
    """The encoder-decoder of `Translator`: bidirectional encoder, decoder, attention, another layer and a linear head.

    Attention reads each token's embedding and the encoder's output, concatenated: embeddings do not depend on position,
    so they generalise to longer sources.

    Args:
        source_tokens: size of the source vocabulary.
        target_tokens: size of the target vocabulary.
        hidden_size: ``H`` of every layer.
        embedding_size: features of an embedding.
        cell: a name in `treadle.training.CELLS`.
        layers: layers in each direction of the encoder, and of the decoder below attention; one more is above it.
        attention: ``"dot"``, ``"additive"`` or ``"none"``.
        fertility: how often each token can be attended to, at the start of training.
        dropout: dropout on embeddings and before the scores, in training.
        wiring: how the layers of each direction of the encoder connect, and those of the decoder below attention.

    Raises:
        ValueError: no such cell, wiring or attention.
        ShapeError: a size is not a positive whole number.

    Example:
        >>> import torch
        >>> from treadle.recipes.translate import translation_model
        >>> model = translation_model(30, 12, hidden_size=8)
        >>> scores, _ = model(torch.randint(30, (2, 9)), torch.randint(12, (2, 5)))
        >>> scores.shape
        torch.Size([2, 5, 12])
    """

    def reader(tokens: int, beside: bool = False) -> Graph:
        graph = Graph(())
        node = graph.add("embedded", nn.Embedding(tokens, embedding_size), reads=graph.x)
        if dropout:
            node = graph.add("dropout", nn.Dropout(dropout), reads=node)
        stack = layers_of(cell, wiring, layers, embedding_size, hidden_size, dropout)
        top = graph.add("layers", stack, reads=node)
        return graph.outputs(graph.add("beside", nn.Identity(), reads=[top, node]) if beside else top)

    if attention not in ("dot", "additive", "none"):
        raise ValueError(f"attention is dot, additive or none, but {attention!r} was passed")
    attends = attention != "none"
    found = 2 * hidden_size + embedding_size if attends else 0
    rules = {"priority": True, "reach": REACH, "window": WINDOW, "fertility": fertility}
    look = Attention(hidden_size, found, attention, hidden_size, **rules) if attends else None  # pyright: ignore
    head = Graph(hidden_size + found)
    node = head.add("layers", layers_of(cell, "stack", 1, hidden_size + found, hidden_size), reads=head.x)
    reads = [node, head.x]  # what attention has found needs no memory to be said
    if dropout:
        reads = [head.add("dropout", nn.Dropout(dropout), reads=reads)]
    head.outputs(head.add("scores", nn.Linear(2 * hidden_size + found, target_tokens), reads=reads))
    encoder = Bidirectional(reader(source_tokens, attends), reader(source_tokens))
    return EncoderDecoder(encoder, reader(target_tokens), head, attention=look)
