"""What translators learned: right or not by length, and what one looks at."""

from typing import Any

import torch
from torch import Tensor

from treadle.recipes.translate import Learning, Pair, Translator, make_pairs, split
from treadle.recipes.translate.tasks import LONGEST
from treadle.recipes.translate.tokens import START
from treadle.show.lengths import accuracy_by_length, lengths_figure
from treadle.training.budget import ShareDone

from .canvas import Canvas
from .learned import Learned
from .plots import themed

LETTERS = 8
"""Of the example that the attention matrix shows."""


def learn_translators() -> dict[str, Any]:
    """Of each task: how many answers are exactly right, by length, and what the decoder looks at in an example."""
    found = {}
    for task in ("reverse", "sort"):
        torch.manual_seed(0)
        pairs = make_pairs(task, 50_000)
        translator = Translator.new(pairs)
        list(Learning(translator, *split(pairs, 0.02)).steps(ShareDone(steps=300)))
        test = make_pairs(task, 2_000, test=True)
        shares = accuracy_by_length([len(pair.source) for pair in test], translator.exact(test))
        example = next(pair for pair in test if len(set(pair.source)) == len(pair.source) == LETTERS)
        found[task] = {
            "lengths": [(length, round(share, 3)) for length, share in shares],
            "source": example.source,
            "target": translator.translate([example.source])[0],
            "weights": looks(translator, example),
        }
    return found


def looks(translator: Translator, pair: Pair) -> list[list[float]]:
    """How much the decoder looks at each letter of the source, for each letter of the target."""
    seen: list[Tensor] = []
    model = translator.model.eval()
    handle = model.attention.register_forward_hook(lambda _module, _inputs, outputs: seen.append(outputs[1]))
    read = torch.cat([torch.tensor([START]), translator.target.encode(pair.target)])
    with torch.no_grad():
        model(translator.reads(pair.source)[None], read[None])
    handle.remove()
    weights = torch.cat(seen, 1)[0, : len(pair.target), 1:-1]  # without the start and the end
    return [[round(value, 2) for value in row] for row in weights.tolist()]


def lengths() -> str:
    """What the guide about sequence to sequence shows."""
    return themed(lengths_figure({task: one["lengths"] for task, one in TRANSLATORS.data().items()}, LONGEST))


def attention() -> str:
    """What each of two decoders looks at: a row for each letter that it says."""
    title = (
        "Attention of two trained translators. Reversing looks at the letters from the last to the first; sorting looks"
        " at the smallest letter, then at the next, wherever it is"
    )
    sheet = Canvas(720, 452, title, ".look { fill: $state }\n.place { fill: $other }\n")
    for i, (task, one) in enumerate(TRANSLATORS.data().items()):
        _matrix(sheet, 70 + 346 * i, task, one)
    sheet.text(
        24, 410, "Columns: the letters that the encoder read. Rows: the letters that the decoder says.", "small left"
    )
    sheet.text(
        24,
        434,
        "The stronger the colour, the more it looked there. Each network was trained for 300 steps.",
        "small left",
    )
    return sheet.svg()


def _matrix(sheet: Canvas, left: float, task: str, one: dict[str, Any]) -> None:
    top, side = 106, 34
    sheet.text(left, 44, task, "title left")
    for column, letter in enumerate(one["source"]):
        sheet.text(left + side * (column + 0.5), top - 12, letter, "name")
    for row, (letter, weights) in enumerate(zip(one["target"], one["weights"], strict=True)):
        sheet.text(left - 20, top + side * (row + 0.5) + 6, letter, "name")
        for column, weight in enumerate(weights):
            place = f'x="{left + side * column + 1}" y="{top + side * row + 1}" width="32" height="32" rx="3"'
            sheet.add(f'<rect class="place" {place}/>')
            if weight:
                sheet.add(f'<rect class="look" fill-opacity="{weight:g}" {place}/>')


def _as_often_right(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """On average over the lengths, within a tenth."""

    def mean(one: dict[str, Any]) -> float:
        return sum(share for _, share in one["lengths"]) / len(one["lengths"])

    return old.keys() == new.keys() and all(abs(mean(old[task]) - mean(new[task])) < 0.1 for task in old)


TRANSLATORS = Learned("translators", learn_translators, same=_as_often_right)
