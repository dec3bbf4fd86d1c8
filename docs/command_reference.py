"""The options of the `treadle` command, as tables for the reference, made from the command itself in every build.

In a page, ``<!-- options: treadle fit -->`` is replaced by what ``treadle fit --help`` says, and
``<!-- training options -->`` by which command that trains has which of the options that they share.
"""

import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer

from treadle.cli import app

TRAINING_MARK = "<!-- training options -->"
TRAINING = {
    "treadle fit": "`fit`",
    "treadle compare": "`compare`",
    "treadle translate": "`translate`",
    "treadle imitate": "`imitate`",
    "treadle decode": "`decode --learn`",
    "treadle segment fit": "`segment fit`",
}
"""Commands that train, and what heads their columns."""
SHARED = (
    "--budget",
    "--learning-rate",
    "--rows",
    "--validation",
    "--patience",
    "--seed",
    "--resume",
    "--checkpoint",
    "--checkpoint-every",
    "--tensorboard",
    "--on",
)
BY_KIND, CLOSED_LOOP, ONE_CORE = "as `fit`", "is judged in closed loop", "takes minutes on a core"
MISSING = {
    ("treadle compare", "--learning-rate"): BY_KIND,
    ("treadle compare", "--rows"): BY_KIND,
    ("treadle compare", "--validation"): BY_KIND,
    ("treadle compare", "--patience"): BY_KIND,
    ("treadle compare", "--resume"): "all are new",
    ("treadle compare", "--checkpoint-every"): "at evaluations",
    ("treadle translate", "--on"): ONE_CORE,
    ("treadle imitate", "--validation"): CLOSED_LOOP,
    ("treadle imitate", "--patience"): CLOSED_LOOP,
    ("treadle imitate", "--on"): ONE_CORE,
    ("treadle decode", "--rows"): "48 users",
    ("treadle decode", "--validation"): "all users are new",
    ("treadle decode", "--patience"): "all users are new",
    ("treadle decode", "--on"): ONE_CORE,
    ("treadle segment fit", "--on"): "clicks follow the network",
}
"""Why a command lacks an option, or what it does instead."""

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


def training_options() -> str:
    """Which command that trains has which of the options that they share, and why not."""
    known = commands()
    lines = [f"| option | {' | '.join(TRAINING.values())} |", f"| --- |{' --- |' * len(TRAINING)}"]
    for option in SHARED:
        cells = []
        for words in TRAINING:
            has = any(option in parameter.opts for parameter in known[words].params)
            if has == ((words, option) in MISSING):
                raise ValueError(f"{words} {'has' if has else 'lacks'} {option}: mend MISSING in {__file__}")
            cells.append("yes" if has else MISSING[words, option])
        lines.append(f"| `{option}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def with_options(markdown: str) -> str:
    """A page with the options of commands in the places that are marked for them."""
    markdown = markdown.replace(TRAINING_MARK, training_options()) if TRAINING_MARK in markdown else markdown
    return MARK.sub(lambda found: options_of(found[1]), markdown)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """What mkdocs calls for every page."""
    return with_options(markdown)
