"""Layers above each other, connected by a named wiring."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import torch
from torch import nn

from treadle.errors import CellError, ShapeError
from treadle.protocol import cell_in_place_of
from treadle.wiring.graph import Graph, Read
from treadle.wiring.named import WIRINGS, layer_input_size
from treadle.wiring.sizes import as_number, as_size, is_cell, output_size, words


class Stack(Graph):
    """Layers above each other, connected by a named wiring; a cell itself.

    | ``wiring`` | layer l > 0 reads |
    | --- | --- |
    | ``"stack"`` | y_{l-1}(t): what `torch.nn.LSTM` does with ``num_layers`` |
    | ``"relay"`` | x(t), as layer 0 does; its previous hidden state *is* h_{l-1}(t) |
    | ``"skip"`` | y_{l-1}(t) and x(t), concatenated |
    | ``"lateral"`` | y_{l-1}(t) and y_{l-1}(t-1), concatenated |
    | ``"residual"`` | y_{l-1}(t); its output is y_{l-1}(t) + the cell's, where sizes match |
    | ``"dense"`` | x(t) and every y_k(t) with k < l, concatenated |
    | ``"feedback"`` | y_{l-1}(t); layer 0 reads x(t) and the top layer's y(t-1), concatenated |

    `of` makes the cells as well, each as wide as the wiring says. The layers are called ``layer0``, ``layer1``, … The
    state is a dict from these names to the layers' states; outputs that are read with a delay are in it as
    ``"layer0.delayed"``. For anything else, see `Graph`.

    Args:
        cells: the layers, from below to above.
        wiring: how they connect.
        dropout: in training, the fraction of each layer's output that is zeroed on its way up, except for the last
            layer, as in `torch.nn.LSTM`.

    Raises:
        ShapeError: no cells, or sizes that do not fit, with the arithmetic.
        ValueError: no such wiring, or a dropout outside 0 to 1.

    Example:
        >>> import torch, treadle as td
        >>> cells = [td.LSTMCell(10, 32), td.LSTMCell(42, 32)]      # the upper one reads 32 + 10 features
        >>> rnn = td.Recurrent(td.Stack(cells, wiring="skip"))
        >>> ys, state = rnn(torch.randn(8, 20, 10))
        >>> ys.shape, state["layer1"].c.shape
        (torch.Size([8, 20, 32]), torch.Size([8, 32]))
    """

    def __init__(self, cells: Iterable[nn.Module], wiring: str = "stack", *, dropout: float = 0.0):
        cells = list(cells)
        check_wiring(wiring)
        if not cells:
            raise ShapeError("a stack needs at least one cell")
        for i, cell in enumerate(cells):
            if not isinstance(cell, nn.Module) or not is_cell(cell):
                better = cell_in_place_of(cell)
                advice = f"pass {better}" if better else "it has no initial_state; td.Graph takes other modules"
                raise TypeError(f"layer {i} is a {type(cell).__name__}, not a cell: {advice}")
        if not isinstance(dropout, int | float) or not 0 <= dropout <= 1:
            raise ValueError(f"dropout is a fraction, from 0 to 1, but {dropout!r} was passed")
        super().__init__(_input_size(cells, wiring))
        self.wiring, self.dropout, self.num_layers = wiring, dropout, len(cells)

        def between(name: str, read: Read) -> Read:
            if not dropout or name == f"layer{len(cells) - 1}":
                return read
            return self.add(f"{name}_dropout", nn.Dropout(dropout), reads=read)

        layers = [(f"layer{i}", cell) for i, cell in enumerate(cells)]
        self.outputs(WIRINGS[wiring](self, layers, between))

    @classmethod
    def of(
        cls,
        cell: Callable[..., nn.Module],
        input_size: int,
        hidden_size: int | Sequence[int],
        layers: int | None = None,
        wiring: str = "stack",
        *,
        dropout: float = 0.0,
        **options: Any,
    ) -> Self:
        """Layers of one cell, each made as wide as the wiring says.

        Args:
            cell: a class of cells, called as ``cell(input_size, hidden_size, **options)``.
            input_size: ``I``, features of x.
            hidden_size: ``H`` of every layer; or that of each, from below to above.
            layers: how many layers, 1 unless given; of several hidden sizes, their number.
            wiring: as of the constructor.
            dropout: likewise.
            options: what the cell takes besides.

        Raises:
            ShapeError: sizes are not positive whole numbers, or of another number than ``layers``; the cell does not
                say its ``output_size``.
            CellError: the cell reads numbers of tensors while it is made.
            ValueError: as of the constructor.

        Example:
            >>> import treadle as td
            >>> stack = td.Stack.of(td.GRUCell, input_size=88, hidden_size=150, layers=2, wiring="skip")
            >>> [cell.input_size for cell in stack.cells]     # the upper one reads 150 + 88
            [88, 238]
        """
        several = isinstance(hidden_size, Sequence)
        sizes = list(hidden_size) if several else [hidden_size] * (1 if layers is None else layers)
        if layers is not None and len(sizes) != layers:
            raise ShapeError(
                f"layers={layers} was passed with {len(sizes)} hidden sizes: pass one for each layer, or leave out"
                " layers="
            )
        check_wiring(wiring)
        try:
            with torch.device("meta"):  # sizes without memory, and without a random number
                samples = [cell(input_size, size, **options) for size in sizes]
                gives = [output_size(sample, None) for sample in samples]
        except (RuntimeError, TypeError) as error:
            if "meta" not in str(error):
                raise
            raise CellError(
                f"{getattr(cell, '__name__', cell)} reads numbers of tensors while it is made, but Stack.of first makes"
                f" it on the device meta, where there are none, to find out how many features it gives ({error}): make"
                " the cells, and pass them to Stack(cells, wiring)"
            ) from error
        if not all(gives):
            raise ShapeError(
                f"a {type(samples[0]).__name__} does not say how many features it gives, which other layers read: give"
                " it an output_size"
            )
        widths = [size[0] for size in gives if size]
        reads = [layer_input_size(wiring, layer, input_size, widths) for layer in range(len(sizes))]
        cells = [cell(width, size, **options) for width, size in zip(reads, sizes, strict=True)]
        return cls(cells, wiring, dropout=dropout)

    @property
    def cells(self) -> list[nn.Module]:
        """The layers, from below to above."""
        return [self._cell(f"layer{i}") for i in range(self.num_layers)]

    def extra_repr(self) -> str:
        """The wiring, for ``print``."""
        return f"wiring={self.wiring!r}" + (f", dropout={self.dropout}" if self.dropout else "")


def check_wiring(wiring: str) -> None:
    """Refuse a name that no wiring has."""
    if wiring not in WIRINGS:
        raise ValueError(f"there is no wiring {wiring!r}: choose one of {', '.join(WIRINGS)}")


def _input_size(cells: list[Any], wiring: str) -> Any:
    """What x must have: what the first cell takes, less what is fed back to it."""
    takes = as_size(getattr(cells[0], "input_size", None))
    fed_back = output_size(cells[-1], None) if wiring == "feedback" else None
    if takes is None or fed_back is None:
        return as_number(takes)
    if not takes or not fed_back or takes[1:] != fed_back[1:] or takes[0] <= fed_back[0]:
        raise ShapeError(
            f"layer 'layer0' reads x and the top layer's output ({words(fed_back)}), but its cell expects"
            f" {words(takes)} features,"
            f" which leaves none for x: pass a cell that takes {words(fed_back)} more than x has"
        )
    return as_number((takes[0] - fed_back[0], *takes[1:]))
