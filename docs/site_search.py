"""The search of the site, mended: lunr.js takes two nodes of its graph of words for one where words have many digits.

Nodes that lead to the same endings are merged. They are told apart by a key in which letters and numbers of nodes stand
side by side: "1" to node 235 has the same key as "1" to node 2 with "3" to node 5. So words of digits, such as the
figures of our tables, become other words, and a query that begins like one of them ends in an error and finds nothing.
A space behind each number of a node keeps keys apart.
"""

from pathlib import Path
from typing import Any

WORKERS = "assets/javascripts/workers/search.*.min.js"
KEY, MENDED = "e=e+s+o.id}return e}", 'e=e+s+o.id+" "}return e}'


def mended(worker: str) -> str:
    """The code of the theme's search, without that mistake."""
    if worker.count(KEY) != 1:
        raise ValueError(
            "docs/site_search.py does not know this version of the theme's search: see whether it is mended"
        )
    return worker.replace(KEY, MENDED)


def on_post_build(config: Any, **_: Any) -> None:
    """Mends the copy in the site."""
    (worker,) = Path(config["site_dir"]).glob(WORKERS)
    worker.write_text(mended(worker.read_text(encoding="utf-8")), encoding="utf-8")
