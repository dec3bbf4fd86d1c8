"""Results as JSON and as tables."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe
from benchmarks.registry import Options, Result, Suite
from treadle.atomic import replacing


class Grid(NamedTuple):
    """Columns and rows of text."""

    columns: list[str]
    rows: list[list[str]]


def report(suite: Suite, options: Options, results: list[Result]) -> dict[str, Any]:
    """Everything about a run, in values that JSON has."""
    return {
        "suite": suite.name,
        "about": suite.about,
        "machine": describe(),
        "options": asdict(options),
        "results": [asdict(result) | {"is_green": result.is_green, "is_quiet": result.is_quiet} for result in results],
        "bars": [asdict(bar) | {"ok": bar.ok} for bar in suite.bars(results)],
    }


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a report, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def timings(content: dict[str, Any]) -> Grid:
    """A row a case: seconds of treadle, how many times as long the others take (with quartiles), other figures."""
    results = content["results"]
    measured = [result["measurement"] for result in results if result["measurement"]]
    sides, peers, figures = (
        list(dict.fromkeys(name for measurement in measured for name in measurement[kind]))
        for kind in ("seconds", "ratios", "figures")
    )
    ours = [side for side in sides if side not in peers]
    rows = []
    for result in results:
        found = result["measurement"] or {"seconds": {}, "ratios": {}, "figures": {}}
        green = "equal" if result["is_green"] else "**red**"
        times = [seconds(found["seconds"][side]["median"]) if side in found["seconds"] else "" for side in ours]
        ratios = [_ratio(found, peer) for peer in peers]
        others = [f"{found['figures'][name]:.3g}" if name in found["figures"] else "" for name in figures]
        rows.append([result["name"], green, *times, *ratios, *others])
    return Grid(["case", "gate", *ours, *peers, *figures], rows)


def bars(content: dict[str, Any]) -> Grid:
    """A row a bar: what was reached, what must be."""
    rows = []
    for bar in content["bars"]:
        value = "not measured" if bar["value"] is None else f"{bar['value']:.3g}"
        limit = f"{'at least' if bar['at_least'] else 'at most'} {bar['limit']:g}"
        rows.append([bar["name"], value, limit, "yes" if bar["ok"] else "**no**", str(bar["cases"])])
    return Grid(["bar", "reached", "wanted", "ok", "cases"], rows)


def remarks(content: dict[str, Any]) -> list[str]:
    """Who took no part and why, and what was not equal."""
    said: dict[str, list[str]] = {}
    for result in content["results"]:
        for peer, why in result["notes"].items():
            said.setdefault(f"{peer}: {why}", []).append(result["name"])
        if result["error"]:
            said.setdefault(result["error"], []).append(result["name"])
        if not result["is_quiet"]:
            said.setdefault("others used the cores meanwhile, so it counts towards no bar", []).append(result["name"])
        for check in result["checks"]:
            if not check["error"] <= check["tolerance"]:
                off = f"{check['error']:.2g}, more than {check['tolerance']:g}"
                said.setdefault(f"{check['side']} is off at {check['where']} by {off}", []).append(result["name"])
    every = len(content["results"])
    return [f"{text} ({'everywhere' if len(names) == every else ', '.join(names)})" for text, names in said.items()]


def show(content: dict[str, Any], console: Console) -> None:
    """Print a report."""
    for title, grid in ((content["about"], timings(content)), ("", bars(content))):
        table = Table(*grid.columns, title=title or None)
        for row in grid.rows:
            table.add_row(*(cell.replace("**no**", "[red]no[/]").replace("**red**", "[red]red[/]") for cell in row))
        console.print(table)
    for remark in remarks(content):
        console.print(remark, style="dim", markup=False)


def seconds(value: float) -> str:
    """Seconds in the unit that suits them."""
    units = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
    unit = next((unit for unit, size in units.items() if value >= size), "us")
    return f"{value / units[unit]:.3g} {unit}"


def _ratio(measurement: dict[str, Any], peer: str) -> str:
    if peer not in measurement["ratios"]:
        return ""
    ratio, theirs = measurement["ratios"][peer], measurement["seconds"].get(peer)
    words = f"{ratio['median']:.2f}× ({ratio['low']:.2f}–{ratio['high']:.2f})"
    return words if theirs is None else f"{words}, {seconds(theirs['median'])}"  # of some, the ratio alone is known
