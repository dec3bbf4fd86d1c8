import pytest
import torch

from treadle.training import Epochs
from treadle.training.batches import buckets, collate, share_of
from treadle.training.sequences import IGNORED

LENGTHS = [1 + (7 * i) % 30 for i in range(101)]


def test_an_epoch_has_every_sequence_once_in_batches_of_like_length():
    for epoch in range(3):
        batches = buckets(LENGTHS, rows=8, seed=5, epoch=epoch)
        assert sorted(i for batch in batches for i in batch) == list(range(101))
        assert all(len(batch) <= 8 for batch in batches)
        padded = sum(len(batch) * max(LENGTHS[i] for i in batch) for batch in batches)
        assert padded < 1.3 * sum(LENGTHS)


def test_the_order_is_that_of_the_seed_and_the_epoch():
    assert buckets(LENGTHS, 8, 5, 0) == buckets(LENGTHS, 8, 5, 0)
    assert buckets(LENGTHS, 8, 5, 0) != buckets(LENGTHS, 8, 5, 1)
    assert buckets(LENGTHS, 8, 5, 0) != buckets(LENGTHS, 8, 6, 0)


@pytest.mark.parametrize("y", [torch.zeros(3, dtype=torch.long), torch.zeros(3, 2)])
def test_padding_has_no_answer(y):
    batch = collate([(torch.ones(3, 2), y), (torch.ones(1, 2), y[:1])])
    assert batch.lengths.tolist() == [3, 1]
    padding = batch.y[1, 1:]
    assert padding.isnan().all() if y.is_floating_point() else (padding == IGNORED).all()
    assert collate([(torch.ones(3, 2), y)] * 2).lengths is None


def epochs(share=(0, 1)):
    def example(i):
        return torch.full((LENGTHS[i], 1), float(i)), torch.full((LENGTHS[i],), i)

    return Epochs(lambda epoch: buckets(LENGTHS, 8, 0, epoch), example, share)


def rows_of(batch):
    return batch.x[:, 0, 0].tolist()


def test_batches_go_on_where_they_were():
    batches = epochs()
    for _ in range(15):  # into the second epoch
        next(batches)
    other = epochs()
    other.load_state_dict(batches.state_dict())
    assert batches.epoch == 1
    for _ in range(15):
        assert rows_of(next(other)) == rows_of(next(batches))


@pytest.mark.parametrize("ranks", [2, 3, 8, 11])
def test_processes_share_the_rows(ranks):
    whole = epochs()
    parts = [epochs((rank, ranks)) for rank in range(ranks)]
    for _ in range(14):  # the last batch of an epoch has five rows
        batches = [next(part) for part in parts]
        rows = [row for batch in batches if len(batch.x) for row in rows_of(batch)]
        assert rows == rows_of(next(whole))
        assert max(len(batch.x) for batch in batches) - min(len(batch.x) for batch in batches) <= 1


def test_shares_are_neighbours_and_lose_nothing():
    for rows in range(9):
        for ranks in range(1, 5):
            assert [i for rank in range(ranks) for i in range(rows)[share_of(rows, rank, ranks)]] == list(range(rows))
