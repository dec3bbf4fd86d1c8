"""Comparing wirings on data: which way of connecting layers suits series or labelled sequences best?

``race.py`` trains networks as ``treadle fit`` does, ``on_ray.py`` lets it do so on many machines, ``ranking.py`` says
which differences are more than chance.
"""

from treadle.recipes.compare_on_data.on_ray import RayPool
from treadle.recipes.compare_on_data.race import ProcessPool, Race, Trained, common_size, contenders
from treadle.recipes.compare_on_data.ranking import Ranking, Row, rank

__all__ = [
    "ProcessPool", "Race", "Ranking", "RayPool", "Row", "Trained", "common_size", "contenders", "rank",
]  # fmt: skip
