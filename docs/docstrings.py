"""How docstrings are shown in the reference: an extension of griffe, which reads them for mkdocstrings."""

import re
from typing import Any

import griffe  # pyright: ignore[reportMissingImports]

EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)


class Examples(griffe.Extension):
    """`Example:` is a section of code. The Google style calls it `Examples:`, and griffe knows no other name."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub("Examples:", obj.docstring.value)
