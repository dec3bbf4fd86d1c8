"""From pairs to a network that translates: what is read, what is refused, what is learned."""

import datetime
import random
import re

import pytest
import torch

from tests.tolerances import assert_close
from treadle.errors import DataError, ModelFileError
from treadle.recipes.translate import (
    TASKS,
    Learning,
    Pair,
    Translator,
    Vocabulary,
    make_pairs,
    read_pairs,
    read_sources,
    split,
)
from treadle.recipes.translate.tasks import FORMATS, LONGEST, ordinal
from treadle.recipes.translate.tokens import END, FIRST, START
from treadle.recipes.translate.translator_training import forgetful, pair_batch, run_pairs
from treadle.training.budget import ShareDone

# What is read


def written(tmp_path, data):
    path = tmp_path / "pairs.tsv"
    path.write_bytes(data)
    return path


def test_pairs_are_read_as_they_are(tmp_path):
    path = written(tmp_path, "a b\tB A\r\nstraße\t\u2028x\nlast\tone".encode())
    assert read_pairs(path) == [("a b", "B A"), ("straße", "\u2028x"), ("last", "one")]
    assert read_pairs(written(tmp_path, b"\xef\xbb\xbfa\tb\n")) == [("a", "b")]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty: it needs pairs"),
        (b"a\tb\n\nc\td\n", "line 2 is empty: a line is a source, one tab and its target"),
        (b"a\tb\nc d\n", "line 2 has no tab"),
        (b"a\tb\tc\n", "line 1 has 2 tabs"),
        (b"a\tb\n\tb\n", "line 2: its source is empty"),
        (b"a\t \n", "line 1: its target is empty"),
        (b"a\tb\nc\t\xff\n", "line 2 is not UTF-8"),
        (b"a\t" + b"b" * 3000, "line 1: its target has 3,000 characters, more than 2,000"),
    ],
)
def test_malformed_lines_are_named(tmp_path, data, message):
    path = written(tmp_path, data)
    with pytest.raises(DataError, match=re.escape(message)) as raised:
        read_pairs(path)
    assert str(path) in str(raised.value)


def test_sources_may_have_targets_all_or_none(tmp_path):
    assert read_sources(written(tmp_path, b"a\nb\n")) == (["a", "b"], None)
    assert read_sources(written(tmp_path, b"a\tx\nb\ty\n")) == (["a", "b"], ["x", "y"])
    assert read_sources(written(tmp_path, b"a\tx\nb\n")) == (["a", "b"], None)
    with pytest.raises(DataError, match="line 2 is empty: there is nothing to translate"):
        read_sources(written(tmp_path, b"a\n\n"))
    with pytest.raises(DataError, match="is empty: it needs sources"):
        read_sources(written(tmp_path, b""))


def test_what_validates_is_nowhere_learned_from():
    pairs = [Pair(f"{i % 30}", f"{i}") for i in range(90)]  # every source three times
    training, validation = split(pairs, 0.1, seed=3)
    assert sorted(training + validation) == sorted(pairs)
    assert len({pair.source for pair in validation}) == 3
    assert not {pair.source for pair in validation} & {pair.source for pair in training}
    assert split(pairs, 0.1, seed=3) == (training, validation)
    assert all(map(len, split(pairs[:2], 0.9)))
    with pytest.raises(DataError, match="one source only"):
        split(pairs[:1], 0.1)


# Tokens


def test_symbols_are_tokens_and_back():
    for unit, texts in {"characters": ["añb", "日本 x"], "words": ["go  left", "left right"]}.items():
        vocabulary = Vocabulary.of(texts, unit, first=FIRST)
        for text in texts:
            tokens = vocabulary.encode(text)
            assert tokens.min() >= 2
            assert tokens.max() < len(vocabulary)
            assert vocabulary.decode(tokens) == (text if unit == "characters" else " ".join(text.split()))
    assert vocabulary.decode([START, END]) == ""


