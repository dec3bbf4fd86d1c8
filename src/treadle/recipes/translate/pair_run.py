"""Training on pairs as a comparison has it: by settings, for networks of a given number of parameters."""

import dataclasses
import math
import os
from collections.abc import Callable, Generator
from typing import Any

import torch
from torch import nn

from treadle.recipes.translate.pairs import VALIDATION, read_pairs, split
from treadle.recipes.translate.tasks import COUNTS, is_task, make_pairs
from treadle.recipes.translate.translation_network import translation_model
from treadle.recipes.translate.translator import Translator, fertility, token_counts, units_of
from treadle.recipes.translate.translator_training import Learning
from treadle.training.fit_run import contents
from treadle.training.task import Design, Habits, Verdict
from treadle.training.training_loop import Step


@dataclasses.dataclass(frozen=True)
class PairSettings:
    """Options of a training on pairs, as those of `treadle.training.fit_run.Settings`.

    Attributes:
        file: a file of pairs, or the name of a task.
        words: sides that are read as words: neither, source, target or both.
    """

    file: str
    words: str = "neither"
    cell: str = "lstm"
    wiring: str = "stack"
    layers: int | None = None
    parameters: int | None = None
    learning_rate: float | None = None
    seed: int = 0
    kind: str = "pairs"
    metric: str | None = None

    @property
    def habits(self) -> Habits:
        """What suits pairs."""
        return PairTask.habits

    def option(self, name: str) -> Any:
        """A value, or the habit if there is none."""
        value = getattr(self, name)
        return getattr(self.habits, name) if value is None else value

    def started(self) -> "PairRun":
        """A training that can begin."""
        return PairRun(self)


class PairTask:
    """Pairs, the network for them and its evaluation; see `treadle.training.task.Task`."""

    habits = Habits("5m", 200_000, 0.003, 64, dropout=0.1, weight_decay=0.01)
    split = ""

    def __init__(self, settings: PairSettings):
        made = is_task(settings.file)
        pairs = make_pairs(settings.file, COUNTS[settings.file], 0) if made else read_pairs(settings.file)
        self.training, self.validation = split(pairs, VALIDATION, settings.seed)
        self._blank, self.made = Translator.new(pairs, *units_of(settings.words), hidden_size=1), made
        self._fertility = {"fertility": fertility(token_counts(self._blank.source, self._blank.target, pairs))}
        self.name, self.size = settings.file, f"{len(self.training):,} pairs, {len(self.validation):,} for validation"
        learning = self.learning(self._blank, settings)
        self.epoch_steps, self.evaluate_every = len(learning.batches), learning.evaluate_every
        self._learning = learning

    def learning(self, translator: Translator, settings: PairSettings) -> Learning:
        """Training of a translator, which is evaluated by its loss: exact matches come late."""
        habits = self.habits
        options = {
            "rows": habits.rows,
            "learning_rate": settings.option("learning_rate"),
            "weight_decay": habits.weight_decay,
        }
        return Learning(translator, self.training, self.validation, by_loss=True, seed=settings.seed, **options)

    def build(self, design: Design) -> nn.Module:
        """A network to be trained."""

        def network(cell: str, wiring: str, layers: int, hidden_size: int, dropout: float) -> nn.Module:
            shape = {"cell": cell, "wiring": wiring, "layers": layers, "hidden_size": hidden_size, "dropout": dropout}
            return translation_model(len(self._blank.source), len(self._blank.target), **shape, **self._fertility)  # pyright: ignore[reportArgumentType]

        return design.built(network)  # pyright: ignore[reportArgumentType]

    def translator(self, model: Any) -> Translator:
        """A network with the vocabularies of these pairs."""
        return dataclasses.replace(self._blank, model=model)

    def validate(self, model: Any) -> float:
        """The mean loss of a token."""
        return self._learning.validate(model)

    @property
    def score_of_constant(self) -> float:
        """The loss of who knows how frequent each token is, and nothing else."""
        return self._learning.unigram_loss()

    def judge(self, model: Any) -> Verdict:
        """Exact matches on the validation set."""
        right = self.translator(model.eval()).exact(self.validation)
        share = math.fsum(right) / len(right)
        return Verdict(f"exact match on {100 * share:.1f} % of {len(right):,} validation pairs", {"exact_match": share})

    def save(self, path: str | os.PathLike[str], model: Any) -> None:
        """Write network and vocabularies to a model file."""
        self.translator(model).save(path)


class PairRun:
    """A training on pairs that can be started; see `treadle.training.fit_run.Run`."""

    def __init__(self, settings: PairSettings):
        self.settings, self.task, self.done = settings, PairTask(settings), 0
        torch.manual_seed(settings.seed)
        sizes = settings.layers or 2, settings.option("parameters"), settings.habits.dropout
        design = Design(settings.cell, settings.wiring, *sizes)
        self.model = self.task.build(design)
        self._learning = self.task.learning(self.task.translator(self.model), settings)
        self.stopping = self._learning.stopping

    def steps(
        self, share_done: Callable[[int], float], *, validated: bool = True, checkpoint: Any = None, **options: Any
    ) -> Generator[Step, None, None]:
        """Train, one step per iteration; it always validates."""
        about = dataclasses.asdict(self.settings) | {"file": self.settings.file if self.task.made else None}
        about |= {} if checkpoint is None else contents({"the data": None if self.task.made else self.settings.file})
        self._learning.evaluate_every = self.task.evaluate_every
        self._learning.learning_rate = self.settings.option("learning_rate")
        yield from self._learning.steps(share_done, checkpoint=checkpoint, about=about, **options)
        self.done = self._learning.done
