"""How pictures become files."""

import os
from pathlib import Path

from matplotlib.figure import Figure

from treadle.files.atomic import replacing
from treadle.insight.picture import rendered


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
    content = rendered(figure, path)
    with replacing(path) as beside:
        beside.write_bytes(content)
    return path
