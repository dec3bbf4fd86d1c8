"""Where the boxes and edges of a diagram go. Lengths are in inches, y goes up.

Boxes stand above each other in the order in which they are stepped. The space around them has a fixed meaning: to the
left of a box is the past, to its right this step. An edge to the next box goes straight up; any other leaves the
source upwards, turns in the gap above it, follows a lane beside the boxes and enters its target from the side. Edges
that carry the same thing share a lane; lanes and turns are given out like rooms to guests: the first that is free.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from treadle.show.diagram import Box, Diagram, Edge

Point: TypeAlias = tuple[float, float]

TITLE_POINTS, SMALL_POINTS = 10.0, 8.5  # sizes of type
LANE = 0.17  # between neighbouring lanes
LEVEL = 0.15  # between neighbouring turns in a gap
PORT = 0.23  # between neighbouring entrances on a side of a box: a label fits
MEMORY = 0.36  # the upper part of a box with memory, where its own state comes in
LOOP = 0.27  # how far a loop stands out
ARROW = 0.13  # an arrowhead and a little air
STUB = 0.13  # between neighbouring wires where they leave a box


class Route(NamedTuple):
    """An edge of the diagram at one time: from column to column; ``None`` is a column that is not drawn."""

    edge: Edge
    start: int | None
    end: int | None


@dataclasses.dataclass(frozen=True)
class Label:
    """A text beside a wire; ``x`` is its left, middle or right according to ``align``, ``y`` its middle."""

    text: str
    x: float
    y: float
    align: str = "left"

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top."""
        width, height = text_width(self.text, SMALL_POINTS), SMALL_POINTS / 72
        left = self.x - {"left": 0.0, "center": width / 2, "right": width}[self.align]
        return left, self.y - height / 2, left + width, self.y + height / 2


