"""``python -m drawings [NAME …]``: writes pictures that are stale; see ``--help``."""

import argparse
import sys

from .catalogue import LEARNED, PICTURES
from .freshness import FOLDER, difference, stale


def write(name: str) -> bool:
    """Draw a picture; one that looks the same as its file is left alone. Gives whether it was written."""
    path, svg = FOLDER / f"{name}.svg", PICTURES[name]()
    if path.exists() and not difference(path.read_text(), svg):
        return False
    path.write_text(svg)
    return True


def main() -> None:
    """What the command does."""
    parser = argparse.ArgumentParser(prog="make pictures", description="Draw the pictures of the pages.")
    parser.add_argument("names", nargs="*", help="pictures; all, if none is named")
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if a picture is stale")
    parser.add_argument(
        "--learn", action="store_true", help="train all that was learned, even if its source is the same"
    )
    options = parser.parse_args()
    names = options.names or list(PICTURES)
    if options.check:
        found = list(stale(names))
        sys.exit("\n".join([*found, "`make pictures` draws them"]) if found else 0)
    for learned in LEARNED.values():
        if options.learn or not learned.is_current():
            print(f"training for {learned.path.name}")
            learned.write()
    for name in names:
        if write(name):
            print(f"docs/pictures/{name}.svg")


if __name__ == "__main__":
    main()
