"""The options of the `treadle` command, as tables for the reference, made from the command itself in every build.

``<!-- options: treadle fit -->`` in a page is replaced by what ``treadle fit --help`` says.
"""

import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer

from treadle.cli import app

MARK = re.compile(r"^<!-- options: (treadle[\w ]*) -->$", re.MULTILINE)
KINDS = {int: "whole number", float: "number", Path: "path", str: "text"}


def commands(command: Any = None, words: str = "treadle") -> dict[str, Any]:
    """Every command that does something, by the words that call it."""
    command = command or typer.main.get_command(app)
    inner = getattr(command, "commands", {})
    found = {words: command} if not inner else {}
    for name, one in inner.items():
        found |= commands(one, f"{words} {name}")
    return found


def options_of(words: str) -> str:
    """What a command does, how it is called, and a table of its arguments and options."""
    known = commands()
    if words not in known:
        raise ValueError(f"there is no command {words!r}: choose one of {', '.join(known)}")
    command = known[words]
    arguments = [one for one in command.params if not is_option(one)]
    options = [one for one in command.params if is_option(one)]
    usage = [words, *(_placeholder(one) for one in arguments)]
    usage += [f"{_longest(one)} {one.name.upper()}" for one in options if one.required]
    lines = [command.help.partition("\f")[0].strip(), "", "```text", f"{' '.join(usage)} [OPTIONS]", "```", ""]
    lines += ["| argument or option | value | default | what it is |", "| --- | --- | --- | --- |"]
    hints = get_type_hints(command.callback)
    lines += [_row(one, hints) for one in (*arguments, *options) if one.name != "help"]
    return "\n".join(lines)


def is_option(parameter: Any) -> bool:
    """Whether a parameter is an option rather than an argument."""
    return parameter.opts[0].startswith("-")


def _longest(option: Any) -> str:
    return max(option.opts, key=len)


def _placeholder(argument: Any) -> str:
    name = argument.name.upper()
    return name if argument.required else f"[{name}]"


def _row(parameter: Any, hints: dict[str, Any]) -> str:
    names = [*parameter.opts, *parameter.secondary_opts] if is_option(parameter) else [parameter.name.upper()]
    shown = ", ".join(f"`{name}`" for name in sorted(names, key=len))
    cells = shown, _value(parameter, hints.get(parameter.name)), _default(parameter), " ".join(parameter.help.split())
    return f"| {' | '.join(one.replace('|', chr(92) + '|').replace('<', '&lt;') for one in cells)} |"


def _value(parameter: Any, hint: Any) -> str:
    kind = next((KINDS[one] for one in (hint, *get_args(hint)) if one in KINDS), "")
    least, most = parameter.min, parameter.max
    if least is None:
        return kind
    # What is only there to keep numbers within 64 bits says nothing to a reader.
    return f"{kind}, {least} or more" if most is None or most >= 2**31 - 1 else f"{kind}, {least} to {most}"


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    if parameter.default is None or isinstance(parameter.default, bool):
        return ""
    return f"`{parameter.default!s}`" if str(parameter.default).strip() else "a newline"


def with_options(markdown: str) -> str:
    """A page with the options of commands in the places that are marked for them."""
    return MARK.sub(lambda found: options_of(found[1]), markdown)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """What mkdocs calls for every page."""
    return with_options(markdown)
