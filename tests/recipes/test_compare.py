import dataclasses
import json
import math
import os
import signal
import statistics

import numpy as np
import pytest
import torch

import treadle as td
from treadle.errors import ShapeError
from treadle.recipes.compare import (
    Budget,
    Contender,
    Evaluated,
    GivenUp,
    Outcome,
    Plan,
    Stepped,
    WorkerError,
    Workers,
    as_json,
    best,
    make_plan,
    same_networks,
    sparkline,
    standings,
)
from treadle.recipes.compare.plan import STEP_SECONDS, spread
from treadle.recipes.compare.runs import Run
from treadle.training import CELLS, bits_per_byte
from treadle.training.text import text_of

PROSE = b"Now is the time for all good men to come to the aid of the party. " * 120
TEXT = text_of("prose", PROSE[:6000], PROSE[6000:])


def small_plan(workers: int, steps: int = 6) -> Plan:
    # Zoneout draws masks in every step, so that runs would disturb each other if they shared a generator.
    return make_plan(
        ["stack", "skip"],
        ["zoneout"],
        layers=2,
        parameters=25_000,
        seeds=[0, 1],
        budget=Budget(steps=steps),
        window=4,
        workers=workers,
    )


def raced(plan: Plan, workers: int) -> Outcome:
    outcome = Outcome(plan)
    with Workers(workers) as processes:
        for event in processes.race(plan, TEXT, should_stop=lambda: False):
            if isinstance(event, Evaluated):
                outcome.add(event)
    return outcome


@pytest.fixture(scope="module")
def outcome():
    return raced(small_plan(workers=2), workers=2)


def made_up(bits: dict[str, list[list[float]]], steps: int = 8, layers: int = 3) -> Outcome:
    """An outcome from curves: a list per seed, for each wiring."""
    contenders = tuple(Contender(wiring, "lstm", layers, 5, 100) for wiring in bits)
    seeds = tuple(range(len(next(iter(bits.values())))))
    outcome = Outcome(Plan(contenders, seeds, steps, 16, ()))
    curves = [curve for by_seed in bits.values() for curve in by_seed]
    for run, curve in enumerate(curves):
        for step, value in zip(outcome.plan.evaluate_at, curve, strict=False):
            outcome.add(Evaluated(run, step, value, step * 0.5, {"step": np.array(step)}))
    return outcome


# The plan


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("90s", Budget(seconds=90)),
        ("2m", Budget(seconds=120)),
        ("1.5m", Budget(seconds=90)),
        ("1h", Budget(seconds=3600)),
        ("300steps", Budget(steps=300)),
        ("1 step", Budget(steps=1)),
    ],
)
def test_budgets_are_read(text, budget):
    assert Budget.parse(text) == budget
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize("text", ["", "90", "s", "0s", "-1s", "1.5steps", "nans", "infs", "1e3s", "90s 2m", "0steps"])
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(ValueError, match="budget"):
        Budget.parse(text)


def test_every_cell_has_a_cost():
    assert STEP_SECONDS.keys() == CELLS.keys()


def planned_steps(seconds: float, **changes) -> int:
    options = {"layers": 2, "parameters": 200_000, "seeds": range(3), "window": 16, "workers": 2} | changes
    return make_plan(list(td.WIRINGS), ["lstm"], budget=Budget(seconds=seconds), **options).steps


@pytest.mark.slow
def test_steps_follow_from_the_budget_alone():
    assert planned_steps(90) == planned_steps(90) > 100
    assert planned_steps(180) > 2 * planned_steps(90)
    assert planned_steps(90, seeds=[0]) > planned_steps(90) > planned_steps(90, parameters=400_000)
    assert planned_steps(90, workers=4) > planned_steps(90) > planned_steps(90, workers=1)


def test_a_budget_too_short_names_one_that_is_enough():
    with pytest.raises(ShapeError, match=r"21 networks \(7 kinds x 3 seeds\): give at least (\d+)s") as refusal:
        planned_steps(5)
    enough = int(str(refusal.value).split("at least ")[1].split("s,")[0])
    assert 8 <= planned_steps(enough) < 16


@pytest.mark.parametrize("steps", [1, 3, 8, 100, 149])
def test_evaluation_points_end_with_the_last_step(steps):
    points = dataclasses.replace(small_plan(1), steps=steps).evaluate_at
    assert points[-1] == steps
    assert len(set(points)) == len(points) == min(8, steps)
    assert points[0] >= 1