def test_unknown_symbols_are_named():
    with pytest.raises(DataError, match=r"line 4: 'cat' has 't', which was nowhere in the training set; it knows: abc"):
        Vocabulary.of(["abc"]).encode("cat", "line 4: ")
    with pytest.raises(DataError, match="'go up' has 'up'"):
        Vocabulary.of(["go left"], "words").encode("go up")


# Batches


def test_the_decoder_reads_the_truth_a_step_late():
    batch = pair_batch([(torch.tensor([0, 5, 1]), torch.tensor([7])), (torch.tensor([0, 1]), torch.tensor([8, 9]))])
    assert batch.x.tolist() == [[0, 5, 1], [0, 1, 0]]
    assert batch.read.tolist() == [[START, 7, 0], [START, 8, 9]]
    assert batch.y.tolist() == [[7, END, -100], [8, 9, END]]
    assert batch.lengths.tolist() == [3, 2]
    assert batch.target_lengths.tolist() == [2, 3]


def test_padding_changes_nothing_that_is_learned():
    pairs = [Pair("abc", "x"), Pair("a", "xyz")]
    translator = Translator.new(pairs, hidden_size=5, embedding_size=3, dropout=0.0)
    examples = [(translator.reads(p.source), translator.target.encode(p.target)) for p in pairs]
    together = run_pairs(translator.model, pair_batch(examples))
    for row, example in enumerate(examples):
        alone = run_pairs(translator.model, one := pair_batch([example]))
        assert_close(together[row, : one.y.shape[1]], alone[0])


# The tasks


@pytest.mark.parametrize("task", TASKS)
def test_tasks_are_drawn_by_seed_and_tested_on_what_was_not_learned(task):
    training, test = make_pairs(task, 300, seed=1), make_pairs(task, 300, seed=1, test=True)
    assert training == make_pairs(task, 300, seed=1) != make_pairs(task, 300, seed=2)
    if task == "dates":
        assert not {pair.target for pair in training} & {pair.target for pair in test}
    else:
        assert max(len(pair.source) for pair in training) == LONGEST
        assert max(len(pair.source) for pair in test) == 2 * LONGEST
    right = {"reverse": lambda text: text[::-1], "sort": lambda text: "".join(sorted(text))}.get(task)
    assert right is None or all(pair.target == right(pair.source) for pair in training + test)


def test_every_format_is_what_its_name_shows():
    for name, write in FORMATS.items():
        assert write(datetime.date(1998, 3, 3)) == name.removesuffix(" (month first)")
    assert [ordinal(day) for day in (1, 2, 3, 4, 11, 12, 13, 21, 22, 23, 31)] == (
        "1st 2nd 3rd 4th 11th 12th 13th 21st 22nd 23rd 31st".split()
    )
    assert FORMATS["3/3/1998 (month first)"](datetime.date(1960, 12, 25)) == "12/25/1960"
    assert FORMATS["3.3.1998"](datetime.date(1960, 12, 25)) == "25.12.1960"


# Learning


@pytest.fixture(scope="module")
def learned():
    """Letters backwards and in capitals."""
    torch.manual_seed(0)
    random_letters = random.Random(0)
    sources = {"".join(random_letters.choices("abcde", k=random_letters.randint(1, 6))) for _ in range(1500)}
    pairs = [Pair(source, source[::-1].upper()) for source in sorted(sources)]
    training, validation = split(pairs, 0.1)
    translator = Translator.new(pairs, hidden_size=32, embedding_size=16, dropout=0.0)
    learning = Learning(translator, training, validation, learning_rate=0.01)
    steps = list(learning.steps(ShareDone(steps=150)))
    return translator, validation, steps, learning


@pytest.mark.slow
def test_it_learns_what_it_has_not_seen(learned):
    translator, validation, steps, learning = learned
    assert learning.done == len(steps) == 150
    assert steps[-1].loss < 0.1 * steps[0].loss
    right = translator.exact(validation)
    assert sum(right) > 0.9 * len(right)
    assert not translator.model.training


