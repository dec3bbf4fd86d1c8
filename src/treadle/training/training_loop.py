"""The training loop. It is a page long, so that it can be copied and changed."""

import contextlib
import math
import os
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from treadle.errors import ModelFileError
from treadle.files.checkpoint import check_same, previous_checkpoint, put_back, read_checkpoint, save_checkpoint
from treadle.files.lock import locked
from treadle.state import detach
from treadle.training.budget import EarlyStopping, warm_up_and_cosine
from treadle.training.evaluate import total_loss
from treadle.training.processes import (
    add_gradients,
    agree,
    all_draws,
    all_rows,
    draw_apart,
    own_rows,
    put_draws_back,
    rank_and_ranks,
    sum_over_processes,
)


class Step(NamedTuple):
    """The figures of a training step."""

    step: int
    """Steps done."""
    loss: float
    """The mean loss over this step's targets, before the update, in training mode."""
    score: float | None
    """The validation score (lower is better), at the steps of ``evaluate_at``."""
    seconds: float
    """Time of this step, without validation and checkpoint."""
    inputs: int
    """Steps of sequences that were read, padding not counted."""
    learning_rate: float
    """Of this step."""
    share_done: float
    """The fraction of training done before this step, from 0 to 1."""


def run_batch(model: Any, batch: Any, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    """What a network over time gives for a batch of sequences, and the state after it."""
    return model(x, state, lengths=batch.lengths, resets=batch.resets)


def train(
    model: Any,
    batches: Any,
    optimiser: torch.optim.Optimizer,
    share_done: Callable[[int], float],
    *,
    learning_rate: float,
    carry_state: bool = False,
    noise: float = 0.0,
    label_smoothing: float = 0.0,
    loss_of: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    run: Callable[[Any, Any, Tensor, Any], tuple[Tensor, Any]] = run_batch,
    clip: float = 1.0,
    bfloat16: bool = False,
    validate: Callable[[Any], float] | None = None,
    evaluate_at: Callable[[int], bool] = lambda step: False,
    evaluating: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    stopping: EarlyStopping | None = None,
    warm_up: int = 10,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_at: Callable[[int], bool] = lambda step: False,
    about: Any = None,
    thaw: Any = None,
) -> Generator[Step, None, int]:
    """Train a network, one step per iteration.

    With a checkpoint, the process may be killed at any time: started again with the same arguments, it resumes from the
    last checkpoint and takes the same steps, bit for bit. A second run on the same checkpoint is refused. Under
    ``torchrun``, every process gets its share of the rows of each batch, and all together take the step that one
    process with all the rows would take.

    Args:
        model: the network; it is trained in place.
        batches: gives what has ``x``, ``y``, ``lengths`` and ``resets``, without an end, and has ``state_dict``:
            `Epochs`, or `treadle.streams.Windows` with ``epochs=None``.
        optimiser: of `torch.optim`; its learning rates are set here. A group whose rate differs from the optimiser's
            keeps that ratio.
        share_done: from the number of steps done to the fraction of training that is over; at 1 it ends. If it has
            ``state_dict``, it goes into checkpoints.
        learning_rate: the peak learning rate: a warm-up leads to it, a cosine schedule from it to zero.
        carry_state: whether each batch continues from the final state of the one before, row by row, detached.
        noise: standard deviation of Gaussian noise on ``x`` in training, against overfitting.
        label_smoothing: see `treadle.training.total_loss`.
        loss_of: from outputs and targets to the summed loss and the number of targets; in place of
            `treadle.training.total_loss`, and so without ``label_smoothing``.
        run: from the network, the batch, its ``x`` (with noise) and the state before it to the outputs and the state
            after it.
        clip: gradient clipping: the maximum norm of the gradient.
        bfloat16: whether to multiply in bfloat16 and add in float32.
        validate: from the network to its score on the validation set; lower is better.
        evaluate_at: whether to validate after a step.
        evaluating: entered while it validates, for whoever shows that.
        stopping: early stopping: the network has the best weights at the end, unless it is `NeverStopping`.
        warm_up: steps of the warm-up.
        checkpoint: the file to resume from, if it is there, and to write to.
        checkpoint_at: whether to write it after a step; it is written at the end, too.
        about: the settings of this run, as numbers and words; a checkpoint of another run is refused.
        thaw: a `treadle.adapt.Thaw` of the network: its stages count the steps, and it goes into checkpoints.

    Yields:
        `Step`, after each.

    Returns:
        Steps done in all, those before the checkpoint included: ``done = yield from train(...)``.

    Raises:
        ValueError: both ``loss_of`` and ``label_smoothing`` are given.
        ModelFileError: the checkpoint is of another network or of another run, or another run is using it.
        WorkerError: another process is gone.
        OSError: the checkpoint cannot be written.
    """
    if loss_of is not None and label_smoothing:
        raise ValueError(
            f"label_smoothing is {label_smoothing}, but loss_of takes the place of the loss that it belongs to: let"
            " loss_of smooth labels itself, or leave one of the two out"
        )
    step, state, stopping = 0, None, stopping or EarlyStopping()
    draw_apart()
    usual = optimiser.defaults["lr"]
    factors = [group["lr"] / usual if usual else 1.0 for group in optimiser.param_groups]
    parts = {"optimiser": optimiser, "batches": batches, "stopping": stopping}
    if hasattr(share_done, "state_dict"):
        parts["share_done"] = share_done
    if thaw is not None:
        parts["thaw"] = thaw

    def save() -> None:
        values = {"step": step, "state": all_rows(state), "draws": all_draws(), "about": about}
        if checkpoint is not None and rank_and_ranks()[0] == 0:
            save_checkpoint(checkpoint, model, **parts, **values)

    with _alone(checkpoint):
        if checkpoint is not None and is_kept(checkpoint):
            values = _resumed(checkpoint, model, parts, about)
            step, state = values["step"], own_rows(values["state"])
            put_draws_back(values["draws"])
        reading = iter(batches)
        while not stopping.is_over and (share := agree(share_done(step))) < 1:
            start = time.perf_counter()
            batch = next(reading)
            model.train()
            rate = learning_rate * warm_up_and_cosine(step + 1, share, warm_up)
            for group, factor in zip(optimiser.param_groups, factors, strict=True):
                group["lr"] = rate * factor
            x = batch.x + noise * torch.randn_like(batch.x) if noise else batch.x
            with torch.autocast(batch.x.device.type, torch.bfloat16, enabled=bfloat16):
                ys, after = run(model, batch, x, state)
            total, count = loss_of(ys, batch.y) if loss_of else total_loss(ys, batch.y, label_smoothing)
            count = sum_over_processes(count).clamp(min=1)
            optimiser.zero_grad()
            (total / count).backward()
            add_gradients(model.parameters())
            clip_grad_norm_(model.parameters(), clip)
            optimiser.step()
            if thaw is not None:
                thaw.step()
            step, state = step + 1, detach(after) if carry_state else None
            loss = (sum_over_processes(total.detach()) / count).item()
            seconds = time.perf_counter() - start
            score = None
            if validate is not None and evaluate_at(step):
                with evaluating():
                    score = agree(validate(model))
                stopping.update(score, model)
            if agree(checkpoint_at(step) and math.isfinite(loss)):
                save()
            inputs = batch.x.shape[0] * batch.x.shape[1] if batch.lengths is None else int(batch.lengths.sum())
            yield Step(step, loss, score, seconds, inputs, rate, share)
        save()
    stopping.restore(model)
    return step


def _alone(checkpoint: str | os.PathLike[str] | None) -> contextlib.AbstractContextManager[None]:
    """Keep other runs from a checkpoint, as long as this one lasts; of several processes, the first one writes."""
    return contextlib.nullcontext() if checkpoint is None or rank_and_ranks()[0] else locked(checkpoint)


def is_kept(checkpoint: str | os.PathLike[str]) -> bool:
    """Whether there is something to resume from."""
    return Path(checkpoint).exists() or previous_checkpoint(checkpoint).exists()


def refuse_checkpoint(checkpoint: str | os.PathLike[str], model: Any, about: Any) -> None:
    """Refuse what `train` would refuse of a checkpoint, before anything is shown; nothing changes.

    Raises:
        ModelFileError: it is of another network or of another run, or another run is using it.
    """
    with _alone(checkpoint):
        if is_kept(checkpoint):
            check_same(checkpoint, read_checkpoint(checkpoint, model, {}).values.get("about"), about)


def _resumed(path: str | os.PathLike[str], model: Any, parts: dict[str, Any], about: Any) -> dict[str, Any]:
    """Put a run back to where its checkpoint saw it, unless that is of another run; what is left is returned."""
    kept = read_checkpoint(path, model, parts)
    if not {"step", "state", "draws", "about"} <= kept.values.keys():
        raise ModelFileError(f"{path} is the checkpoint of another kind of training: name another file")
    check_same(path, kept.values["about"], about)
    put_back(path, kept, model, parts)
    return kept.values
