"""Comparing wirings: which way of connecting layers learns a text fastest?

``plan.py`` plans networks and steps, ``race.py`` trains them on all cores, ``standings.py`` ranks them.
"""

from treadle.recipes.compare.plan import Budget, Contender, Plan, available_cores, make_plan
from treadle.recipes.compare.race import Evaluated, Stepped, WorkerError, Workers
from treadle.recipes.compare.standings import Outcome, Standing, as_json, best, same_networks, sparkline, standings

__all__ = [
    "Budget", "Contender", "Evaluated", "Outcome", "Plan", "Standing", "Stepped", "WorkerError", "Workers",
    "as_json", "available_cores", "best", "make_plan", "same_networks", "sparkline", "standings",
]  # fmt: skip
