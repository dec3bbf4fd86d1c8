"""A whole fit, from a file to a trained network, by its settings; the caller shows the progress."""

import dataclasses
import hashlib
import math
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from treadle.adapt.groups import parameter_groups
from treadle.caches import kept_property
from treadle.data.table_file import TableFile, is_table
from treadle.errors import DataError, ModelFileError
from treadle.files import model_file
from treadle.training.budget import EarlyStopping, NeverStopping
from treadle.training.fitted import Fitted
from treadle.training.language_model import TextTask, require_language_model
from treadle.training.layered_networks import parameter_count
from treadle.training.processes import rank_and_ranks
from treadle.training.sequence_task import SequenceTask
from treadle.training.sequences import read_sequences
from treadle.training.series import VALIDATION, read_series
from treadle.training.series_task import SeriesTask
from treadle.training.task import Design, Habits, Task, Verdict
from treadle.training.text import read_text
from treadle.training.training_loop import Step, refuse_checkpoint, train
from treadle.training.word_model import WordModel, has_vocabulary
from treadle.training.word_task import WordTask
from treadle.training.word_text import read_words

KINDS: dict[str, type[Any]] = {"text": TextTask, "words": WordTask, "sequences": SequenceTask, "series": SeriesTask}

VOCABULARY = 10_000
"""Words of a vocabulary, the unknown one included, unless another size is asked for."""


def kind_of(
    path: str | os.PathLike[str], target: Sequence[str] = (), inputs: Sequence[str] = (), forecast: bool = False
) -> str:
    """What a file holds: ``"sequences"`` in ``.ts`` and in ``.parquet`` with lists in the columns that are read, unless
    they are to be forecast, ``"series"`` in other tables (``.csv``, ``.tsv``, ``.parquet``), ``"text"`` in everything
    else."""
    if not is_table(path):
        return "sequences" if Path(path).suffix.lower() == ".ts" else "text"
    file = TableFile(path)
    file.require(inputs)
    lists = [name for name in inputs or file.names if name not in target and file.is_list(name)]
    return "sequences" if lists and not forecast else "series"


ONLY = {
    "series": ("horizon", "season", "difference", "split"),
    "sequences": ("classes",),
    "words": ("words", "vocabulary"),
}
"""What has a meaning for one kind of data only."""

NOT_TEXT = (
    *("target", "inputs", "predict", "missing", "validation", "noise", "label_smoothing", "test", "series_id", "time"),
    *("metric", "sequences"),
)

NOT = {
    "text": ("dropout", *NOT_TEXT),
    "words": NOT_TEXT,
    "series": ("label_smoothing",),
    "sequences": ("window",),
}
"""What has none for a kind."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Options of a fit. None is the default for the kind of data; the command's help says what each means."""

    file: str
    test: str | None = None
    target: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    horizon: int | None = None
    series_id: str | None = None
    time: str | None = None
    season: int | None = None
    difference: bool | None = None
    split: str | None = None
    sequences: bool = False
    classes: bool | None = None
    words: bool = False
    vocabulary: int | None = None
    metric: str | None = None
    predict: str | None = None
    missing: str | None = None
    validation: float | None = None
    window: int | None = None
    cell: str | None = None
    wiring: str | None = None
    layers: int | None = None
    parameters: int | None = None
    resume: str | None = None
    learning_rate: float | None = None
    rows: int | None = None
    dropout: float | None = None
    noise: float | None = None
    label_smoothing: float | None = None
    weight_decay: float | None = None
    patience: int | None = None
    precision: str = "float32"
    seed: int = 0

    @kept_property
    def kind(self) -> str:
        """What the file holds."""
        if self.sequences and is_table(self.file):
            return "sequences"
        kind = kind_of(self.file, self.target, self.inputs, self.horizon is not None)
        return "words" if kind == "text" and (self.words or self.vocabulary is not None) else kind

    @property
    def habits(self) -> Habits:
        """What suits it."""
        return KINDS[self.kind].habits

    def check(self) -> str:
        """Refuse what has no meaning for the file.

        Returns:
            The kind of the file.

        Raises:
            DataError: with the option.
        """
        kind = self.kind
        for name in [name for other, names in ONLY.items() if other != kind for name in names] + [*NOT.get(kind, ())]:
            value = getattr(self, name)
            if value is not None and value != () and (value is not False or name in ("classes", "difference")):
                raise DataError(f"`{name}` has no meaning for {self.file}, which is read as {kind}: leave it out")
        if self.resume is not None:
            for name in ("cell", "wiring", "layers", "parameters", "dropout", "difference", "vocabulary"):
                if getattr(self, name) is not None:
                    raise DataError(f"`{name}`: the network of `resume={self.resume!r}` has that already; leave it out")
        return kind

    def option(self, name: str) -> Any:
        """A value, or the habit of the kind of data if there is none."""
        value = getattr(self, name)
        return getattr(self.habits, name) if value is None else value

    def started(self) -> "Run":
        """A fit that can begin."""
        return Run(self)


