"""How pictures become files."""

import os
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

SUFFIXES = (".svg", ".png")


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as SVG (its text stays text) or PNG, by suffix. The file appears complete or not at all.

    Args:
        figure: what to write.
        path: where to.

    Returns:
        The path.

    Raises:
        ValueError: another suffix.
        OSError: the file cannot be written.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from treadle.show.files import save_figure
        >>> save_figure(Figure(), "empty.svg").name
        'empty.svg'
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"a picture is written as {' or '.join(SUFFIXES)}, but the path is {str(path)!r}: change its suffix")
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    # The same figure gives the same file, so that a rebuilt site changes only where a picture did.
    options = {"svg.fonttype": "none", "svg.hashsalt": "treadle", "text.usetex": False}
    try:
        with matplotlib.rc_context(options):
            metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
            figure.savefig(beside, format=path.suffix[1:].lower(), dpi=150, metadata=metadata, facecolor=figure.get_facecolor())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path
