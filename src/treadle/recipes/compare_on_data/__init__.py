"""Comparing wirings on data: which way of connecting layers suits series or labelled sequences best?

``race.py`` trains networks as ``treadle fit`` does, ``ranking.py`` says which differences are more than chance.
"""

from treadle.recipes.compare_on_data.race import Race, Trained, common_size, contenders
from treadle.recipes.compare_on_data.ranking import Ranking, Row, rank

__all__ = ["Race", "Ranking", "Row", "Trained", "common_size", "contenders", "rank"]
