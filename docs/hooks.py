"""What `mkdocs build` makes besides the pages: the pictures, drawn by treadle itself, so that they cannot go stale."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import treadle as td
from treadle.show import draw_wiring
from treadle.wiring.named import layer_input_size


def pictures() -> Iterator[tuple[str, bytes]]:
    """Each picture: its address in the site, ``pictures/relay.svg``, and its content."""
    input_size, hidden_sizes = 40, [64, 64, 64]
    with TemporaryDirectory() as folder:
        for wiring in td.WIRINGS:
            reads = [layer_input_size(wiring, layer, input_size, hidden_sizes) for layer in range(len(hidden_sizes))]
            cells = [td.LSTMCell(I, H) for I, H in zip(reads, hidden_sizes, strict=True)]
            path = draw_wiring(td.Stack(cells, wiring), Path(folder, f"{wiring}.svg"))
            yield f"pictures/{wiring}.svg", path.read_bytes()


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pictures to the site, so that links to them are checked. They never lie in docs/."""
    for address, content in pictures():
        files.append(File.generated(config, address, content=content))
    return files
