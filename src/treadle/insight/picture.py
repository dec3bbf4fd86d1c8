"""A figure as a picture file."""

from pathlib import Path
from typing import BinaryIO

from matplotlib import rc_context
from matplotlib.figure import Figure

SUFFIXES = (".svg", ".png")


def write_figure(figure: Figure, path: Path, to: Path | BinaryIO) -> None:
    """Write a figure as SVG (its text stays text) or PNG, by the suffix of ``path``.

    Args:
        figure: what to write.
        path: where the picture will be.
        to: what is written now: a file that will be moved there, or memory.

    Raises:
        ValueError: another suffix.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"a picture is {' or '.join(SUFFIXES)}, but the path is {str(path)!r}: change its suffix")
    kind = path.suffix[1:].lower()
    # The same figure gives the same file, whoever draws it and when.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "treadle"}):
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(to, format=kind, dpi=150, metadata=metadata, facecolor=figure.get_facecolor())
