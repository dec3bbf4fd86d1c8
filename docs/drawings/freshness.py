"""Which committed pictures no longer show what is so.

A picture is *stale* if drawing it today gives another picture: other elements, words or colours, or the same ones
visibly elsewhere. It is compared element by element and number by number, not byte by byte: processors round
differently, so curves may differ by less than a line is wide. (Another matplotlib may draw otherwise: constraints.txt
pins its version.)

What took a training is not trained again for that. Its data lie beside the code with a hash of the source that made
them (see learned.py), and are stale when that source is another one. A slow test trains again and compares what the
pictures say.
"""

import math
import re
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from xml.etree import ElementTree

from .catalogue import LEARNED, PICTURES

FOLDER = Path(__file__).parents[1] / "pictures"
NUMBER = re.compile(r"(?<![#\w.])-?\d+(?:\.\d+)?(?:e-?\d+)?(?![\w.])")
LINE = 0.75
"""How far the same thing may lie elsewhere: less than a line is wide, in pictures about 700 units wide."""
TOLERANCES = {"fill-opacity": 0.02, "stroke-opacity": 0.02}
IDENTITY = {"id", "clip-path", "{http://www.w3.org/1999/xlink}href"}
"""Names that matplotlib makes of hashes: they say nothing about what is seen."""


def stale(names: Iterable[str] = PICTURES) -> Iterator[str]:
    """A sentence about each picture that is missing, stale or nobody's; none if all is well."""
    for learned in LEARNED.values():
        if not learned.is_current():
            yield f"what {learned.path.name} holds was learned by another source than today's: {learned.changed()}"
    for name in names:
        path = FOLDER / f"{name}.svg"
        if not path.exists():
            yield f"{path.name} does not exist"
        elif found := difference(path.read_text(), PICTURES[name]()):
            yield f"{path.name} is stale: {found}"
    known = {f"{name}.svg" for name in PICTURES}
    for path in sorted(FOLDER.iterdir()):
        if path.name not in known:
            yield f"{path.name} is drawn by nobody: list it in docs/drawings/catalogue.py, or delete it"


def difference(old: str, new: str) -> str | None:
    """The first thing that one SVG shows and another does not, in words; None if they look the same."""
    for before, now in zip_longest(_shown(old), _shown(new)):
        if before is None or now is None:
            return f"it has {'more' if now is None else 'fewer'} elements than the one drawn today"
        for attribute in before.keys() | now.keys():
            was, is_now = before.get(attribute, ""), now.get(attribute, "")
            if not _alike(was, is_now, attribute):
                return f"{attribute} of <{now['tag']}> is {_short(was)}, drawn today {_short(is_now)}"
    return None


def _shown(svg: str) -> Iterator[dict[str, str]]:
    """What can be seen of each element: its tag, attributes and words."""
    root = ElementTree.fromstring(svg)
    hidden = {id(inner) for outer in root.iter() if _tag(outer) == "metadata" for inner in outer.iter()}
    for element in root.iter():
        if id(element) not in hidden:
            seen = {name: value for name, value in element.attrib.items() if name not in IDENTITY}
            yield seen | {"tag": _tag(element), "words": " ".join((element.text or "").split())}


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _alike(old: str, new: str, attribute: str) -> bool:
    """Words have to be the same; numbers in attributes may differ a little."""
    if old == new or attribute in ("words", "tag"):
        return old == new
    if NUMBER.sub("0", old) != NUMBER.sub("0", new):
        return False
    tolerance = TOLERANCES.get(attribute, LINE)
    pairs = zip(NUMBER.findall(old), NUMBER.findall(new), strict=True)
    return all(math.isclose(float(a), float(b), rel_tol=1e-3, abs_tol=tolerance) for a, b in pairs)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}…")
