"""The explorer's page as one HTML file: its script, its style and its data, and a policy that lets nothing else in."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

_SOURCES = files("treadle.show") / "explorer"
_IMPORT = re.compile(r'^import (\{[^}]*\}) from "\./(\w+)\.mjs";$', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?(?:function|class|const) (\w+))", re.MULTILINE)


def page(data: Mapping[str, Any]) -> str:
    """The page that shows what ``data`` says, as ``explorer_data.py`` makes it; it loads nothing from elsewhere.

    Example:
        >>> from treadle.show.explorer_page import page
        >>> "connect-src" in page({"format": 1, "title": "nothing yet", "networks": []})
        False
    """
    script, style = _script(), _text("page.css")
    allowed = f"script-src {_hash(script)}; style-src {_hash(style)}"
    parts = {
        "policy": f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'",
        "title": html.escape(str(data["title"])).encode("ascii", "xmlcharrefreplace").decode(),
        "style": style,
        "script": script,
        "data": _json(data),
    }
    return re.sub(r"\{(\w+)\}", lambda found: parts[found[1]], _text("page.html"))


def _json(data: Mapping[str, Any]) -> str:
    """JSON that can stand within a script element: nothing in it ends that."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _script() -> str:
    """All modules in one script, each after those that it imports: a function that gives what the module exports."""
    done: dict[str, str] = {}

    def add(name: str) -> None:
        if name in done:
            return
        text = _text(f"{name}.mjs")
        for _, imported in _IMPORT.findall(text):
            add(imported)
        exports = ", ".join(exported for _, exported in _EXPORT.findall(text))
        body = _EXPORT.sub(r"\1", _IMPORT.sub(r"const \1 = \2_module;", text))
        done[name] = f"const {name}_module = (() => {{\n{body}return {{ {exports} }};\n}})();\n"

    add("page")
    return _in_ascii("\n".join(done.values()))


def _in_ascii(script: str) -> str:
    """The same script in ASCII: a page around it that does not say how it is encoded must not change its hash."""
    return re.sub(r"[^\x00-\x7f]", lambda found: json.dumps(found[0])[1:-1], script)


def _text(name: str) -> str:
    return (_SOURCES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
