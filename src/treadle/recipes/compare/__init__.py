"""Comparing wirings: which way of connecting layers learns a text fastest?

``plan.py`` plans networks and steps, ``runs.py`` trains some of them, ``race.py`` all, on all cores, ``on_ray.py`` on
all machines, ``standings.py`` ranks them.
"""

from treadle.recipes.compare.on_ray import RayWorkers
from treadle.recipes.compare.plan import Budget, Contender, Plan, available_cores, make_plan
from treadle.recipes.compare.race import WorkerError, Workers
from treadle.recipes.compare.runs import Evaluated, GivenUp, Stepped
from treadle.recipes.compare.standings import Outcome, Standing, as_json, best, same_networks, sparkline, standings

__all__ = [
    "Budget", "Contender", "Evaluated", "GivenUp", "Outcome", "Plan", "RayWorkers", "Standing", "Stepped",
    "WorkerError", "Workers", "as_json", "available_cores", "best", "make_plan", "same_networks", "sparkline",
    "standings",
]  # fmt: skip