def test_every_run_has_one_worker_and_loads_are_even():
    costs = [3.0, 1.0, 1.0, 2.0, 2.0, 3.0, 1.0]
    shares = spread(costs, 3)
    assert sorted(i for share in shares for i in share) == list(range(7))
    loads = [sum(costs[i] for i in share) for share in shares]
    assert max(loads) - min(loads) <= 1
    assert len(spread([1.0], 4)) == 1


# The race


@pytest.mark.slow
def test_numbers_do_not_depend_on_the_number_of_workers(outcome):
    alone = raced(small_plan(workers=1), workers=1)
    for contender in outcome.plan.contenders:
        assert outcome.curves(contender) == alone.curves(contender)
        ours, theirs = outcome.model(contender, 1).state_dict(), alone.model(contender, 1).state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_the_outcome_is_complete_and_its_models_are_those_that_were_measured(outcome):
    assert outcome.complete
    assert outcome.step == 6
    for contender in outcome.plan.contenders:
        curves = outcome.curves(contender)
        assert [len(curve) for curve in curves] == [6, 6]
        assert curves[0] != curves[1]
        measured = bits_per_byte(outcome.model(contender, 1), TEXT.scored_rows())
        assert measured == pytest.approx(curves[1][-1], rel=1e-6)
        assert outcome.steps_per_second(contender) > 0


@pytest.mark.slow
def test_stopping_keeps_the_last_common_point():
    plan = small_plan(workers=2, steps=800)
    outcome, steps = Outcome(plan), 0
    with Workers(2) as workers:
        for event in workers.race(plan, TEXT, should_stop=lambda: outcome.points >= 1):
            if isinstance(event, Stepped):
                steps += event.steps
            else:
                outcome.add(event)
    assert 100 <= outcome.step < 800
    assert 4 * 100 <= steps < 4 * 800
    assert not outcome.complete
    assert all(one.mean < 6 for one in standings(outcome))
    assert outcome.model(plan.contenders[0], 0)


@pytest.mark.slow
def test_a_worker_that_dies_is_an_error():
    plan = small_plan(workers=2, steps=10_000)
    with Workers(2) as workers:
        victim = workers._processes[1]

        def race():
            for event in workers.race(plan, TEXT, should_stop=lambda: False):
                if isinstance(event, Stepped) and victim.is_alive():
                    os.kill(victim.pid, signal.SIGKILL)

        with pytest.raises(WorkerError, match=r"ended unexpectedly \(signal 9, perhaps for want of memory\)"):
            race()


def test_a_worker_that_fails_says_why():
    plan = small_plan(workers=1)
    broken = dataclasses.replace(plan, contenders=(dataclasses.replace(plan.contenders[0], cell="no such"),))
    with Workers(1) as workers, pytest.raises(WorkerError, match="ValueError: there is no cell 'no such'"):
        list(workers.race(dataclasses.replace(broken, shares=((0,),)), TEXT, should_stop=lambda: False))


# The standings


def test_all_are_judged_at_the_last_point_that_all_have_reached():
    outcome = made_up({"stack": [[5, 4, 3, 1], [5, 4]], "skip": [[5, 3, 2], [5, 3, 2, 1]]})
    assert (outcome.points, outcome.step, outcome.complete) == (2, 2, False)
    table = standings(outcome)
    assert [(one.contender.wiring, one.mean, one.curve) for one in table] == [("skip", 3, [5, 3]), ("stack", 4, [5, 4])]
    assert outcome.steps_per_second(outcome.plan.contenders[0]) == 2
    assert [events[1].weights["step"] for events in outcome._reached] == [2] * 4
    assert not any(events[0].weights for events in outcome._reached)


