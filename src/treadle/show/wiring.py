"""Pictures of wirings: how the layers of a network connect."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path as Curve

from treadle.show.diagram import Box, Edge, diagram_of
from treadle.show.files import save_figure
from treadle.show.layout import SMALL_POINTS, TITLE_POINTS, Label, Panel, Place, Point, Wire, lay_out


class Style(NamedTuple):
    """How a kind of edge is drawn. Colours from Okabe and Ito's palette, which colour-blind people can tell apart."""

    color: str
    dashes: tuple[float, ...]
    width: float
    meaning: str
    rank: int
    """What lies above what where wires share a way."""


THIS_STEP = Style("#333333", (), 1.3, "input: an output of this step", 3)
STATE = Style("#0072B2", (), 1.7, "state, to the next step of the same layer", 4)
LATE = Style("#D55E00", (3.2, 1.6), 1.5, "input: an output of an earlier step", 2)
HAND_OVER = Style("#009E73", (), 2.4, "state, to another layer in the same step", 5)
LATE_HAND_OVER = Style("#009E73", (3.2, 1.6), 2.4, "state, to another layer in a later step", 1)

INK, FAINT, CARD = "#1a1a1a", "#666666", "#ffffff"
FILL = {"cell": "#dcebf7", "module": "#eeeeee", "junction": "#ffffff", "input": "#ffffff", "output": "#ffffff"}
CORNER = 0.08  # radius of a wire's bends
EDGE = 0.22  # white around everything


def style_of(edge: Edge) -> Style:
    """How an edge is drawn."""
    match edge.role:
        case "state":
            return STATE
        case "hand-over":
            return LATE_HAND_OVER if edge.delay else HAND_OVER
    return LATE if edge.delay else THIS_STEP


def draw_wiring(model: Any, path: str | os.PathLike[str], steps: int = 3) -> Path:
    """Draw how the layers of a network connect, as one picture with two panels.

    The left panel shows one step: boxes are stepped from below to above, every edge carries the number of its
    features. What comes from the past enters a box at its left: a cell's own state as a loop with the names of its
    fields, outputs of earlier steps dashed. The right panel shows the same network over several steps, side by side.

    Args:
        model: a cell, a `treadle.Stack`, a `treadle.Graph`, a `treadle.Recurrent` of one, or a drop-in. Wirings inside
            wirings are opened.
        path: where to; ``.svg`` (with text as text) or ``.png``.
        steps: how many steps the right panel shows.

    Returns:
        The path. The file appears there complete or not at all.

    Raises:
        TypeError: ``model`` is not a network.
        ValueError: a path with another suffix, ``steps`` that is no positive whole number, or a graph without outputs.
        OSError: the file cannot be written.

    Example:
        >>> import treadle as td
        >>> from treadle.show import draw_wiring
        >>> cells = [td.LSTMCell(8, 16), td.LSTMCell(24, 16)]
        >>> draw_wiring(td.Stack(cells, "skip"), "skip.svg").name
        'skip.svg'
    """
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"steps is how many steps are drawn side by side, a positive whole number, but is {steps!r}")
    return save_figure(wiring_figure(model, steps), path)


