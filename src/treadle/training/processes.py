"""Several processes that train one network, over `torch.distributed`; with one process all of this is nothing."""

import contextlib
import datetime
import os
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, distributed, nn

from treadle.errors import WorkerError
from treadle.protocol import State
from treadle.state import map_state
from treadle.training.batches import share_of

SILENCE = datetime.timedelta(minutes=5)
"""A process that is not heard of for so long, in the middle of a step, is taken for dead."""


def rank_and_ranks() -> tuple[int, int]:
    """Which process this is, and of how many."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def join() -> None:
    """Meet the other processes, if ``torchrun`` started this one; they talk over gloo, on any CPU."""
    if "TORCHELASTIC_RUN_ID" in os.environ and not distributed.is_initialized():
        distributed.init_process_group("gloo", timeout=SILENCE)


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Around whatever waits for other processes."""
    try:
        yield
    except RuntimeError as error:  # of any of torch's kinds, and with gloo's own source lines in it
        rank, ranks = rank_and_ranks()
        raise WorkerError(
            f"process {rank} of {ranks} lost contact with the others: one of them ended, or its machine is gone:"
            " start all of them again; a run with `checkpoint` resumes from its last checkpoint"
        ) from error


def sum_over_processes(value: Tensor) -> Tensor:
    """The sum of what every process passes."""
    if rank_and_ranks()[1] > 1:
        value = value.clone()
        with listening():
            distributed.all_reduce(value)
    return value


def add_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give every process the sum of the gradients of all of them, in one message.

    With a loss that is divided by the number of answers everywhere, this is the gradient of one process that has all
    the rows.
    """
    if rank_and_ranks()[1] == 1:
        return
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    with listening():
        distributed.all_reduce(together)
    for gradient, part in zip(gradients, together.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def all_rows(state: State) -> State:
    """A carried state with the rows of every process, one after the other: as one process would have it."""
    if rank_and_ranks()[1] == 1 or state is None:
        return state

    def gather(tensor: Tensor) -> Tensor:
        counts = [int(count) for count in _gathered(torch.tensor(len(tensor)))]
        padded = torch.cat([tensor, tensor.new_zeros(max(counts) - len(tensor), *tensor.shape[1:])])
        return torch.cat([part[:count] for part, count in zip(_gathered(padded), counts, strict=True)])

    return map_state(gather, state)


def _gathered(tensor: Tensor) -> list[Tensor]:
    """What each process passes, all of one shape."""
    _, ranks = rank_and_ranks()
    if ranks == 1:
        return [tensor]
    found = [torch.empty_like(tensor) for _ in range(ranks)]
    with listening():
        distributed.all_gather(found, tensor)
    return found


def own_rows(state: State) -> State:
    """The rows of this process, of a state that has those of all."""
    rank, ranks = rank_and_ranks()
    if ranks == 1 or state is None:
        return state
    return map_state(lambda tensor: tensor[share_of(len(tensor), rank, ranks)].clone(), state)


def draw_apart() -> None:
    """Let the random masks of this process be others than those of the first one."""
    rank, _ = rank_and_ranks()
    if rank:
        torch.manual_seed(torch.initial_seed() + rank)


def all_draws() -> Tensor:
    """Where PyTorch's generator is in each process, [ranks, …]."""
    return torch.stack(_gathered(torch.get_rng_state()))


def put_draws_back(draws: Tensor) -> None:
    """Resume drawing where this process was; with another number of processes than then, anywhere new."""
    rank, ranks = rank_and_ranks()
    if ranks == len(draws):
        torch.set_rng_state(draws[rank])
    else:
        torch.set_rng_state(draws[0])
        torch.manual_seed(int(torch.randint(2**62, ())) + rank)


def agree(value: float) -> float:
    """What the first process says: clocks differ, and all must do the same number of steps."""
    if rank_and_ranks()[1] == 1:
        return value
    said = torch.tensor(value, dtype=torch.float64)
    with listening():
        distributed.broadcast(said, 0)
    return said.item()