def test_networks_that_were_given_up_come_last_and_hold_nobody_up():
    outcome = made_up({"a": [[4, 3], [4, 3]], "b": [[5], [5]], "c": [[5, 4, 3, 2], [5, 4, 3, 1]], "d": [[6], [6, 2]]})
    assert (outcome.points, outcome.step) == (1, 1)
    for run in (0, 1, 2, 3, 6):
        outcome.add(GivenUp(run))
    assert (outcome.points, outcome.step) == (2, 2)
    outcome.add(GivenUp(7))
    assert (outcome.points, outcome.complete) == (4, False)
    table = standings(outcome)
    assert [(one.contender.wiring, one.curve) for one in table] == [
        ("c", [5, 4, 3, 1.5]),
        ("a", [4, 3]),
        ("b", [5]),
        ("d", [6]),
    ]
    # At the last point that both have reached: at the second, "a" is better than the winner.
    better = {one.contender.wiring: [other.wiring for other in one.clearly_better_than] for one in table}
    assert better == {"c": ["d"], "a": ["c", "b", "d"], "b": ["d"], "d": []}
    data = as_json(outcome, TEXT, version="", budget="", parameters=1, stopped=None, saved=None, sample="")
    assert [one["curve"]["steps"] for one in data["results"]] == [[1, 2, 3, 4], [1, 2], [1], [1]]


def test_a_run_goes_on_from_its_last_evaluation_point(tmp_path):
    plan = small_plan(workers=1)
    whole, broken = Run(1, plan, TEXT), Run(1, plan, TEXT, tmp_path / "run")
    expected = [whole.step()._replace(seconds=0) for _ in range(plan.steps)]
    assert [broken.step()._replace(seconds=0) for _ in range(3)] == expected[:3]
    broken._progress.close()
    again = Run(1, plan, TEXT, tmp_path / "run")
    assert [again.step()._replace(seconds=0) for _ in range(plan.steps - 3)] == expected[3:]
    assert all(map(torch.equal, whole.model.state_dict().values(), again.model.state_dict().values()))


def test_nothing_to_compare_before_the_first_common_point():
    outcome = made_up({"stack": [[5.0]], "skip": [[]]})
    assert (outcome.points, outcome.step) == (0, 0)
    with pytest.raises(ValueError, match="nothing to compare"):
        standings(outcome)


def test_clearly_better_means_more_than_the_spread_of_a_difference():
    outcome = made_up({"a": [[3.0], [3.2]], "b": [[3.19], [3.29]], "c": [[3.3], [3.3]]})
    a, b, c = standings(outcome)
    assert a.mean == pytest.approx(3.1)
    assert a.spread == pytest.approx(statistics.stdev([3.0, 3.2]))
    # b - a = 0.14 is less than √(0.141² + 0.071²) = 0.158; c - a = 0.2 is more than 0.141; c - b = 0.06 less than 0.071
    assert [one.contender.wiring for one in (a, b, c)] == ["a", "b", "c"]
    assert [[other.wiring for other in one.clearly_better_than] for one in (a, b, c)] == [["c"], [], []]


def test_one_seed_has_no_spread_and_no_clear_winner():
    first, second = standings(made_up({"a": [[3.0]], "b": [[5.0]]}))
    assert first.spread is None
    assert not first.clearly_better_than
    assert not second.clearly_better_than


def test_what_diverged_comes_last_and_is_null():
    outcome = made_up({"a": [[math.nan], [3.0]], "b": [[4.0], [4.0]], "c": [[math.inf], [math.nan]]})
    table = standings(outcome)
    assert table[0].contender.wiring == "b"
    assert len(table[0].clearly_better_than) == 2
    assert not table[1].clearly_better_than
    assert best(table, outcome.plan) == (table[0].contender, 0)
    data = as_json(outcome, TEXT, version="", budget="", parameters=1, stopped=None, saved=None, sample="")
    assert data["results"][1]["bits_per_byte"]["mean"] is None
    json.dumps(data, allow_nan=False)


def test_the_winner_is_the_best_seed_of_the_best_mean():
    outcome = made_up({"a": [[1.0], [9.0]], "b": [[4.0], [3.0]]})
    assert best(standings(outcome), outcome.plan) == (outcome.plan.contenders[1], 1)


def test_networks_that_are_the_same_are_known():
    bits = {wiring: [[1.0]] for wiring in td.WIRINGS}
    groups = {layers: same_networks(made_up(bits, layers=layers).plan) for layers in (1, 2, 3)}
    assert [[one.wiring for one in group] for group in groups[2]] == [["skip", "dense"]]
    assert len(groups[1][0]) == 6
    assert groups[3] == []


def test_sparklines():
    assert sparkline([0, 1, 6, 7], 0, 7) == "▁▂▇█"
    assert sparkline([math.nan, 5, -5], 0, 1) == "✗█▁"
    assert sparkline([2, 2], 2, 2) == "▁▁"