def wiring_figure(model: Any, steps: int = 3) -> Figure:
    """The picture that `draw_wiring` writes."""
    diagram = diagram_of(model)
    folded, unrolled = lay_out(diagram, steps)
    styles = sorted({style_of(edge) for edge in diagram.edges}, key=lambda style: (style.width, style.rank))
    between, head, foot = 0.5, 0.35, 0.2 + 0.22 * ((len(styles) + 1) // 2)
    width = 2 * EDGE + folded.width + between + unrolled.width
    height = 2 * EDGE + head + folded.height + foot
    figure = Figure(figsize=(width, height), facecolor=CARD)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.set_axis_off()
    for panel, left, title, offsets in (
        (folded, EDGE, "One step", [0]),
        (unrolled, EDGE + folded.width + between, f"The same over {steps} steps" if steps > 1 else "The same over one step", _times(steps)),
    ):
        axes.text(left, height - EDGE, title, size=11, weight="bold", color=INK, va="top")
        _draw_panel(axes, panel, (left, EDGE + foot), offsets, subtitles=panel is folded)
    divider = EDGE + folded.width + between / 2
    axes.plot([divider] * 2, [EDGE + foot, height - EDGE], color="#dddddd", linewidth=0.8)
    _draw_legend(axes, styles, (EDGE, EDGE + foot - 0.3))
    return figure


def _times(steps: int) -> list[int]:
    """Which step each column is, the middle one being t."""
    return [column - steps // 2 for column in range(steps)]


def _draw_panel(axes: Axes, panel: Panel, origin: Point, times: list[int], subtitles: bool) -> None:
    for wire in panel.wires:
        _draw_wire(axes, wire, origin)
        if wire.label:
            _draw_label(axes, wire.label, style_of(wire.edge), origin)
    for place in panel.places:
        _draw_box(axes, place, origin, times[place.column], subtitles)


def _draw_wire(axes: Axes, wire: Wire, origin: Point) -> None:
    style = style_of(wire.edge)
    points = [(x + origin[0], y + origin[1]) for x, y in wire.points]
    line = PathPatch(rounded(points), facecolor="none", edgecolor=style.color, linewidth=style.width, zorder=style.rank)
    line.set_capstyle("butt")
    if style.dashes:
        line.set_linestyle((0, style.dashes))
    axes.add_patch(line)
    (x0, y0), (x1, y1) = points[-2:]
    length = max(abs(x1 - x0), abs(y1 - y0))
    dx, dy = (x1 - x0) / length, (y1 - y0) / length
    if wire.end is None:
        return
    long, wide = 0.1, 0.04 + style.width / 150
    base = x1 - long * dx, y1 - long * dy
    head = [(x1, y1), (base[0] - wide * dy, base[1] + wide * dx), (base[0] + wide * dy, base[1] - wide * dx)]
    axes.add_patch(Polygon(head, closed=True, facecolor=style.color, edgecolor="none", zorder=style.rank + 0.5))


def rounded(points: list[Point]) -> Curve:
    """The line through the points with its corners rounded. It stops short of the last one, under the arrowhead."""
    vertices, codes = [points[0]], [Curve.MOVETO]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        for end, code in ((before, Curve.LINETO), (after, Curve.CURVE3)):
            length = max(abs(end[0] - corner[0]), abs(end[1] - corner[1]), 1e-9)
            part = min(CORNER, length / 2) / length
            near = corner[0] + (end[0] - corner[0]) * part, corner[1] + (end[1] - corner[1]) * part
            vertices += [near] if code == Curve.LINETO else [corner, near]
            codes += [code] if code == Curve.LINETO else [code, code]
    (x0, y0), (x1, y1) = points[-2:]
    length = max(abs(x1 - x0), abs(y1 - y0))
    short = min(0.05, length / 2) / length
    return Curve([*vertices, (x1 - (x1 - x0) * short, y1 - (y1 - y0) * short)], [*codes, Curve.LINETO])


def _draw_label(axes: Axes, label: Label, style: Style, origin: Point) -> None:
    axes.text(
        label.x + origin[0],
        label.y + origin[1],
        label.text,
        ha=label.align,  # pyright: ignore[reportArgumentType]
        va="center_baseline",
        size=SMALL_POINTS,
        color=style.color,
        zorder=9,
    )


def _draw_box(axes: Axes, place: Place, origin: Point, time: int, subtitle: bool) -> None:
    box, x, y = place.box, place.x + origin[0], place.y + origin[1]
    radius = 0.15 if box.kind == "junction" else 0.07
    if box.kind in ("cell", "module", "junction"):
        corner = x - place.width / 2, y - place.height / 2
        shape = FancyBboxPatch(corner, place.width, place.height, boxstyle=f"round,pad=0,rounding_size={radius}")
        shape.set(facecolor=FILL[box.kind], edgecolor=INK, linewidth=1.1, zorder=7)
        axes.add_patch(shape)
    common = {"ha": "center", "color": INK, "zorder": 8}
    if box.kind == "junction":
        axes.text(x, y, {"⊕": "+", "∥": "∥"}[box.title], va="center_baseline", size=TITLE_POINTS + 2, **common)
    elif box.kind in ("input", "output"):
        late = f"(t{time:+d})".replace("-", "−") if time else "(t)"
        axes.text(x, y, box.title.replace("(t)", late), va="center_baseline", size=TITLE_POINTS + 1, style="italic", **common)
    elif subtitle:
        axes.text(x, y + 0.1, box.title, va="center_baseline", size=TITLE_POINTS, weight="bold", **common)
        axes.text(x, y - 0.1, box.subtitle, va="center_baseline", size=SMALL_POINTS, ha="center", color=FAINT, zorder=8)
    else:
        axes.text(x, y, box.title, va="center_baseline", size=TITLE_POINTS, weight="bold", **common)


def _draw_legend(axes: Axes, styles: list[Style], origin: Point) -> None:
    for i, style in enumerate(styles):
        x, y = origin[0] + 3.4 * (i % 2), origin[1] - 0.22 * (i // 2)
        line = Line2D([x, x + 0.4], [y, y], color=style.color, linewidth=style.width)
        if style.dashes:
            line.set_linestyle((0, style.dashes))
        axes.add_line(line)
        axes.text(x + 0.5, y, style.meaning, va="center_baseline", size=SMALL_POINTS, color=INK)
