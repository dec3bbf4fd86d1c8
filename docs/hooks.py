"""What `mkdocs build` makes by running treadle itself, so that it cannot go stale: pictures, and what examples print.

``<!-- output -->`` below a ```python fence is replaced by what that fence prints. The fences of a page run in one
namespace, from above to below, as the tests run them (see conftest.py).
"""

import contextlib
import functools
import io
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mkdocs.config.defaults import MkDocsConfig  # pyright: ignore[reportMissingImports]
from mkdocs.structure.files import File, Files  # pyright: ignore[reportMissingImports]

import treadle as td
from treadle.recipes.translate import Learning, Translator, make_pairs, split
from treadle.recipes.translate.tasks import LONGEST
from treadle.show import draw_wiring
from treadle.show.lengths import draw_accuracy_by_length
from treadle.show.reach import draw_reach
from treadle.training.budget import ShareDone
from treadle.wiring.named import layer_input_size

EXAMPLES = Path(__file__).parents[1] / "examples"
MARK = "<!-- output -->"
FENCE = re.compile(rf"^```python\n(.*?)^```\n(\n*{MARK}\n)?", re.MULTILINE | re.DOTALL)


def networks() -> Iterator[tuple[str, td.Graph]]:
    """What explanation/how-layers-connect.md shows: the seven wirings, and its example of another one."""
    input_size, hidden_sizes = 40, [64, 64, 64]
    for wiring in td.WIRINGS:
        reads = [layer_input_size(wiring, layer, input_size, hidden_sizes) for layer in range(len(hidden_sizes))]
        cells = [td.LSTMCell(I, H) for I, H in zip(reads, hidden_sizes, strict=True)]
        yield wiring, td.Stack(cells, wiring)

    g = td.Graph(())
    embedded = g.add("embedded", torch.nn.Embedding(100, 32), reads=g.x)
    upper = g.later("high", 64)
    low = g.add("low", td.LSTMCell(96, 64), reads=[embedded, upper.delayed()])
    high = g.add("high", td.GRUCell(128, 64), reads=[low, low.delayed(2)])
    scores = g.add("scores", torch.nn.Linear(64, 100), reads=td.sum_of(low, high))
    yield "graph", g.outputs(scores)


def pictures() -> Iterator[tuple[str, bytes]]:
    """Each picture: its address in the site, ``pictures/relay.svg``, and its content."""
    with TemporaryDirectory() as folder:
        for name, network in networks():
            path = draw_wiring(network, Path(folder, f"{name}.svg"))
            yield f"pictures/{name}.svg", path.read_bytes()
        yield "pictures/reach.svg", draw_reach(Path(folder, "reach.svg"), measured()).read_bytes()
        yield "pictures/memory.svg", draw_reach(Path(folder, "memory.svg"), learned()).read_bytes()
        drawn = draw_accuracy_by_length(Path(folder, "lengths.svg"), translated(), LONGEST)
        yield "pictures/lengths.svg", drawn.read_bytes()


def measured() -> dict[str, td.GradientReach]:
    """What how-to/truncated-bptt.md shows."""
    torch.manual_seed(0)
    cell, xs = td.LSTMCell(4, 16, forget_bias=2.0), torch.randn(8, 200, 4)
    methods = (td.FullBPTT(), td.TruncatedBPTT(steps=20, horizon=40))
    return {repr(method): td.gradient_reach(td.Recurrent(cell, gradient=method), xs) for method in methods}


@functools.cache  # `mkdocs serve` builds again and again
def learned() -> dict[str, td.GradientReach]:
    """What how-to/endless-sequences.md shows: the example of memory beyond the window."""
    example = runpy.run_path(str(EXAMPLES / "08_memory_beyond_the_window.py"))
    return example["reaches"](example["learn"](carry=True), example["learn"](carry=False))


@functools.cache
def translated() -> dict[str, tuple[list[int], list[bool]]]:
    """What research/sequence-to-sequence.md shows: sequences up to twice as long as in training, right or not."""
    found = {}
    for task in ("reverse", "sort"):
        torch.manual_seed(0)
        pairs = make_pairs(task, 50_000)
        translator = Translator.new(pairs)
        list(Learning(translator, *split(pairs, 0.02)).steps(ShareDone(steps=300)))
        test = make_pairs(task, 2_000, test=True)
        found[task] = ([len(pair.source) for pair in test], translator.exact(test))
    return found


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pictures to the site, so that links to them are checked. They never lie in docs/."""
    for address, content in pictures():
        files.append(File.generated(config, address, content=content))
    return files


def with_output(markdown: str, name: str) -> str:
    """A page with what its examples print in the places that are marked for it."""
    namespace: dict[str, Any] = {"__name__": "example"}

    def run(fence: re.Match[str]) -> str:
        line = markdown.count("\n", 0, fence.start(1))
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * line + fence[1], name, "exec"), namespace)
        if not fence[2]:
            return fence[0]
        text = printed.getvalue().rstrip()
        if not text:
            raise ValueError(f"{name}:{line}: the example is marked with {MARK}, but prints nothing")
        return f"```python\n{fence[1]}```\n\n```{{.text .output}}\n{text}\n```\n"

    return FENCE.sub(run, markdown)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Runs the examples of pages that show what they print."""
    return with_output(markdown, page.file.src_path) if MARK in markdown else markdown
