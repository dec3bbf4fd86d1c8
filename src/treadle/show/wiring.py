"""Pictures of wirings: how the layers of a network connect."""

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path as Curve

from treadle.insight.picture import save_figure
from treadle.show.diagram import Edge, diagram_of
from treadle.show.diagram_layout import SMALL_POINTS, TITLE_POINTS, Panel, Place, Point, Wire, lay_out


class Style(NamedTuple):
    """How a kind of edge is drawn. Colours from Okabe and Ito's palette, which colour-blind people can tell apart."""

    color: str
    dashes: tuple[float, ...]
    width: float
    meaning: str
    rank: int
    """What lies above what where wires share a way."""


THIS_STEP = Style("#333333", (), 1.5, "input, from this step", 3)
LATE = Style("#D55E00", (3.4, 1.7), 1.3, "input, from an earlier step", 2)
STATE = Style("#0072B2", (), 1.8, "state, to the same layer's next step", 4)
HAND_OVER = Style("#009E73", (), 2.4, "state, to another layer in the same step", 5)
LATE_HAND_OVER = Style("#009E73", (3.2, 1.6), 2.4, "state, to another layer in a later step", 1)
STYLES = (THIS_STEP, LATE, STATE, HAND_OVER, LATE_HAND_OVER)

INK, FAINT, CARD = "#1a1a1a", "#666666", "#ffffff"
FILL = {"cell": "#dcebf7", "module": "#eeeeee", "junction": "#ffffff"}  # the input and the output are text alone
CORNER = 0.08  # radius of a wire's bends
MOST_SHAPES = 2000
EDGE = 0.22  # white around everything
LEGEND = 3.3  # width of an entry of the legend


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

    The left panel shows one step, from below to above; every edge has its number of features. What comes from earlier
    steps enters a box at its left: a cell's own state as a loop with the names of its fields, delayed outputs dashed.
    The right panel shows the same network unrolled over several steps.

    Args:
        model: a cell, a `treadle.Stack`, a `treadle.Graph`, a `treadle.Recurrent` of one, or a drop-in. Wirings inside
            wirings are opened.
        path: the file to write, ``.svg`` (with text as text) or ``.png``.
        steps: how many steps the right panel shows.

    Returns:
        The path. The file appears there complete or not at all.

    Raises:
        TypeError: ``model`` is not a network.
        ValueError: a path with another suffix, ``steps`` that is no positive whole number, more boxes and lines than a
            picture can show, or a graph without outputs.
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
    shapes = len(diagram.boxes) + len(diagram.edges)
    if shapes * (steps + 1) > MOST_SHAPES:
        raise ValueError(
            f"one step has {shapes:,} boxes and lines, and {steps:,} steps beside it have more than the {MOST_SHAPES:,}"
            f" that a picture can show: pass `steps={max(MOST_SHAPES // shapes - 1, 1)}`, or fewer layers"
        )
    folded, unrolled = lay_out(diagram, steps)
    occurring = {style_of(edge) for edge in diagram.edges}
    styles = [style for style in STYLES if style in occurring]
    between = 0.5
    width = 2 * EDGE + folded.width + between + unrolled.width
    across = max(1, int((width - 2 * EDGE) // LEGEND))  # entries of the legend beside each other
    head, foot = 0.35, 0.22 + 0.22 * -(-len(styles) // across)
    height = 2 * EDGE + head + folded.height + foot
    figure = Figure(figsize=(width, height), facecolor=CARD)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.set_axis_off()
    over = f"The same over {steps} steps" if steps > 1 else "The same, unrolled"
    # Which step each column is: the middle one is t.
    times = [column - steps // 2 for column in range(steps)]
    for panel, left, title, columns in (
        (folded, EDGE, "One step", [0]),
        (unrolled, EDGE + folded.width + between, over, times),
    ):
        _write(axes, title, (left, height - EDGE - 0.1), 11, weight="bold", ha="left")
        _draw_panel(axes, panel, (left, EDGE + foot), columns, subtitles=panel is folded)
    divider = EDGE + folded.width + between / 2
    axes.plot([divider] * 2, [EDGE + foot, height - EDGE], color="#dddddd", linewidth=0.8)
    for i, style in enumerate(styles):
        _draw_legend(axes, style, (EDGE + LEGEND * (i % across), EDGE + foot - 0.32 - 0.22 * (i // across)))
    return figure


def _draw_panel(axes: Axes, panel: Panel, origin: Point, times: list[int], subtitles: bool) -> None:
    for wire in panel.wires:
        _draw_wire(axes, wire, origin)
        if wire.label:
            at = wire.label.x + origin[0], wire.label.y + origin[1]
            color = style_of(wire.edge).color
            _write(axes, wire.label.text, at, SMALL_POINTS, color=color, ha=wire.label.align)
    for place in panel.places:
        _draw_box(axes, place, origin, times[place.column], subtitles)


def _draw_wire(axes: Axes, wire: Wire, origin: Point) -> None:
    style = style_of(wire.edge)
    points = [(x + origin[0], y + origin[1]) for x, y in wire.points]
    line = PathPatch(rounded(points), facecolor="none", edgecolor=style.color, linewidth=style.width, zorder=style.rank)
    if style.dashes:
        line.set_linestyle((0, style.dashes))
    axes.add_patch(line)
    if wire.end is None:
        return
    half = 0.04 + style.width / 150
    left, right = (_towards(points[-1], points[-2], 0.1, across) for across in (-half, half))
    order = style.rank + 0.5
    axes.add_patch(Polygon([points[-1], left, right], facecolor=style.color, edgecolor="none", zorder=order))


def rounded(points: list[Point]) -> Curve:
    """The line through the points with its corners rounded. It stops short of the last one, under the arrowhead."""
    vertices, codes = [points[0]], [Curve.MOVETO]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        vertices += [_towards(corner, before, CORNER), corner, _towards(corner, after, CORNER)]
        codes += [Curve.LINETO, Curve.CURVE3, Curve.CURVE3]
    return Curve([*vertices, _towards(points[-1], points[-2], 0.05)], [*codes, Curve.LINETO])


def _towards(start: Point, end: Point, distance: float, across: float = 0.0) -> Point:
    """So far from the start towards the end, though not beyond the middle; and so far to the left of that line."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy) or 1.0
    distance = min(distance, length / 2)
    return start[0] + (dx * distance - dy * across) / length, start[1] + (dy * distance + dx * across) / length


def _draw_box(axes: Axes, place: Place, origin: Point, time: int, subtitle: bool) -> None:
    box, x, y = place.box, place.x + origin[0], place.y + origin[1]
    if box.kind in FILL:
        corner = x - place.width / 2, y - place.height / 2
        shape = FancyBboxPatch(corner, place.width, place.height, boxstyle="round,pad=0,rounding_size=0.07")
        if place.width == place.height:
            shape = Circle((x, y), place.width / 2)
        shape.set(facecolor=FILL[box.kind], edgecolor=INK, linewidth=1.1, zorder=7)
        axes.add_patch(shape)
    match box.kind:
        case "junction":
            _write(axes, {"⊕": "+"}.get(box.title, box.title), (x, y), TITLE_POINTS + 2)
        case "input" | "output":
            late = f"(t{time:+d})".replace("-", "−") if time else "(t)"
            _write(axes, box.title.replace("(t)", late), (x, y), TITLE_POINTS + 1, style="italic")
        case _:
            _write(axes, box.title, (x, y + (0.1 if subtitle else 0)), TITLE_POINTS, weight="bold")
            if subtitle:
                _write(axes, box.subtitle, (x, y - 0.1), SMALL_POINTS, color=FAINT)


def _draw_legend(axes: Axes, style: Style, at: Point) -> None:
    x, y = at
    line = Line2D([x, x + 0.4], [y, y], color=style.color, linewidth=style.width)
    if style.dashes:
        line.set_linestyle((0, style.dashes))
    axes.add_line(line)
    _write(axes, style.meaning, (x + 0.5, y), SMALL_POINTS, ha="left")


def _write(axes: Axes, text: str, at: Point, size: float, **options: Any) -> None:
    # A name may hold a dollar sign, and the reader's own settings may ask for TeX: neither is meant here.
    plain = {"usetex": False, "parse_math": False, "family": "sans-serif"}
    options = {"ha": "center", "va": "center_baseline", "color": INK, "zorder": 8} | plain | options
    axes.text(*at, text, size=size, **options)