def test_a_share_of_the_rows_forgets_each_at_its_own_rate():
    torch.manual_seed(0)
    resets = forgetful(torch.zeros(4000, 50), 0.3)
    rates = resets.float().mean(1)
    assert (rates > 0).float().mean().item() == pytest.approx(0.3, abs=0.03)
    forgets = rates[rates > 0]
    assert forgets.mean().item() == pytest.approx(0.5, abs=0.05)
    assert forgets.std().item() > 0.25  # as even as the numbers from 0 to 1, whose deviation is 0.29
    assert not forgetful(torch.zeros(100, 9), 0.0).any()


def test_only_learning_forgets():
    pairs = [Pair("abcdef", "fedcba")]
    translator = Translator.new(pairs, hidden_size=5, dropout=0.0)
    batch = pair_batch([(translator.reads("abcdef"), translator.target.encode("fedcba"))] * 20)
    plain, forgetting = run_pairs(translator.model, batch), run_pairs(translator.model, batch, 1.0)
    assert torch.equal(plain, run_pairs(translator.model, batch))
    assert (plain != forgetting).flatten(1).any(1).all()
    learning = Learning(translator, pairs * 4, pairs, forgetting=1.0)
    assert learning.validate(translator.model) == learning.validate(translator.model)


@pytest.mark.slow
def test_the_score_counts_pairs_that_are_not_said_exactly(learned):
    translator, validation, _, learning = learned
    wrong = sum(not right for right in translator.exact(validation))
    assert wrong <= learning.validate(translator.model) * len(validation) < wrong + 1
    untaught = Translator.new(validation, hidden_size=3)
    score = Learning(untaught, validation, validation).validate(untaught.model)
    assert 1 <= score < 1 + 1 / len(validation)


def test_answers_come_in_order_whatever_the_batches(learned):
    translator, validation, _, _ = learned
    sources = [pair.source for pair in validation] * 2
    together = translator.translate(sources)
    assert together == [translator.translate([source])[0] for source in sources[:20]] + together[20:]
    assert together[: len(validation)] == together[len(validation) :]
    assert translator.translate([]) == []


def test_beams_are_at_least_as_likely(learned):
    translator, validation, _, _ = learned
    sources = [pair.source for pair in validation[:40]]
    greedy, beams = (list(translator.hypotheses(sources, n)) for n in (1, 4))
    assert all(b >= g - 1e-6 for (_, g), (_, b) in zip(greedy, beams, strict=True))


def test_one_file_holds_network_and_symbols(learned, tmp_path):
    translator, validation, _, _ = learned
    translator.save(tmp_path / "m.safetensors")
    again = Translator.load(tmp_path / "m.safetensors")
    sources = [pair.source for pair in validation]
    assert again.translate(sources) == translator.translate(sources)
    assert (again.source, again.target, again.longest) == (translator.source, translator.target, translator.longest)


def test_other_files_are_refused(learned, tmp_path):
    import treadle as td

    td.save(tmp_path / "cell.safetensors", td.GRUCell(2, 3))
    with pytest.raises(
        ModelFileError, match="does not hold a network that translates: make one with 'treadle translate"
    ):
        Translator.load(tmp_path / "cell.safetensors")
    model = learned[0].model
    values = {"unit": "characters", "symbols": ["a"]}
    for notes in (
        {},
        {"source": values, "target": values, "longest": 3, "ratio": 1.0},
        {"source": {**values, "unit": "bytes"}, "target": values, "longest": 3, "ratio": 1.0},
    ):
        td.save(tmp_path / "m.safetensors", model, {"translator": notes})
        with pytest.raises(ModelFileError, match="is damaged: its symbols do not fit its network"):
            Translator.load(tmp_path / "m.safetensors")


def test_targets_of_words_are_compared_by_words():
    translator = Translator.new([Pair("ab", "x  y z")], target_unit="words", hidden_size=3)
    assert translator.plain("x  y ") == "x y"
    assert len(translator.target) == 5


def test_a_source_with_several_targets_is_right_by_any_of_them(learned):
    translator = learned[0]
    said = translator.translate(["abc"])[0]
    assert translator.exact([Pair("abc", "nothing like it"), Pair("abc", said)]) == [True, True]
    assert translator.exact([Pair("abc", "nothing like it")]) == [False]
