"""A network that has seen a machine's traces does what the machine does."""

import random
import subprocess
import sys
from collections import defaultdict

import numpy as np
import pytest

import treadle as td
from treadle.control import record
from treadle.recipes import imitate
from treadle.recipes.imitate import RandomTapes, Settings, Tape, find_machine, parse_machine

FLIP = "go 0 1 r go\ngo 1 0 r go\ngo _ _ * halt"


def simulate(rules: dict, start: str, content: str, most: int) -> tuple[int, str, bool]:
    """The textbook's definition, over a tape that is a dictionary."""
    tape, head, state, steps = defaultdict(lambda: "_", enumerate(content)), 0, start, 0
    while steps < most and not state.startswith("halt"):
        write, move, state = rules[state, tape[head]]
        tape[head] = write
        head, steps = head + {"l": -1, "r": 1, "*": 0}[move], steps + 1
    cells = "".join(tape[i] for i in range(min(tape), max(tape) + 1)) if tape else ""
    return steps, cells.strip("_"), state.startswith("halt")


@pytest.mark.parametrize("seed", range(20))
def test_a_tape_is_what_the_textbook_says(seed):
    draw = random.Random(seed)
    states, symbols = "abc", "_01"
    rules = {
        (state, symbol): (draw.choice(symbols), draw.choice("lr*"), draw.choice([*states, *states, "halt"]))
        for state in states
        for symbol in symbols
    }
    # Wanders far to one side, so that the tape has to grow there.
    far = draw.choice("lr")
    rules |= {("a", "_"): ("1", far, "a")} if seed % 2 else {}
    lines = [f"{state} {read} {' '.join(rule)}" for (state, read), rule in rules.items()]
    machine = parse_machine("\n".join(lines))
    content = "".join(draw.choice("01") for _ in range(seed % 5))
    tape = Tape(machine, content, 3000)
    steps = tape.run(machine.controller())
    assert (steps, str(tape), tape.halted) == simulate(rules, "a", content, 3000)
    assert tape.run(machine.controller()) == steps  # and again from the beginning


def test_the_machines_that_come_along_do_what_they_are_said_to():
    def left(name: str, content: str) -> str:
        machine = find_machine(name)
        tape = Tape(machine, content, 100_000)
        tape.run(machine.controller())
        assert tape.halted
        return str(tape)

    draw = random.Random(0)
    for length in range(9):
        word = "".join(draw.choice("ab") for _ in range(length))
        mirrored = word + word[::-1][length % 2 :]
        for text in (word, mirrored):
            assert left("palindrome", text) == ("y" if text == text[::-1] else "n")
            assert left("copy", text) == (f"{text}_{text}" if text else "")
    for number in range(40):
        assert left("increment", f"{number:b}") == f"{number + 1:b}"
    beaver = Tape(find_machine("beaver4"))
    assert beaver.run(find_machine("beaver4").controller()) == 107
    assert beaver.count("1") == 13


def test_wildcards_comments_and_the_first_state():
    machine = parse_machine("; all of this is text\n\n1 * * R 0 ; on\n0 a b l * !\n0 * x * halt-accept\n* b * * 0")
    assert machine.start == "0"
    do = {(s, r): machine.table[machine.states.index(s)][machine.symbols.index(r)] for s in "01" for r in "_abx"}
    said = {key: (str(machine.actions[action]), to) for key, (action, to) in do.items()}
    zero = machine.states.index("0")
    assert said["1", "a"] == ("ar", zero)  # the state alone is named
    assert said["0", "a"] == ("bl", zero)  # both are named
    assert said["0", "_"] == ("x* halt", -1)
    assert said["1", "b"] == ("br", zero)  # the state goes before the symbol
    assert parse_machine(FLIP).start == "go"


def test_without_a_rule_it_halts_and_leaves_the_symbol():
    tape = Tape(parse_machine("go 1 0 r go"), "11")
    tape.run(tape.machine.controller())
    assert (str(tape), tape.halted) == ("00", True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1, column 1: there is no rule"),
        ("; nothing\n\n", "there is no rule"),
        ("a 0 1 r", "line 1, column 8: a rule is .* next state is missing"),
        (f"{FLIP}\n  go", "line 4, column 5: .* symbol read is missing"),
        ("a 0 1 r b c", "line 1, column 11: 'c' is one word too many"),
        ("a 0 1 r b ! c", "one word too many"),
        ("a 0 1 up a", "line 1, column 7: a move is l, r or \\*, but this is 'up'"),
        ("a 0 10 r a", "line 1, column 5: a symbol is one character, but this is '10'"),
        ("a 00 1 r a", "line 1, column 3: a symbol is one character"),
        ("a 0 1 r a\n\n a 0 0 l a", "line 3, column 2: line 1 has a rule for 'a' on '0' already"),
        ("a 0 1 r b", "line 1, column 1: the next state 'b' has no rules"),
        ("halt 0 1 r halt", "line 1, column 1: 'halt' is an end"),
    ],
)
def test_what_is_no_machine_is_refused_with_its_place(text, message):
    with pytest.raises(td.errors.DataError, match=message):
        parse_machine(text, "m.txt")


def test_a_machine_that_never_halts_ends_with_the_budget():
    machine = parse_machine("go _ _ r go")
    tape = Tape(machine, "", 5000)
    assert tape.run(machine.controller()) == 5000
    assert not tape.halted
    assert len(record(machine.controller(), RandomTapes(machine, "_", 3, 77), 1000).readings) == 77
    assert Tape(machine, "", 0).run(machine.controller()) == 0