def as_resumed(settings: Settings, start: Fitted) -> Settings:
    """The settings with what a network that is trained further was fitted on, wherever they say nothing else.

    Raises:
        ModelFileError: the file holds data of another kind.
    """
    source, horizon = start.source, start.horizon if settings.horizon is None else settings.horizon
    settings = dataclasses.replace(settings, sequences=settings.sequences or source.sequences, horizon=horizon)
    refuse_other_kind(str(settings.resume), start, settings.kind)
    named = not _is_ts(settings.file)  # which has no names of columns
    targets = start.targets.names if start.targets is not None else source.answers
    kept: dict[str, Any] = {}
    if named:
        kept |= {"target": targets, "inputs": start.inputs.names, "series_id": source.series_id, "time": source.time}
        if start.horizon is None:
            kept["classes"] = start.targets is None
    return dataclasses.replace(settings, **{name: getattr(settings, name) or value for name, value in kept.items()})


def open_task(settings: Settings, start: Fitted | WordModel | None) -> Task:
    """Read the files, and make of them what is to be learned; ``start`` is the network to resume."""
    path, target, inputs = settings.file, settings.target, settings.inputs
    common: dict[str, Any] = {"rows": settings.option("rows"), "seed": settings.seed, "share": rank_and_ranks()}
    if settings.kind == "text":
        window = {} if settings.window is None else {"window": settings.window}
        return TextTask(read_text(path), **window, **common)
    if settings.kind == "words":
        window = {} if settings.window is None else {"window": settings.window}
        known = start.vocabulary if isinstance(start, WordModel) else settings.vocabulary or VOCABULARY
        return WordTask(read_words(path, known), **window, **common)
    assert not isinstance(start, WordModel)
    common |= {"start": start, "predict": settings.predict, "metric": settings.metric or "loss"}
    missing = "refuse" if settings.missing is None else settings.missing
    validation = VALIDATION if settings.validation is None else settings.validation
    columns: dict[str, Any] = {"series_id": settings.series_id, "time": settings.time}
    if settings.kind == "series":
        columns |= {"missing": missing, "validation": validation, "split": settings.split, "seed": settings.seed}
        if start is not None and start.source.split == "series" and settings.split != "time":
            columns |= {"split": "series", "seed": start.source.seed}  # none of its test set may be trained on
        columns |= {} if settings.test is None else {"test": settings.test}
        common |= {name: getattr(settings, name) for name in ("horizon", "window", "season", "difference")}
        return SeriesTask(read_series(path, target, inputs, **columns), **common)
    if len(target) > 1:
        raise DataError(f"{path}: sequences have one target column, but `target` names {', '.join(target)}")
    answer, columns = target[0] if target else None, columns | {"classes": settings.classes}
    whole = read_sequences(path, answer, inputs, **columns)
    learned, chosen = whole.split(validation, settings.seed)
    judge = None
    if settings.test is not None:
        if whole.source.answers and not whole.labels and not _is_ts(settings.test):
            columns["classes"] = False  # whole numbers among numbers
        judge = read_sequences(settings.test, answer, whole.input_names if answer else (), **columns)
    return SequenceTask(learned, chosen, judge, missing=missing, **common)


def _is_ts(path: str) -> bool:
    return Path(path).suffix.lower() == ".ts"