@dataclasses.dataclass(frozen=True)
class Place:
    """A box where it stands; ``x`` and ``y`` are its middle."""

    box: Box
    column: int
    x: float
    y: float
    width: float
    height: float

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top."""
        return self.x - self.width / 2, self.y - self.height / 2, self.x + self.width / 2, self.y + self.height / 2


@dataclasses.dataclass(frozen=True)
class Wire:
    """An edge where it runs: the corners from its source to its target, or to the open if ``end`` is ``None``."""

    edge: Edge
    start: int | None
    end: int | None
    points: tuple[Point, ...]
    label: Label | None


@dataclasses.dataclass(frozen=True)
class Panel:
    """One drawing of the diagram."""

    places: list[Place]
    wires: list[Wire]
    width: float
    height: float


def lay_out(diagram: Diagram, steps: int) -> tuple[Panel, Panel]:
    """The diagram folded (one step, the past coming in at the left), and unrolled over steps, in the same rows."""
    once = [Route(edge, 0, 0) for edge in diagram.edges]
    plans = _Plan(diagram, once, 1, folded=True), _Plan(diagram, list(over_time(diagram, steps)), steps, folded=False)
    bottoms, y = [], 0.0
    for row, box in enumerate(diagram.boxes):
        bottoms.append(y)
        levels = max(plan.level_count(box.name) for plan in plans)
        y += plans[0].height(row) + 0.36 + LEVEL * levels
    return plans[0].panel(bottoms), plans[1].panel(bottoms)


def over_time(diagram: Diagram, steps: int) -> Iterator[Route]:
    """Every edge at every step, those included that come from before the first or go on after the last."""
    for edge in diagram.edges:
        for column in range(steps):
            yield Route(edge, column - edge.delay if column >= edge.delay else None, column)
        for column in range(max(0, steps - edge.delay), steps):
            yield Route(edge, column, None)


def text_width(text: str, points: float, bold: bool = False) -> float:
    """How wide a text is."""
    return _path_width(text, bold) * points / 72


@functools.cache
def _path_width(text: str, bold: bool) -> float:
    font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
    return float(TextPath((0, 0), text, size=1, prop=font).get_extents().x1) if text.strip() else 0.0


def rooms(spans: Iterable[tuple[Any, float, float]]) -> dict[Any, int]:
    """A number for each span (name, low, high): spans that overlap get different ones, short spans low ones."""
    numbers: dict[Any, int] = {}
    guests: list[tuple[int, float, float]] = []
    for name, low, high in sorted(spans, key=lambda span: span[2] - span[1]):
        taken = {number for number, start, end in guests if start < high and low < end}
        numbers[name] = next(number for number in itertools.count() if number not in taken)
        guests.append((numbers[name], low, high))
    return numbers


class _Plan:
    """All that can be known of a panel before the heights of the gaps are: columns, lanes, turns, entrances."""

    def __init__(self, diagram: Diagram, routes: list[Route], columns: int, folded: bool):
        self.boxes, self.routes, self.columns, self.folded = diagram.boxes, routes, columns, folded
        self.row = {box.name: row for row, box in enumerate(diagram.boxes)}
        self.with_state = {route.edge.target for route in routes if route.edge.role == "state"}
        layers = [box for box in self.boxes if box.kind in ("cell", "module")]
        layer_width = max([0.88, *(self._text_width(box) + 0.24 for box in layers)])
        ends_width = text_width("y(t)" if folded else "y(t+1)", TITLE_POINTS + 1) + 0.12
        widths = {"cell": layer_width, "module": layer_width, "junction": 0.3}
        self.width = {box.name: widths.get(box.kind, ends_width) for box in self.boxes}
        self.offset = self._offsets()
        self.straight = self._straight()
        self.lane = self._lanes()
        self.entrances = self._entrances()
        self._place_columns()
        self.level = self._levels()

    # What goes where, in whole numbers.

    def _offsets(self) -> dict[Any, float]:
        """How far from the middle of its box each signal leaves: the output first, fields of the state beside it."""
        signals: dict[str, list[Any]] = {}
        edges = [route.edge for route in self.routes]
        for edge in sorted(edges, key=lambda edge: (edge.role == "hand-over", edge.fields)):
            if edge.role != "state" and _signal(edge) not in signals.setdefault(edge.source, []):
                signals[edge.source].append(_signal(edge))
        offsets: dict[Any, float] = {}
        for source, group in signals.items():
            step = min(STUB, (self.width[source] / 2 - 0.1) / max(1, len(group) // 2))
            offsets |= {signal: step * ((i + 1) // 2) * (1 if i % 2 else -1) for i, signal in enumerate(group)}
        return offsets

    def _straight(self) -> set[int]:
        """The routes (by number) that go straight up to the next box: what leaves its source in the middle, once."""
        straight: dict[Any, int] = {}
        for i, (edge, start, _) in enumerate(self.routes):
            to_next = edge.role != "state" and not edge.delay and self.row[edge.target] == self.row[edge.source] + 1
            if to_next and not self.offset[_signal(edge)]:
                straight.setdefault((edge.source, start), i)
        return set(straight.values())

    def _in_lanes(self) -> list[tuple[int, Route]]:
        return [(i, r) for i, r in enumerate(self.routes) if i not in self.straight and r.edge.role != "state"]

    def _lanes(self) -> dict[Any, int]:
        """The lane of each net, counted from the box outwards."""
        spans: dict[Any, dict[Any, list[float]]] = {}
        for _, route in self._in_lanes():
            if route.end is not None:
                side = spans.setdefault((_side(route), route.end), {})
                span = side.setdefault(_net(route), [self.row[route.edge.source] + 0.5])
                span.append(self.row[route.edge.target])
        lanes: dict[Any, int] = {}
        for side in spans.values():
            lanes |= rooms((net, min(span), max(span)) for net, span in side.items())
        return lanes

    def _entrances(self) -> dict[tuple[str, str, int], list[int]]:
        """The routes that enter a box from a side, the lowest first, in an order in which few of them cross."""
        entrances: dict[tuple[str, str, int], list[int]] = {}
        for i, route in self._in_lanes():
            if route.end is not None:
                entrances.setdefault((route.edge.target, _side(route), route.end), []).append(i)

        def height(i: int) -> tuple[bool, int]:
            edge, lane = self.routes[i].edge, self.lane[_net(self.routes[i])]
            from_above = self.row[edge.source] >= self.row[edge.target]
            return from_above, -lane if from_above else lane

        return {key: sorted(routes, key=height) for key, routes in entrances.items()}

    # Across.

    def _place_columns(self) -> None:
        """The middle of each column, and how far from it the first lanes are."""
        side_labels = {"left": [0.0], "right": [0.0]}
        for _, route in self._in_lanes():
            if route.end is not None:
                side_labels[_side(route)].append(2 * ARROW + text_width(self._text(route.edge), SMALL_POINTS))
        self.half = max(self.width.values()) / 2
        for i, (edge, _, _) in enumerate(self.routes):
            if edge.role == "state":
                side_labels["left"].append(LOOP + 0.12 + text_width(self._text(edge), SMALL_POINTS))
            elif i in self.straight:
                side_labels["right"].append(0.14 + text_width(self._text(edge), SMALL_POINTS) - self.half)
        lanes = {"left": 0, "right": 0}
        for (_, side, _), routes in self.entrances.items():
            lanes[side] = max(lanes[side], *(1 + self.lane[_net(self.routes[i])] for i in routes))
        self.first_lane = {side: self.half + max(labels) for side, labels in side_labels.items()}
        zone = {side: self.first_lane[side] + LANE * lanes[side] for side in lanes}
        margin = 0.05 if self.folded else 0.2  # in the open, lines go on to the edge
        self.x = [margin + zone["left"] + (zone["left"] + zone["right"]) * column for column in range(self.columns)]
        self.total_width = self.x[-1] + zone["right"] + margin

    def _lane_x(self, route: Route) -> float:
        """Where the lane of a route is; the edge of the panel if it leaves it."""
        if route.end is None:
            return self.total_width
        distance = self.first_lane[_side(route)] + LANE * self.lane[_net(route)]
        return self.x[route.end] + (distance if _side(route) == "right" else -distance)

    def _leaves_x(self, route: Route) -> float:
        """Where a route leaves its source; the edge of the panel if that is not drawn."""
        return 0.0 if route.start is None else self.x[route.start] + self.offset[_signal(route.edge)]

    # Up and down.

    def _levels(self) -> dict[Any, int]:
        """In the gap above each box, the height at which each net turns."""
        runs: dict[str, dict[Any, tuple[float, float]]] = {}
        for _, route in self._in_lanes():
            low, high = sorted((self._leaves_x(route), self._lane_x(route)))
            runs.setdefault(route.edge.source, {})[_net(route)] = low, high
        levels: dict[Any, int] = {}
        for nets in runs.values():
            levels |= rooms((net, *run) for net, run in nets.items())
        return levels

    def level_count(self, name: str) -> int:
        """How many turns lie above each other in the gap above a box."""
        return max((1 + level for ((source, *_), *_), level in self.level.items() if source == name), default=0)

    def height(self, row: int) -> float:
        """How high a box must be for all that enters it."""
        box = self.boxes[row]
        ports = max((len(routes) for (name, _, _), routes in self.entrances.items() if name == box.name), default=0)
        least = 0.5 if box.kind in ("cell", "module") else 0.3
        memory = MEMORY if box.name in self.with_state else 0.06
        return max(least, memory + PORT * ports) if ports else least

    def panel(self, bottoms: list[float]) -> Panel:
        """Everything in its place, once the rows are where they are."""
        self.bottoms = bottoms
        self.places = {
            (box.name, column): Place(
                box, column, x, bottoms[row] + self.height(row) / 2, self.width[box.name], self.height(row)
            )
            for column, x in enumerate(self.x)
            for row, box in enumerate(self.boxes)
        }
        wires = [self._wire(i, route) for i, route in enumerate(self.routes)]
        top = max(place.extent[3] for place in self.places.values())
        return Panel(list(self.places.values()), wires, self.total_width, top)

    def _wire(self, i: int, route: Route) -> Wire:
        edge = route.edge
        if edge.role == "state":
            points, label = self._loop(route) if self.folded else self._onward(route)
        elif i in self.straight:
            points, label = self._upward(route)
        else:
            points, label = self._by_lane(i, route)
        text = self._text(edge)
        return Wire(edge, route.start, route.end, tuple(points), Label(text, *label) if text and label else None)

    def _loop(self, route: Route) -> Any:
        left = self.places[route.edge.source, 0].extent[0]
        middle = self._memory_y(route.edge.source)
        corners = [(left, middle + 0.1), (left - LOOP, middle + 0.1), (left - LOOP, middle - 0.1), (left, middle - 0.1)]
        return corners, (left - LOOP - 0.06, middle, "right")

    def _onward(self, route: Route) -> Any:
        y, name = self._memory_y(route.edge.source), route.edge.source
        start = 0.0 if route.start is None else self.places[name, route.start].extent[2]
        end = self.total_width if route.end is None else self.places[name, route.end].extent[0]
        label = (end - ARROW - 0.06, y + 0.1, "right") if route.end is not None else None
        return [(start, y), (end, y)], label

    def _upward(self, route: Route) -> Any:
        x = self._leaves_x(route)
        start, end = self.places[route.edge.source, route.start or 0], self.places[route.edge.target, route.start or 0]
        return [(x, start.extent[3]), (x, end.extent[1])], (x + 0.06, end.extent[1] - ARROW - 0.1, "left")

    def _by_lane(self, i: int, route: Route) -> Any:
        edge = route.edge
        row = self.row[edge.source]
        top = self.bottoms[row] + self.height(row)
        turn = top + 0.12 + LEVEL * self.level[_net(route)]
        x, lane = self._leaves_x(route), self._lane_x(route)
        corners = [(x, turn), (lane, turn)] if route.start is None else [(x, top), (x, turn), (lane, turn)]
        if route.end is None:
            return corners, None
        side = _side(route)
        left, bottom, right, top = self.places[edge.target, route.end].extent
        entrances = self.entrances[edge.target, side, route.end]
        room = top - bottom - (MEMORY if edge.target in self.with_state else 0)
        y = bottom + room * (entrances.index(i) + 0.5) / len(entrances)
        entrance, outwards = (left, -1) if side == "left" else (right, 1)
        label = (entrance + outwards * (ARROW + 0.03), y + 0.1, "right" if side == "left" else "left")
        return [*corners, (lane, y), (entrance, y)], label

    def _memory_y(self, name: str) -> float:
        """The height at which a cell's own state comes in: the middle, or higher if others enter from a side."""
        _, bottom, _, top = self.places[name, 0].extent
        entered = any(key[0] == name for key in self.entrances)
        return top - MEMORY / 2 if entered else (top + bottom) / 2

    def _text(self, edge: Edge) -> str:
        """Sizes and delays are said once, in the folded panel; the unrolled one shows them."""
        return edge.label if self.folded else edge.what

    def _text_width(self, box: Box) -> float:
        below = text_width(box.subtitle, SMALL_POINTS) if self.folded else 0.0
        return max(text_width(box.title, TITLE_POINTS, bold=True), below)


def _signal(edge: Edge) -> Any:
    """What leaves a box as one wire."""
    return edge.source, edge.role, edge.fields


def _net(route: Route) -> Any:
    """What shares a lane: one signal, equally late, between the same columns."""
    return _signal(route.edge), route.edge.delay, route.start, route.end


def _side(route: Route) -> str:
    return "left" if route.edge.delay else "right"
