"""Figures of `treadle.show` as pictures of the pages: the same drawing, with colours for dark pages too."""

from pathlib import Path
from tempfile import TemporaryDirectory

from matplotlib import rc_context
from matplotlib.figure import Figure

from treadle.insight.picture import save_figure

from .colors import COLORS

DARK = {
    "#ffffff": COLORS["card"].dark,
    "#1a1a1a": COLORS["ink"].dark,
    "#333333": COLORS["ink"].dark,
    "#000000": COLORS["ink"].dark,
    "#666666": COLORS["faint"].dark,
    "#808080": COLORS["faint"].dark,
    "#dddddd": COLORS["grid"].dark,
    "#b0b0b0": COLORS["edge"].dark,
    "#dcebf7": COLORS["cell"].dark,
    "#eeeeee": COLORS["other"].dark,
    "#d55e00": COLORS["late"].dark,
    "#0072b2": COLORS["state"].dark,
    "#009e73": COLORS["handover"].dark,
    "#1f77b4": COLORS["state"].dark,
    "#ff7f0e": COLORS["late"].dark,
    "#2ca02c": COLORS["handover"].dark,
    "#d62728": "#ff7b7b",
}
"""Each colour that figures use, on a dark page."""


def themed(figure: Figure) -> str:
    """A figure as SVG, for light and dark pages."""
    # Which points of a curve could be left out depends on the last digits, which processors do not agree on.
    with TemporaryDirectory() as folder, rc_context({"path.simplify": False}):
        return for_dark_pages(save_figure(figure, Path(folder, "figure.svg")).read_text())


def measured_elsewhere(name: str) -> str:
    """A figure of a measurement that takes hours, as it was kept in the folder ``measured``."""
    return for_dark_pages((Path(__file__).parent / "measured" / f"{name}.svg").read_text())


def for_dark_pages(svg: str) -> str:
    """What matplotlib wrote, with colours for dark pages."""
    rules = [f"text {{ fill: {COLORS['ink'].dark} }}"]  # matplotlib leaves out the black of text
    for light, dark in DARK.items():
        rules += [f'[style*="{what}: {light}"] {{ {what}: {dark} !important }}' for what in ("fill", "stroke")]
    dark_page = "\n".join(f"  {rule}" for rule in rules)
    return svg.replace(
        "<defs>", f"<style>\n@media (prefers-color-scheme: dark) {{\n{dark_page}\n}}\n</style>\n<defs>", 1
    )
