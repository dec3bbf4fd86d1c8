"""Turing machines, in the text format of one line a rule: ``state read write move next``."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from treadle.atomic import regular
from treadle.errors import DataError

BLANK = "_"
"""Symbol of an empty cell of the tape."""
MOVES = {"l": -1, "r": 1, "*": 0}
ANY = "*"
_OWN = Path(__file__).parent / "machines"
MACHINES = {"increment": "01", "palindrome": "ab", "copy": "ab", "beaver4": "_1", "beaver5": "_1"}
"""The bundled machines by name, and the symbols that random tapes for them consist of."""
MOST_SYMBOLS = 255
"""A cell of the tape is a byte."""
MOST_RULES = 100_000


class Action(NamedTuple):
    """What a machine does to its tape."""

    write: str
    """The symbol that the cell under the head gets."""
    move: int
    """-1 to the left, 1 to the right, 0 for neither."""
    halts: bool
    """Whether it is over after that."""

    def __str__(self) -> str:
        return f"{self.write}{ {-1: 'l', 0: '*', 1: 'r'}[self.move] }{' halt' if self.halts else ''}"


class Machine:
    """A Turing machine: its rules, and the alphabets of what it reads and does.

    Args:
        rules: what to do, and the next state, by state and symbol. States whose names begin with ``halt`` are ends. A
            state without a rule for what it reads ends there: it leaves the symbol, stays and halts.
        start: the first state.
        name: its name in messages.

    Attributes:
        symbols: what it reads, the blank first; a reading is a number of one of them.
        actions: what it does; an action is a number of one of them.
    """

    def __init__(self, rules: dict[tuple[str, str], tuple[Action, str]], start: str, name: str = "the machine"):
        self.rules, self.start, self.name = rules, start, name
        found = {BLANK, *(symbol for _, symbol in rules), *(action.write for action, _ in rules.values())}
        self.symbols = (BLANK, *sorted(found - {BLANK}))
        states = {start, *(state for state, _ in rules), *(state for _, state in rules.values())}
        table = {
            (state, symbol): rules.get((state, symbol), (Action(symbol, 0, True), "halt"))
            for state in sorted(states)
            if not is_end(state)
            for symbol in self.symbols
        }
        self.actions = tuple(sorted({action for action, _ in table.values()}))
        self.states = tuple(sorted({state for state, _ in table}))
        number = {action: i for i, action in enumerate(self.actions)}
        place = {state: i for i, state in enumerate(self.states)}
        self.table = [
            [(number[a], place.get(to, -1)) for a, to in (table[state, symbol] for symbol in self.symbols)]
            for state in self.states
        ]
        """For each state and reading, the action and the next state by number, -1 for an end."""
        self.first = place.get(start, -1)

    @property
    def letters(self) -> str:
        """Symbols of training tapes, unless given: those that rules read and do not write over another.

        That is a guess: whether a symbol is a mark of the machine's own cannot be seen in its rules.
        """
        if self.name in MACHINES:
            return MACHINES[self.name]
        read = {read for _, read in self.rules} - {BLANK}
        marks = {action.write for (_, read), (action, _) in self.rules.items() if action.write != read}
        letters = sorted(read - marks) or sorted(read)
        return "".join(letters if len(letters) > 1 else [BLANK, *letters])

    def controller(self) -> "Controller":
        """The machine without its tape: from readings to actions."""
        return Controller(self)

    def encode(self, tape: str) -> bytes:
        """The cells of a tape.

        Raises:
            DataError: a symbol that the machine does not know.
        """
        try:
            return bytes(map(self.symbols.index, tape))
        except ValueError:
            at, wrong = next((i, s) for i, s in enumerate(tape) if s not in self.symbols)
            raise DataError(
                f"tape {tape[:40]!r}: {wrong!r} at cell {at + 1} is no symbol of {self.name}, which knows"
                f" {' '.join(self.symbols)}"
            ) from None


class Controller:
    """The black box: a hidden state, and from each reading an action."""

    def __init__(self, machine: Machine):
        self._table, self._first = machine.table, machine.first
        self.reset()

    def reset(self) -> None:
        """Begin in the first state."""
        self._state = self._first

    def act(self, reading: int) -> int | None:
        """The action after a reading, both by number; None once it has halted."""
        if self._state < 0:
            return None
        action, self._state = self._table[self._state][reading]
        return action


def is_end(state: str) -> bool:
    """Whether a machine halts in a state."""
    return state.lower().startswith("halt")


def find_machine(name: str) -> Machine:
    """A bundled machine by its name, or one from a file.

    Raises:
        DataError: the file is not a machine.
        OSError: it cannot be read.
    """
    if name in MACHINES:
        return parse_machine((_OWN / f"{name}.txt").read_text(encoding="utf-8"), name)
    try:
        return read_machine(name)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"there is no file {name}, and no machine of that name: the bundled ones are {', '.join(MACHINES)}"
        ) from None


def read_machine(path: Path | str) -> Machine:
    """A machine from a file; see `parse_machine`.

    Raises:
        DataError: the file is not UTF-8 text, or not a machine; with line and column.
        OSError: it cannot be read.
    """
    try:
        text = Path(regular(path)).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a machine: it is not UTF-8 text (byte {error.start})") from None
    return parse_machine(text, str(path))


def parse_machine(text: str, name: str = "the machine") -> Machine:
    """A machine from text: on each line ``state read write move next``, with blanks between them.

    A symbol is one character, ``_`` the blank. A move is ``l``, ``r`` or ``*`` (stay). A state is any word; those that
    begin with ``halt`` are ends. ``*`` as state or symbol that is read stands for all that no other rule names; as
    symbol that is written or next state, for the same as before. ``;`` begins a comment. The machine starts in state
    ``0`` if there is one, and else in the state of the first rule. Messages call it by its name, such as the file's.

    Raises:
        DataError: what is wrong, with line and column.

    Source: the format of Anthony Morphett's Turing machine simulator, https://morphett.info/turing/.

    Example:
        >>> from treadle.recipes.imitate import parse_machine
        >>> flip = parse_machine("go 0 1 r go  ; until the blank\\ngo 1 0 r go\\ngo _ _ * halt")
        >>> flip.symbols, [str(action) for action in flip.actions]
        (('_', '0', '1'), ['0r', '1r', '_* halt'])
    """
    lines: dict[tuple[str, str], int] = {}
    given: dict[tuple[str, str], tuple[str, int, str]] = {}
    for number, words in _lines(text):

        def refuse(column: int, message: str, number: int = number) -> DataError:
            return DataError(f"{name}, line {number}, column {column}: {message}")

        names = ("state", "symbol read", "symbol written", "move", "next state")
        if len(words) < 5:
            column = words[-1][0] + len(words[-1][1])
            raise refuse(column, f"a rule is 'state read write move next', but the {names[len(words)]} is missing")
        if len(words) > 6 or (len(words) == 6 and words[5][1] != "!"):
            raise refuse(words[5][0], f"{words[5][1]!r} is one word too many: a rule is 'state read write move next'")
        (_, state), (at_read, read), (at_write, write), (at_move, move), (_, after) = words[:5]
        for column, symbol in ((at_read, read), (at_write, write)):
            if len(symbol) != 1:
                raise refuse(column, f"a symbol is one character, but this is {symbol!r}")
        if move.lower() not in MOVES:
            raise refuse(at_move, f"a move is l, r or *, but this is {move!r}")
        if is_end(state):
            raise refuse(words[0][0], f"{state!r} is an end, as its name begins with halt: it can have no rule")
        if (state, read) in lines:
            raise refuse(words[0][0], f"line {lines[state, read]} has a rule for {state!r} on {read!r} already")
        lines[state, read], given[state, read] = number, (write, MOVES[move.lower()], after)
        if len(given) > MOST_RULES:
            raise refuse(1, f"a machine of more than {MOST_RULES:,} rules")
    if not given:
        raise DataError(f"{name}, line 1, column 1: there is no rule in it: a rule is 'state read write move next'")
    rules = dict(_without_wildcards(given))
    named = {state for state, _ in given}
    for (_, _, after), (at, read) in zip(given.values(), given, strict=True):
        if after != ANY and not is_end(after) and after not in named and ANY not in named:
            raise DataError(
                f"{name}, line {lines[at, read]}, column 1: the next state {after!r} has no rules; an end is called"
                " halt"
            )
    machine = Machine(rules, "0" if "0" in named else next((s for s, _ in given if s != ANY), "0"), name)
    if len(machine.symbols) > MOST_SYMBOLS:
        raise DataError(f"{name}: {len(machine.symbols)} symbols, but at most {MOST_SYMBOLS} can be told apart")
    return machine


def _lines(text: str) -> Iterator[tuple[int, list[tuple[int, str]]]]:
    """The lines with something in them: their numbers, and their words with the column where each begins."""
    for number, line in enumerate(text.splitlines(), 1):
        words = [(found.start() + 1, found[0]) for found in re.finditer(r"\S+", line.split(";")[0])]
        if words:
            yield number, words


def _without_wildcards(given: dict[tuple[str, str], tuple[str, int, str]]) -> Iterable[Any]:
    """The rules for every state and symbol, the most particular of those that fit."""
    symbols = {BLANK, *(s for (_, read), (write, _, _) in given.items() for s in (read, write) if s != ANY)}
    states = {s for (state, _), (_, _, after) in given.items() for s in (state, after) if s != ANY and not is_end(s)}
    for state in sorted(states):
        for symbol in sorted(symbols):
            fitting = ((state, symbol), (state, ANY), (ANY, symbol), (ANY, ANY))
            found = next((given[key] for key in fitting if key in given), None)
            if found is not None:
                write, move, after = found
                after = state if after == ANY else after
                yield (state, symbol), (Action(symbol if write == ANY else write, move, is_end(after)), after)
