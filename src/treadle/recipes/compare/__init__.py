"""How should the layers of a network connect? An experiment on the user's own text.

``plan.py`` says who competes and for how many steps, ``race.py`` trains them on all cores, ``standings.py`` judges.
"""

from treadle.recipes.compare.plan import Budget, Contender, Plan, available_cores, make_plan
from treadle.recipes.compare.race import Evaluated, Stepped, WorkerError, Workers
from treadle.recipes.compare.standings import Outcome, Standing, as_json, best, same_networks, sparkline, standings

__all__ = [
    "Budget", "Contender", "Evaluated", "Outcome", "Plan", "Standing", "Stepped", "WorkerError", "Workers",
    "as_json", "available_cores", "best", "make_plan", "same_networks", "sparkline", "standings",
]  # fmt: skip
