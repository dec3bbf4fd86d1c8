"""docs/research/benchmarks.md, made from the results of the suites."""

from pathlib import Path
from typing import Any

from benchmarks.report import Grid, bars, remarks, timings
from treadle.atomic import replacing

ROOT = Path(__file__).parents[1]
TEMPLATE = Path(__file__).with_name("page.md")
PAGE = ROOT / "docs" / "research" / "benchmarks.md"


def write(reports: list[dict[str, Any]], path: Path = PAGE) -> None:
    """Make the page; a suite that was run twice appears twice."""
    text = TEMPLATE.read_text().replace("{{ suites }}", "\n".join(section(content) for content in reports).strip())
    with replacing(path) as temporary:
        temporary.write_text(text)


def section(content: dict[str, Any]) -> str:
    """A suite: its bars, its timings, remarks, and the machine that it ran on."""
    about = content["about"]
    parts = [f"## {content['suite']}", f"{about[0].upper()}{about[1:]}.", markdown(bars(content))]
    parts.append(markdown(timings(content)))
    parts += ["\n".join(f"- {remark}" for remark in remarks(content))] if remarks(content) else []
    parts.append(f"Measured on {machine(content['machine'])}.")
    return "\n\n".join(parts) + "\n"


def machine(found: dict[str, Any]) -> str:
    """The machine in a sentence."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return (
        f"{found['processor']}, {found['instructions']}, {found['threads']} of {found['cores']} cores;"
        f" {found['system']}, Python {found['python']}, {versions}"
    )


def markdown(grid: Grid) -> str:
    """A table."""
    lines = [grid.columns, ["---"] * len(grid.columns), *grid.rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)
