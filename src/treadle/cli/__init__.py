"""The `treadle` command: a file a subcommand.

Every error that a user can mend is one line on stderr, ``treadle: …``, and exit status 2. Subcommands import what is
slow to import when they run, not before.
"""

import io
import itertools
import math
import os
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any, get_args, get_type_hints

import typer

from treadle import __version__
from treadle.cli.cache import cache
from treadle.cli.compare import compare
from treadle.cli.convert import convert
from treadle.cli.decode import decode
from treadle.cli.explore import explore
from treadle.cli.fit import fit
from treadle.cli.imitate import imitate
from treadle.cli.run import run
from treadle.cli.segment import segment
from treadle.cli.serve import serve
from treadle.cli.show import show
from treadle.cli.translate import translate
from treadle.errors import TreadleError
from treadle.starting import interrupts_are_exceptions

__all__ = ["app", "main"]

app = typer.Typer(
    name="treadle",
    help="Networks with memory: compare wirings, train, run and draw them.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for subcommand in (compare, convert, decode, explore, fit, imitate, run, serve, show, translate, cache):
    app.command()(subcommand)
app.add_typer(segment, name="segment")


def _print_version(asked: bool) -> None:
    if asked:
        print(f"treadle {__version__}")
        raise typer.Exit


@app.callback()
def treadle(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Networks with memory: compare wirings, train, run and draw them."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit.

    Exit status: 0 if all went well, 2 for an error in what was passed, 130 after Ctrl-C.

    Args:
        arguments: the words after ``treadle``; those of the command line if there are none.
    """
    interrupts_are_exceptions()
    words = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character is no reason to fail
    try:
        check_numbers(words)
        status = app(words, standalone_mode=False)
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):
        # Whoever read our output has enough; typer and rich turn that into a SystemExit of their own. Python would
        # complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except (KeyboardInterrupt, typer.Abort):
        status = 130
    except (TreadleError, OSError, UsageError) as error:
        message = with_options(one_line(error), words)
        print(f"treadle: {message}", file=sys.stderr)
        status = 2
    except Exception as error:
        if os.environ.get("TREADLE_TRACEBACK"):
            raise
        print(f"treadle: {type(error).__name__}: {one_line(error)} (TREADLE_TRACEBACK=1 shows where)", file=sys.stderr)
        status = 2
    sys.exit(status)


UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""What typer raises about options; BadParameter is the only kind of it that has a public name."""


def command_of(words: Sequence[str]) -> Any:
    """The subcommand that words name."""
    command = typer.main.get_command(app)
    for word in words:
        command = getattr(command, "commands", {}).get(word, command)
    return command


NUMBERS = {
    int: (re.compile(r"[+-]?[0-9]{1,19}"), "a whole number such as 3"),
    float: (re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+|inf)([eE][+-]?[0-9]{1,3})?"), "a number such as 0.5"),
}


def check_numbers(words: Sequence[str]) -> None:
    """Refuse numbers that Python reads and others do not: ``1_0``, ``nan``, ``1e300``, digits of other alphabets.

    Raises:
        BadParameter: with the option.
    """
    command = command_of(words)
    hints = get_type_hints(command.callback) if command.callback else {}
    kinds = {}
    for parameter in command.params:
        hint = hints.get(parameter.name)
        kind = next((one for one in (int, float) if one in (hint, *get_args(hint))), None)
        kinds |= {option: kind for option in parameter.opts if kind and option.startswith("-")}
    for word, following in itertools.pairwise([*words, ""]):
        if word == "--":
            return
        option, equals, value = word.partition("=")
        value = value if equals else following
        kind = kinds.get(option)
        if kind and not (
            NUMBERS[kind][0].fullmatch(value) and (kind is int or not 1e30 < abs(float(value)) < math.inf)
        ):
            raise typer.BadParameter(f"'{option}': {value!r:.40} is not a valid number: pass {NUMBERS[kind][1]}")


def with_options(message: str, words: Sequence[str]) -> str:
    """A message of the library in which arguments, as `` `horizon=0` ``, are options of the command, ``--horizon 0``.

    Example:
        >>> from treadle.cli import with_options
        >>> with_options("name other `inputs`, or forecast with `horizon=1` or more", ["fit", "prices.csv"])
        'name other --inputs, or forecast with --horizon 1 or more'
    """
    command = command_of(words)
    options = {parameter.name: max(parameter.opts, key=len) for parameter in command.params}
    off = {parameter.name: one for parameter in command.params for one in parameter.secondary_opts}

    def option(found: re.Match[str]) -> str:
        name = options.get(found[1], "")
        if found[1] in off and found[2] in ("True", "False"):
            return name if found[2] == "True" else off[found[1]]
        return f"{name} {found[2] or ''}".rstrip() if name.startswith("--") else found[0]

    return re.sub(r"`(\w+)(?:=['\"]?([^`]*?)['\"]?)?`", option, message)


def one_line(error: Exception) -> str:
    """What an error has to say, in one line."""
    if isinstance(error, UsageError):
        message = error.format_message().removeprefix("Invalid value: ")  # pyright: ignore[reportAttributeAccessIssue]
    elif isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    else:
        message = str(error) or type(error).__name__
    # Files can say what they like, so nothing of it may steer the terminal.
    return "".join(c if c.isprintable() else "�" for c in " ".join(message.split()))