def test_tapes_with_unknown_symbols_are_refused():
    with pytest.raises(td.errors.DataError, match="'x' at cell 3 is no symbol of"):
        Tape(parse_machine(FLIP), "01x")
    with pytest.raises(td.errors.DataError, match="no letters"):
        RandomTapes(parse_machine(FLIP), "", 3)


def test_actions_that_there_are_not_are_refused():
    tape = Tape(parse_machine(FLIP), "01")
    for action in (-1, len(tape.machine.actions), None):
        with pytest.raises(td.errors.DataError, match=f"action {action} is not one of the"):
            tape.apply(action)
    assert (str(tape), tape.steps) == ("01", 0)


def test_random_tapes_have_what_chance_alone_does_not():
    tapes = RandomTapes(find_machine("palindrome"), "ab", 16, seed=3)
    drawn = [tapes.draw() for _ in range(500)]
    assert {len(tape) for tape in drawn} == set(range(17))
    long = [tape for tape in drawn if len(tape) > 10]
    assert sum(tape == tape[::-1] for tape in long) > len(long) / 6
    assert sum(tape != tape[::-1] for tape in long) > len(long) / 3
    again = RandomTapes(find_machine("palindrome"), "ab", 16, seed=3)
    assert [again.draw() for _ in range(500)] == drawn


@pytest.fixture(scope="module")
def learned() -> tuple[td.ClosedLoop, imitate.Machine, Settings]:
    machine = find_machine("increment")
    settings = Settings("01", longest=8, traces=128, trace_steps=60, hidden_size=20, noise=0.1, steps=400)
    loop = imitate.imitator(machine, settings)
    for _ in imitate.Learning(loop, imitate.demonstrations(machine, settings), settings).steps():
        pass
    return loop, machine, settings


@pytest.mark.slow
def test_it_is_right_on_tapes_much_longer_than_those_it_learned_from(learned):
    loop, machine, _ = learned
    verdict = imitate.judge(loop, machine, RandomTapes(machine, "01", 64, 1000, seed=9).tapes(100))
    assert verdict[:3] == (100, 100, 100)
    assert verdict.first_wrong is None


def test_what_it_left_on_the_tape_is_the_sum(learned):
    loop, machine, _ = learned
    session = loop.session()
    for number in random.Random(1).sample(range(10**6), 20):
        tape = Tape(machine, f"{number:b}", 1000)
        tape.run(session)
        assert str(tape) == f"{number + 1:b}"


def test_a_network_that_is_wrong_is_found_out(learned):
    _, machine, settings = learned
    untrained = imitate.imitator(machine, settings).eval()
    verdict = imitate.judge(untrained, machine, RandomTapes(machine, "01", 64, 1000, seed=9).tapes(20))
    assert verdict.right < 20
    assert verdict.first_wrong is not None
    run = imitate.same_run(untrained.session(), machine, Tape(machine, verdict.first_wrong, 1000))
    assert not run.right


def test_it_sees_readings_and_actions_only(learned):
    _, machine, settings = learned
    trace = imitate.demonstrations(machine, settings)[0]
    renamed = parse_machine(
        "\n".join(
            f"s{s} {r} {a.write} {'l*r'[a.move + 1]} {t if t == 'halt' else 's' + t}"
            for (s, r), (a, t) in sorted(machine.rules.items(), key=lambda rule: rule[0][0] != machine.start)
        )
    )
    again = imitate.demonstrations(renamed, settings)[0]
    assert all(np.array_equal(one, other) for one, other in zip(trace, again, strict=True))


def command(*arguments, folder) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "treadle.cli", "imitate", *map(str, arguments)]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=200, check=False)


@pytest.mark.slow
def test_the_command_learns_saves_and_runs(tmp_path):
    (tmp_path / "flip.txt").write_text(FLIP)
    small = [
        "--traces",
        64,
        "--cells",
        6,
        "--hidden-size",
        12,
        "--budget",
        "100steps",
        "--tests",
        5,
        "--test-cells",
        20,
    ]
    done = command("flip.txt", "-o", "flip.safetensors", "--tape", "0110", *small, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "correct on 5 of 5 tapes" in done.stdout
    assert "halted after 5 steps, all of them correct" in done.stdout
    assert "the tape is 1001" in done.stdout
    again = command("flip.txt", "--model", "flip.safetensors", "--tape", "0" * 90, "--tests", 0, folder=tmp_path)
    assert "halted after 91 steps" in again.stdout
    other = command("beaver4", "--model", "flip.safetensors", folder=tmp_path)
    assert other.returncode == 2
    assert "is not a network that imitates beaver4" in other.stderr


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.txt"], "no machine of that name: the bundled ones are increment"),
        (["bad.txt"], "bad.txt, line 2, column 8: a move is l, r or *"),
        (["increment", "--letters", "01x"], "'x' at cell 3 is no symbol of increment"),
        (["increment", "--tape", "2"], "'2' at cell 1 is no symbol of increment"),
    ],
)
def test_the_command_refuses_in_one_line(arguments, message, tmp_path):
    (tmp_path / "bad.txt").write_text("; a\ngo 0 1 up go\n")
    done = command(*arguments, folder=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr
