"""Finding out what keys mean: who presses them, what the network may know, how it is judged, and the game."""

import asyncio
import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch

import treadle as td
from tests.tolerances import assert_close
from treadle.errors import DataError, ModelFileError
from treadle.recipes.decode import (
    COMMANDS,
    SITUATIONS,
    WAIT,
    Bayes,
    EvidenceCell,
    Followed,
    Game,
    Informed,
    KeyDecoder,
    Perceptron,
    UserModel,
    World,
    follow,
    load_network,
    study,
)
from treadle.recipes.decode.decoder import Rows, information
from treadle.recipes.decode.decoder_training import Crowd, Learning, new_network, pressed_by
from treadle.recipes.decode.report import draw_study, moments, rows, summarise, write_study
from treadle.training.budget import ShareDone

# Users and the world


def test_users_are_those_that_the_rules_describe():
    users = [UserModel.random(seed) for seed in range(200)]
    assert {user.keys for user in users} == set(range(5, 13))
    pairs = [sum(len(way) == 2 for some in user.ways.values() for way in some) for user in users]
    assert set(pairs) == {0, 2, 3}
    assert 70 < sum(map(bool, pairs)) < 130
    assert all(0.02 <= user.mistakes <= 0.10 for user in users)
    assert any(len(some) > 1 for user in users for some in user.ways.values())  # two keys for one command
    for user in users:
        assert set(user.ways) <= set(range(COMMANDS))
        assert {key for some in user.ways.values() for way in some for key in way} == set(range(user.keys))
        for habit in user.habits:
            assert sum(habit) == pytest.approx(1)
            assert min(habit) >= 0.1 / len(user.ways) - 1e-12
    assert UserModel.random(3).ways == UserModel.random(3).ways
    most = [sum(sorted(habit)[-3:]) for user in users for habit in user.habits]
    assert np.mean(np.array(most) > 0.75) > 0.7  # in most situations it is nearly always one to three commands


def test_a_change_is_one_of_all_keys_and_of_nothing_else():
    for seed in range(100):
        user = UserModel.random(seed)
        later = user.changed(seed)
        assert (later.keys, later.mistakes, later.habits) == (user.keys, user.mistakes, user.habits)
        assert list(later.ways) == list(user.ways)  # habits are in this order
        assert sorted(map(len, later.meaning)) == sorted(map(len, user.meaning))
        assert not later.meaning.items() & user.meaning.items()
    many = UserModel.random(0, keys=50)  # of ten commands
    assert len(many.changed(0).meaning.items() & many.meaning.items()) < 5


@pytest.mark.parametrize(
    "ways", [{0: [(0,)], 1: [(0, 1)]}, {0: [(0,)], 1: [(0,)]}, {0: [(5,)]}, {0: [(0, 1, 2)]}, {0: [()]}]
)
def test_ways_that_nobody_could_tell_apart_are_refused(ways):
    with pytest.raises(DataError, match="a way is"):
        UserModel(ways, [[1.0] * len(ways)] * SITUATIONS, 0.0, 3)


def test_presses_follow_ways_habits_and_mistakes():
    habits = [[0.75, 0.25]] * SITUATIONS
    user = UserModel({4: [(0,)], 7: [(1, 2), (3,)]}, habits, 0.1, 4)
    presses = list(user.presses(20_000, seed=0))
    begun = [press for press in presses if press.begins]
    wanted = [press.wanted for press in presses if press.wanted != WAIT]
    assert Counter(wanted)[4] / len(wanted) == pytest.approx(0.75, abs=0.02)
    for press, following in itertools.pairwise(presses):
        assert (press.wanted == WAIT) == (not following.begins)
        assert following.begins or following.situation == press.situation
    hit = Counter(press.key for press in presses if press.wanted == 4)
    assert hit[0] / hit.total() == pytest.approx(0.9, abs=0.02)
    shares = user.first_keys(0)
    counts = Counter(press.key for press in begun)
    assert sum(shares) == pytest.approx(1)
    for key in range(4):
        assert counts[key] / len(begun) == pytest.approx(shares[key], abs=0.02)


def test_what_is_usually_good_is_good_whatever_was_wanted():
    world = World(0)
    for situation, row in enumerate(world.luck):
        assert sorted(row)[:-2] == [world.chance] * (COMMANDS - 1)
        assert 0.8 <= max(row[:COMMANDS]) <= 0.95
        assert row[WAIT] == world.chance
        for command in range(COMMANDS):
            assert world.good(situation, command, command) == world.wanted
            assert world.good(situation, command, (command + 1) % COMMANDS) == row[command]


# The network


def encoded(cell, steps, new=False):
    """Inputs [1, T, I] for (row, situation, second, action before, good before)."""
    return torch.cat([cell.encode(*([part] for part in (*step[:3], new, *step[3:]))) for step in steps])[None]


def test_the_cell_is_a_cell():
    cell = EvidenceCell(keys=4, situations=3, actions=5, hidden_size=6)
    td.check_cell(cell)


def test_outcomes_are_explained_by_the_key_or_by_the_situation():
    cell = EvidenceCell(keys=4, situations=3, actions=5, hidden_size=6)
    ys, state = td.Recurrent(cell, engine="reference")(
        encoded(cell, [(0, 1, False, None, None), (2, 0, True, 3, False)])
    )
    meaning, good = ys[0, :, :5].exp(), ys[0, :, 5:].sigmoid()
    assert_close(meaning.sum(1), torch.ones(2))
    wanted = torch.sigmoid(cell.wanted)
    assert_close(good[1], (meaning * wanted + (1 - meaning) * state.unasked)[1])


def test_what_the_situation_explains_has_seen_no_key():
    cell = EvidenceCell(keys=6, situations=3, actions=5, hidden_size=6)
    run = td.Recurrent(cell, engine="reference")
    same = [(1, False, 2, True), (0, False, 4, False), (1, False, 0, True)]
    states = []
    for before, keys in (((0, 1, False, None, None), (0, 0, 0)), ((0, 1, False, None, None), (5, 0, 3))):
        steps = [before, *((key, *step) for key, step in zip(keys, same, strict=True))]
        states.append(run(encoded(cell, steps[:2]))[1])
    # What is believed of a key tells the situation how much it has to explain; the key itself does not reach it.
    assert_close(states[0].situations_h, states[1].situations_h)


def test_memories_of_other_keys_stay_as_they_are():
    cell = EvidenceCell(keys=4, situations=3, actions=5, hidden_size=6)
    _, state = td.Recurrent(cell, engine="reference")(
        encoded(cell, [(2, 1, False, None, None), (2, 1, False, 3, True), (0, 0, False, 1, False)])
    )
    touched = state.keys_h.abs().sum((2, 3))[0] > 0
    assert touched.tolist() == [False, False, True, False]  # of key 0 the outcome is not known yet
    assert (state.situations_h.abs().sum((2, 3))[0] > 0).tolist() == [False, True, False]


def test_a_press_without_an_outcome_teaches_nothing():
    cell = EvidenceCell(keys=4, situations=3, actions=5, hidden_size=6)
    _, state = td.Recurrent(cell, engine="reference")(
        encoded(cell, [(2, 1, False, None, None), (2, 1, False, 3, None), (0, 0, False, None, None)])
    )
    assert not any(part.any() for part in state[:8])


def test_evidence_is_bayes_rule():
    """Of one key and one situation, against the rule by hand: what outcomes say of each meaning adds up."""
    cell = EvidenceCell(keys=4, situations=3, actions=5, hidden_size=6).double()
    with torch.no_grad():
        cell.threshold.fill_(50)  # nobody thinks of a change
    run = td.Recurrent(cell, engine="reference")
    mistakes, wanted = torch.sigmoid(cell.mistakes).item(), torch.sigmoid(cell.wanted).item()
    _, state = run(encoded(cell, [(2, 1, False, None, None)]).double())
    likelihood = np.ones(5)
    for action, good in ((3, False), (0, True), (3, True), (4, False)):
        outcome = np.full(5, state.unasked[0, action].item())
        outcome[action] = wanted
        outcome = outcome if good else 1 - outcome
        likelihood *= (1 - mistakes) * outcome + mistakes * outcome[:4].mean()
        _, state = run(encoded(cell, [(2, 1, False, action, good)]).double(), state)
    kept = state.evidence[0, 0, 2].exp().detach().numpy()
    np.testing.assert_allclose(kept / kept.sum(), likelihood / likelihood.sum(), rtol=1e-9)
    assert state.presses[0, 0, 2, 1].item() == pytest.approx(4)
    assert not state.evidence[0, :, [0, 1, 3]].any()


def known(cell, meanings, situations, sureness=8.0):
    """The state of somebody who knows what keys mean, each of which was pressed once in each of some situations."""
    state = cell.initial_state(1)
    for key, (meaning, where) in enumerate(zip(meanings, situations, strict=True)):
        state.evidence[0, :, key, meaning] = state.believed[0, key, meaning] = 1
        state.presses[0, :, key, where] = 1
        state.kinds[0, 0, key] = 1
    state.evidence.mul_(sureness)
    return state


def test_habits_leave_out_what_the_key_is_taken_for():
    cell = EvidenceCell(keys=4, situations=3, actions=5, hidden_size=6)
    state = known(cell, [3, 1, 3], [[0, 1], [1], [1]])
    state.wishes[0, 2, 0] = 4
    with torch.no_grad():
        share, doubt = torch.sigmoid(cell.present).item(), cell.doubt.exp().item()
        by_situation, usual = cell._habits(torch.eye(4)[:1], state)
    wishes = np.zeros((3, 4))
    wishes[1, 1] = wishes[1, 3] = share  # of keys 1 and 2, not of key 0
    wishes[2, 0] = 4
    expected = (wishes.sum(0) + 1) / (wishes.sum() + 5)
    np.testing.assert_allclose(usual[0, :4].numpy(), expected, rtol=1e-5)
    expected = (wishes + doubt * expected) / (wishes.sum(1, keepdims=True) + doubt)
    np.testing.assert_allclose(by_situation[0, :, :4].numpy(), expected, rtol=1e-5)
    assert by_situation[0, :, 4].tolist() == [0.25] * 3  # to wait is no wish


def test_what_other_keys_mean_is_left_to_them():
    cell = EvidenceCell(keys=6, situations=3, actions=5, hidden_size=6)
    state = known(cell, [3, 1, 0], [[], [], []])
    meaning = cell(cell.encode([5], [0], [False], [True], [None], [None]), state)[0][0, :5].exp()
    assert meaning[2] > 5 * max(meaning[[0, 1, 3]])
    meaning = cell(cell.encode([1], [0], [False], [False], [None], [None]), state)[0][0, :5].exp()
    assert meaning.argmax() == 1


def test_after_a_change_habits_tell_what_is_wanted():
    """A command is compared with itself in other situations."""
    cell = EvidenceCell(keys=6, situations=3, actions=5, hidden_size=6)
    state = cell.initial_state(1)
    state.wishes[0, 0, 2] = state.wishes[0, 1, 3] = 40
    for situation, likelier in ((0, 2), (1, 3)):
        meaning = cell(cell.encode([0], [situation], [False], [True], [None], [None]), state)[0][0, :5]
        assert meaning[:4].argmax() == likelier


def test_surprises_make_it_give_up_what_was_seen_before():
    cell = EvidenceCell(keys=4, situations=3, actions=5, hidden_size=6)
    run = td.Recurrent(cell, engine="reference")
    shares = {}
    for good in (True, False):
        state = known(cell, [3, 1, 0], [[0, 1, 2]] * 3)
        state.presses[:, 0] = 20 * state.presses[:, 0]
        steps = [
            (key, 1, False, action, good) for key, action in zip([0, 1, 2, 0, 1, 2], [None, 3, 1, 0, 3, 1], strict=True)
        ]
        with torch.no_grad():
            _, state = run(encoded(cell, steps), state)
        shares[good] = state.presses[0, 0, 3].sum() + state.presses[0, 0, 2].sum() / 61
        assert state.wishes.sum() + state.presses[:, 0].sum() == pytest.approx(185, abs=3)  # nothing is lost
    assert shares[True] > 0.95
    assert shares[False] < 0.2


def test_the_row_of_another_key_is_begun_anew():
    cell = EvidenceCell(keys=4, situations=3, actions=5, hidden_size=6)
    run = td.Recurrent(cell, engine="reference")
    steps = [(2, 1, False, None, None), (2, 0, True, 3, True), (0, 0, False, 1, False)]
    _, before = run(encoded(cell, steps))
    for new in (False, True):
        _, state = run(encoded(cell, [(2, 2, False, 2, False)], new=new), before)
        seen = [state.evidence[0, :, 2], state.presses[0, :, 2], state.valid[0, 2], state.kinds[0, 1, 2]]
        assert [bool(part.any()) for part in seen] == [not new] * 4
        assert state.evidence[0, :, 0].any()
        assert state.kinds[0, 0, 2] == 1


def test_keys_have_rows_and_the_oldest_is_given_up():
    kept = Rows(2)
    assert [kept.take(("a",)), kept.take(("b",)), kept.take(("a",))] == [0, 1, 0]
    assert kept.find(("c",)) == 1
    assert kept.take(("c",)) == 1
    assert kept.take(("b",)) == 0
    kept.acted("a", WAIT, good=True)
    assert kept.names("b") == ("a", "b")
    kept.acted("a", WAIT, good=False)
    assert kept.names("b") == ("b",)


@pytest.mark.slow
def test_learning_changes_the_network_and_is_the_same_again(monkeypatch):
    monkeypatch.setattr("treadle.recipes.decode.decoder_training.PRESSES", 150)
    first, second = new_network(6), new_network(6)
    one, two = (
        [step.loss for step in Learning(network, users=3).steps(ShareDone(steps=2))] for network in (first, second)
    )
    assert one == two
    assert td.fingerprint(first) == td.fingerprint(second) != td.fingerprint(new_network(6))


def test_users_to_learn_from_change_at_any_time_and_press_as_users_do():
    made = pressed_by(5, 300, (100, 120))
    user = UserModel.random(5)
    assert len(made) == 300
    begun = [press for press in made if press.begins]
    assert all(press.key in range(user.keys) for press in made)
    meant = [Counter() for _ in range(2)]
    for part, some in enumerate((made[:100], made[120:200])):
        meant[part].update((press.key, press.wanted) for press in some if press in begun)
    assert not {pair for pair, n in meant[0].items() if n > 5} & {pair for pair, n in meant[1].items() if n > 5}


def test_the_crowd_gives_keys_rows_as_a_decoder_does_and_tells_nobody_what_was_wanted():
    cell = EvidenceCell(7, SITUATIONS, COMMANDS + 1, 4)  # some users press more keys than that
    seeds = range(10)
    users = [pressed_by(seed, 60) for seed in seeds]
    crowd, kept = Crowd(users, seeds, cell), [Rows(7) for _ in seeds]
    actions, goods = [None] * 10, [None] * 10
    for at in range(60):
        names = [rows.names(presses[at].key) for rows, presses in zip(kept, users, strict=True)]
        new = [not rows.knows(name) for rows, name in zip(kept, names, strict=True)]
        places = [rows.take(name) for rows, name in zip(kept, names, strict=True)]
        situations, seconds = [presses[at].situation for presses in users], [len(name) > 1 for name in names]
        assert torch.equal(crowd.inputs(at), cell.encode(places, situations, seconds, new, actions, goods))
        actions = [(at * 7 + i) % (COMMANDS + 1) if i % 3 else users[i][at].wanted for i in range(10)]
        goods = crowd.outcomes(at, np.array(actions)).tolist()
        for places_of, presses, action, good in zip(kept, users, actions, goods, strict=True):
            places_of.acted(presses[at].key, action, good)


# Judgement


def test_information_is_that_of_the_joint_distribution():
    random = np.random.default_rng(0)
    shares = random.dirichlet(np.ones(6), 3)
    table = random.integers(4, size=(3, 6))
    total = 0.0
    for situation in range(3):
        joint = np.zeros((6, 4))
        joint[range(6), table[situation]] = shares[situation]
        independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
        total += (joint[joint > 0] * np.log2(joint[joint > 0] / independent[joint > 0])).sum()
    assert information(shares.tolist(), table.tolist()) == pytest.approx(total / 3)


def parts(user, later, presses, seed=0):
    return [
        (one, list(itertools.islice(one.presses(presses, seed + i), presses))) for i, one in enumerate((user, later))
    ]


def test_who_knows_the_keys_is_wrong_by_the_users_mistakes_alone():
    user = UserModel.random(4)
    careful = UserModel(user.ways, user.habits, 0.0, user.keys)
    for one, least, most in ((careful, 0.99, 1.0), (user, 0.8, 0.99)):
        later = one.changed(1)
        followed = follow(Informed(one), World(4), parts(one, later, 300), 0)
        assert least <= sum(followed.right) / 600 <= most
        assert len(followed.information) == 25
        assert followed.information[0] == pytest.approx(followed.information[12])


@pytest.fixture(scope="module")
def small_study():
    return dict(study(users=2, presses=150, learning_rate=0.0001, processes=1))


@pytest.mark.slow
def test_the_decoder_finds_out_and_the_perceptron_goes_deaf(small_study):
    for name, least, most in (("decoder", 0.7, 1.1), ("memory alone", 0.7, 1.1), ("perceptron", -1.0, 0.3)):
        assert least < summarise(small_study, name, 150).share < most
    known = np.mean([of["attainable"].information[6] for of in small_study.values()])
    assert np.mean([of["decoder"].information[6] for of in small_study.values()]) > 0.85 * known
    assert np.mean([of["perceptron"].information[6] for of in small_study.values()]) < 0.2 * known


@pytest.mark.slow
def test_a_study_is_the_same_in_other_processes():
    assert dict(study(users=2, presses=25, processes=2)) == dict(study(users=2, presses=25, processes=1))


@pytest.mark.slow
def test_a_study_is_reported(small_study, tmp_path):
    table = rows(small_study)
    assert table[0] == ["presses", *map(str, moments(300))]
    assert len(table) == 11
    assert table[1][1:] == ["1.000"] * 8
    write_study(tmp_path / "study.json", small_study)
    assert draw_study(tmp_path / "study.svg", small_study).stat().st_size > 1000


def test_summaries_are_those_of_the_presses_before():
    right = [False] * 50 + [True] * 40 + [False] * 10
    found = {0: {"attainable": Followed([True] * 100, [1.0] * 5), "decoder": Followed(right, [0.0, 1, 2, 3, 4])}}
    one = summarise(found, "decoder", 100)
    assert one == (0.8, 0.0, 0.8, 0.8, 0.8, 0.0, 4)
    assert summarise(found, "decoder", 75).share == 0.5
    found[1] = {"attainable": Followed([True] * 100, [1.0] * 5), "decoder": Followed([True] * 100, [0.0] * 5)}
    two = summarise(found, "decoder", 100)
    assert two[:4] == pytest.approx((0.9, 0.1 / math.sqrt(2), 0.8, 0.82))  # of a mean of two: 0.8 and 1


def test_bayes_rule_is_that_of_a_textbook():
    """Of one key, without habits, against the rule by hand."""
    world = World(0)
    bayes = Bayes(world, habits=False)
    beliefs = np.full(COMMANDS + 1, 1 / (COMMANDS + 1))
    for good in (False, True, True, False):
        action = bayes.press(3, "k")
        outcome = np.full(COMMANDS + 1, world.luck[3][action])
        outcome[action] = 0.95
        outcome = outcome if good else 1 - outcome
        beliefs = beliefs * (0.94 / (COMMANDS + 1) * outcome + 0.06 / COMMANDS * outcome[:COMMANDS].mean())
        bayes.learn(good)
    kept = np.exp(bayes._said[0, 0])
    np.testing.assert_allclose(kept / kept.sum(), beliefs / beliefs.sum())


def test_bayes_goes_by_habits_after_a_change():
    """Two commands, each wanted in its own situations: when keys change places, the first presses say it."""
    habits = [[1.0, 0.0], [0.0, 1.0]] * (SITUATIONS // 2)
    user = UserModel({4: [(0,)], 7: [(1,)]}, habits, 0.0, 2)
    later = user.changed(0)
    assert later.ways == {4: [(1,)], 7: [(0,)]}
    right = {}
    for with_habits in (True, False):
        followed = follow(Bayes(World(1), with_habits), World(1), parts(user, later, 100), 0)
        assert np.mean(followed.right[50:100]) > 0.95
        right[with_habits] = np.mean(followed.right[100:115])
    assert right[True] > right[False] + 0.2


def test_a_perceptron_makes_good_likelier():
    perceptron = Perceptron(5, seed=0)
    for _ in range(200):
        perceptron.learn(perceptron.press(2, 3) == 6)
    assert perceptron.table([3])[2] == [6]


# The decoder of a person's keys


def test_bad_input_is_refused_and_nothing_is_lost():
    runs = []
    for disturbed in (False, True):
        decoder = KeyDecoder(seed=1)
        done = []
        for t in range(12):
            done.append(decoder.press(t % SITUATIONS, "xyz"[t % 3]))
            if disturbed:
                for wrong in (math.nan, 0.5, None, "good"):
                    with pytest.raises(DataError, match="an outcome is good or bad"):
                        decoder.learn(wrong)
            decoder.learn(t % 4 == 0)
            if disturbed:
                with pytest.raises(DataError, match="nothing was done"):
                    decoder.learn(True)
                for wrong in (-1, SITUATIONS, 1.5, "storm"):
                    with pytest.raises(DataError, match="is not one of the 8 there are"):
                        decoder.press(wrong, "x")
        runs.append((done, decoder))
    assert runs[0][0] == runs[1][0]
    for a, b in zip(*(run[1].online.model.parameters() for run in runs), strict=True):
        assert torch.equal(a, b)


def test_keys_never_seen_are_known_from_then_on():
    decoder = KeyDecoder(seed=0)
    before = decoder.meanings("never seen")
    assert sum(before) == pytest.approx(1)
    assert max(before) < 0.5
    for number in range(decoder.cell.keys + 10):  # more than there are memories for
        decoder.press(0, f"key {number}")
        decoder.learn(False)
    assert sum(decoder.meanings("another")) == pytest.approx(1)


def test_a_decoder_goes_on_to_the_bit(tmp_path):
    user, world = UserModel.random(1), World(1)
    presses = list(itertools.islice(user.presses(80, 0), 80))

    def go(decoder, some):
        done = []
        for i, press in enumerate(some):
            done.append(decoder.press(press.situation, f"key {press.key}"))
            decoder.learn((i * 7 + done[-1]) % 3 == 0)
        return done

    whole = KeyDecoder(seed=5)
    go(whole, presses[:50])
    whole.save(tmp_path / "user.checkpoint", name="me")
    rest = go(whole, presses[50:])
    again = KeyDecoder(seed=6)
    assert again.restore(tmp_path / "user.checkpoint") == {"name": "me"}
    assert go(again, presses[50:]) == rest
    for a, b in zip(whole.online.model.parameters(), again.online.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert world.wanted == 0.95


def test_other_files_are_refused(tmp_path):
    td.save(tmp_path / "gru.safetensors", td.Recurrent(td.GRUCell(2, 3)))
    with pytest.raises(ModelFileError, match="does not hold a network that decodes keys"):
        load_network(tmp_path / "gru.safetensors")
    other = td.Recurrent(EvidenceCell(4, 3, 5, 6), engine="reference")
    td.save(tmp_path / "other.safetensors", other)
    with pytest.raises(ModelFileError, match="knows 3 situations and 5 actions"):
        load_network(tmp_path / "other.safetensors")
    KeyDecoder().online.save(tmp_path / "bare.checkpoint")
    with pytest.raises(ModelFileError, match="does not hold a key decoder"):
        KeyDecoder().restore(tmp_path / "bare.checkpoint")


# The game


def captain(game):
    """Somebody with a key for each wish, but for the last two, which begin with a key of their own."""
    return ["x", "ab"[game.wish - 8]] if game.wish >= 8 else ["qwertyui"[game.wish]]


def play(game, turns):
    for _ in range(turns):
        first, *rest = captain(game)
        game.press(first)
        if game.waits and rest:
            game.press(rest[0])
        game.that_was_all()


@pytest.mark.slow
def test_the_game_learns_its_captain(tmp_path):
    game = Game(seed=2)
    play(game, 200)
    assert np.mean(game.right[-60:]) > 0.7 > 0.5 > np.mean(game.right[:30])
    assert {key for key, _, _ in game.believed()} <= set("xabqwertyui")
    game.save(tmp_path / "game.checkpoint")
    again = Game(seed=0)
    again.restore(tmp_path / "game.checkpoint")
    assert (again.place, again.wish, again.right, again.known) == (game.place, game.wish, game.right, game.known)
    assert again.believed() == game.believed()
    play(game, 20)
    play(again, 20)
    assert again.right == game.right


def test_to_wait_is_judged_by_what_comes_next():
    game = Game(seed=0)
    learned = []
    game.decoder.press = lambda place, key: WAIT
    game.decoder.learn = learned.append
    assert game.press("x") == (WAIT, None, None)
    game.that_was_all()
    game.that_was_all()  # nothing waits any more
    game.press("x")
    game.press("y")
    assert learned == [False, True]
    assert game.waits


def test_the_game_is_played_in_a_terminal(tmp_path):
    from textual.widgets import Static

    from treadle.recipes.decode.app import GameApp

    path = tmp_path / "game.checkpoint"

    async def run():
        game = Game(seed=3)
        app = GameApp(game, path)
        async with app.run_test() as pilot:
            assert "You are" in str(app.query_one("#wish", Static).render())
            for _ in range(12):
                await pilot.press(captain(game)[0])
            await pilot.press("escape", "f5", "up", "tab")
            assert "presses" in str(app.query_one("#score", Static).render())
            assert "f5" in str(app.query_one("#keys", Static).render())
            await pilot.press("ctrl+q")
        return game

    game = asyncio.run(run())
    assert {"f5", "up", "tab"} <= set(game.known)
    again = Game()
    again.restore(path)
    assert again.right == game.right


def test_a_game_that_is_none_changes_nothing(tmp_path):
    decoder = KeyDecoder(seed=0)
    decoder.save(tmp_path / "user.checkpoint", seed=3, right="10")
    game = Game(seed=5)
    with pytest.raises(
        ModelFileError, match=r"user\.checkpoint does not hold a game: its content does not fit \('fulfilled'"
    ):
        game.restore(tmp_path / "user.checkpoint")
    assert (game.seed, game.right) == (5, [])
