"""A figure as the bytes of a picture file."""

import io
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

SUFFIXES = (".svg", ".png")


def rendered(figure: Figure, path: Path) -> bytes:
    """What belongs into the file at ``path``: SVG (its text stays text) or PNG, by suffix.

    Raises:
        ValueError: another suffix.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"a picture is {' or '.join(SUFFIXES)}, but the path is {str(path)!r}: change its suffix")
    kind, content = path.suffix[1:].lower(), io.BytesIO()
    # The same figure gives the same file, whoever draws it and when.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "treadle"}):
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(content, format=kind, dpi=150, metadata=metadata, facecolor=figure.get_facecolor())
    return content.getvalue()