class Run:
    """A fit that can be started.

    Args:
        settings: what is learned, and how.

    Raises:
        DataError: the data does not fit.
        ShapeError: sizes do not.
        ModelFileError: what it is to resume from is no such network.
        OSError: a file cannot be read.
    """

    def __init__(self, settings: Settings):
        model = start = None
        if settings.resume is not None and settings.kind in ("text", "words"):
            words = settings.words or has_vocabulary(model_file.read_notes(settings.resume))
            settings = dataclasses.replace(settings, words=words)
            start = WordModel.load(str(settings.resume)) if words else None
        elif settings.resume is not None:
            start = Fitted.load(settings.resume)
            settings = as_resumed(settings, start)
        settings.check()
        if start is not None:
            model = start.model
        elif settings.resume is not None:
            model = require_language_model(model_file.load(settings.resume), settings.resume)
        self.settings = settings
        self.task = open_task(settings, start)
        self.done = 0
        """Steps done when it is over."""
        self.stopping = EarlyStopping(self.patience) if self.patience else NeverStopping()
        self._about: dict[str, Any] = {}
        torch.manual_seed(settings.seed)
        if model is None:
            shape = settings.cell or "lstm", settings.wiring or "stack", settings.layers or 2
            model = self.task.build(Design(*shape, settings.option("parameters"), settings.option("dropout")))
        self.model = model

    def __str__(self) -> str:
        what = f"a network of {parameter_count(self.model):,} parameters"
        return f"Training {what} on {self.task.name} ({self.task.size}).{self.task.split and f' {self.task.split}'}"

    @property
    def patience(self) -> int | None:
        """After how many validations without a new best it stops; None never does."""
        habits = self.settings.habits
        if self.settings.patience is not None or habits.patience is None:
            return self.settings.patience
        return habits.scaled(habits.patience, self.task.epoch_steps)

    def steps(
        self,
        share_done: Callable[[int], float],
        *,
        validated: bool = False,
        checkpoint: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> Generator[Step, None, None]:
        """Train, a step each time that the iterator is asked.

        Args:
            share_done: given how many steps are done, the share of the training that is over.
            validated: whether to validate even if nothing depends on it.
            checkpoint: the file to resume from, if it is there, and to write to.
            **options: ``checkpoint_at`` and ``evaluating``, as of `treadle.training.train`.

        Raises:
            ModelFileError: the checkpoint is of another run.
            OSError: it cannot be written.
        """
        optimiser = torch.optim.AdamW(
            parameter_groups(self.model, self.settings.option("weight_decay")),
            lr=self.settings.option("learning_rate"),
            betas=(0.9, 0.99),
        )
        self.done = yield from train(
            self.model,
            self.task.batches,
            optimiser,
            share_done,
            learning_rate=self.settings.option("learning_rate"),
            carry_state=self.task.carry_state,
            noise=self.settings.option("noise"),
            label_smoothing=self.settings.option("label_smoothing"),
            bfloat16=self.settings.precision == "bfloat16",
            validate=self.task.validate if self.patience or validated else None,
            evaluate_at=lambda step: step % self.task.evaluate_every == 0,
            stopping=self.stopping,
            checkpoint=checkpoint,
            about=None if checkpoint is None else self.about(),
            **self.task.losses,
            **options,
        )

    def as_json(self, verdict: Verdict, validations: Sequence[tuple[int, float]]) -> dict[str, Any]:
        """The run for JSON: its settings, its network, its scores, and those of validation by step."""
        given = {name: value for name, value in dataclasses.asdict(self.settings).items() if value not in (None, ())}
        return {
            "format": "treadle fit",
            "version": 1,
            "kind": self.settings.kind,
            "data": self.task.name,
            "training_set": self.task.size,
            "split": self.task.split or None,
            "settings": given,
            "parameters": parameter_count(self.model),
            "steps": self.done,
            "validation": [{"step": step, "score": _finite(score)} for step, score in validations],
            "scores": {name: _finite(score) for name, score in verdict.scores.items()},
        }

    def refuse_checkpoint(self, checkpoint: str | os.PathLike[str]) -> None:
        """Refuse a checkpoint that this run cannot resume, before anything is shown.

        Raises:
            ModelFileError: it is of another run or damaged, or another run is keeping it.
        """
        refuse_checkpoint(checkpoint, self.model, self.about())

    def about(self) -> dict[str, Any]:
        """What this run is: settings, and what is in the files; not where they lie."""
        if not self._about:  # large files are read once for it
            said = dataclasses.asdict(self.settings)
            if self.settings.kind == "words":
                said["words"] = True  # which a size of the vocabulary says, too
            else:
                del said["words"], said["vocabulary"]
            files = {called: said.pop(name) for name, called in CALLED.items()}
            self._about = said | contents(files)
        return self._about


# As checkpoints have it, so that runs that were kept can still be resumed.
CALLED = {"file": "the data", "test": "the file of --test", "resume": "the file of --resume"}


def contents(files: Mapping[str, str | os.PathLike[str] | None]) -> dict[str, str]:
    """What is in files, by what they are called, for what a run says about itself: not where they lie."""
    return {f"the content of {called}": "nothing" if path is None else _content(path) for called, path in files.items()}


def refuse_other_kind(path: str, fitted: Fitted, kind: str) -> None:
    """Refuse a network for series or for sequences on data of the other kind."""
    found = "sequences" if fitted.horizon is None else "series"
    if found != kind:
        raise ModelFileError(f"{path} holds a network for {found}, which cannot be trained further on {kind}")


def _finite(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None


def _content(path: str | os.PathLike[str]) -> str:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return f"{file.tell():,} bytes ({digest[:16]}…)"
