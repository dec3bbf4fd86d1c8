"""The explorer: one page on which a person sees which value goes where."""

import functools
import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from treadle.atomic import write_whole
from treadle.errors import ShapeError
from treadle.show.explorer_data import explorer_data
from treadle.show.explorer_page import page


class Explorer:
    """A page, which a notebook shows as it is: see `explorer`."""

    def __init__(self, data: Mapping[str, Any]):
        self.data = data
        """What the page shows, as JSON."""

    @functools.cached_property
    def html(self) -> str:
        """The page."""
        return page(self.data)

    def __str__(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return f"<Explorer of {', '.join(network['name'] for network in self.data['networks'])}>"

    def _repr_html_(self) -> str:
        """A frame of its own within a notebook."""
        return (
            f'<iframe srcdoc="{html.escape(self.html)}" title="treadle explorer" allow="clipboard-write"'
            ' style="width: 100%; height: 50rem; border: 0"></iframe>'
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page. The file appears complete or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        write_whole(Path(path), self.html.encode())
        return Path(path)


def explorer(
    model: Any,
    xs: Tensor | Mapping[str, Tensor],
    path: str | os.PathLike[str] | None = None,
    *,
    row: int = 0,
    labels: Sequence[str] | None = None,
    features: Sequence[str] | None = None,
    title: str | None = None,
    tour: bool = False,
) -> Explorer:
    """Make one self-contained HTML page on which a person sees which value of a network goes where.

    The page shows how layers connect, step by step; the cells' own source with each step's numbers; gates and states
    over time; how strongly earlier steps matter; and what would be if an input, a state or a gate were otherwise. It
    loads nothing from elsewhere, so that it works as a file, in a notebook and on a web site. All its numbers are those
    of `treadle.record`.

    Args:
        model: a `treadle.Recurrent`, a drop-in, a cell or a wiring; or several by name, to be seen side by side:
            ``{"stack": a, "relay": b}``. In evaluation mode, if random masks are not to blur the picture.
        xs: sequences as the network takes them, [B, T, I]; of several networks, for each by name, or one for all.
        path: where to save the page, such as ``"page.html"``; ``None`` for nowhere.
        row: which row of the batch is shown.
        labels: what each step reads in words, such as its letter or its date.
        features: what the features of the input are called.
        title: of the page.
        tour: whether to begin with the guided tour.

    Returns:
        The page: ``str(page)`` is its HTML, ``page.save(path)`` writes it, a notebook shows it.

    Raises:
        TraceError: the step has no program, with the line and the reason.
        ShapeError: ``xs``, ``row`` or the labels do not fit; more numbers than a page holds: fewer steps or units do.
        TypeError: no network, or one that reads its sequence in both directions.
        OSError: the file cannot be written.

    Example:
        >>> import torch, treadle as td
        >>> cells = [td.LSTMCell(3, 16), td.LSTMCell(3, 16)]
        >>> models = {"stack": td.LSTMCell(3, 16), "relay": td.Stack(cells, "relay")}
        >>> td.show.explorer(models, torch.randn(1, 40, 3), "page.html")
        <Explorer of stack, relay>
    """
    models = model if isinstance(model, Mapping) else {_name_of(model): model}
    if not models:
        raise TypeError("there is no network to explore: pass one, or several by name")
    given = xs if isinstance(xs, Mapping) else dict.fromkeys(models, xs)
    missing = next((name for name in models if name not in given), None)
    if missing is not None:
        raise ShapeError(f"there is no sequence for {missing!r}: pass xs for each network, or one tensor for all")
    rows = {name: _one_row(one, given[name], row) for name, one in models.items()}
    title = f"treadle: {', '.join(models)}" if title is None else title
    made = Explorer(explorer_data(models, rows, dict.fromkeys(models, (labels, features)), title, tour))
    if path is not None:
        made.save(path)
    return made


def _name_of(model: Any) -> str:
    cell = getattr(model, "cell", None)
    cell = cell if isinstance(cell, nn.Module) else model
    return str(getattr(cell, "wiring", type(cell).__name__))


def _one_row(model: Any, xs: Tensor, row: int) -> Tensor:
    """[1, T, …]."""
    axis = 0 if getattr(model, "batch_first", True) else 1
    if not isinstance(xs, Tensor) or xs.ndim < 2 or not -xs.shape[axis] <= row < xs.shape[axis]:
        given = f"xs is {list(xs.shape)}" if isinstance(xs, Tensor) else f"xs is a {type(xs).__name__}"
        raise ShapeError(f"the page shows one row of a batch, but {given} and row={row}: pass a tensor [B, T, …]")
    one = xs.narrow(axis, row % xs.shape[axis], 1)
    return one.transpose(0, 1) if axis else one
