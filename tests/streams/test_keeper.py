"""With the keeper, streams in windows give what each gives alone; a state that does not belong is refused by name."""

import dataclasses
import json

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

import treadle as td
from tests.registry import build, sequence
from tests.tolerances import assert_all_close, assert_close
from treadle.errors import StateError
from treadle.state import named_tensors, rebuild
from treadle.streams import Array, StateKeeper, Windows

SUBJECTS = [
    "lstm",
    "gru",
    "rnn",
    "slstm",
    "ind-rnn",
    "conv-lstm",
    "stack-feedback",
    "stack-relay",
    "graph-delays",
    "graph-self-delayed",
    "graph-tokens",
    "own-cell",
]


def streams_for(rnn, lengths):
    """Random streams that the network can read, and their elements [1, T, ...] by name."""
    xs = sequence(rnn, len(lengths), max(lengths))
    data = {f"s{n}": xs[n : n + 1, :length] for n, length in enumerate(lengths)}
    return [Array(x[0], id=name) for name, x in data.items()], data


def weigh(ys, batch_or_first):
    """A loss in which every step and feature counts differently."""
    positions = batch_or_first.positions if hasattr(batch_or_first, "positions") else batch_or_first
    weights = torch.sin(1.7 * positions + 1).reshape(*positions.shape, *[1] * (ys.ndim - 2))
    features = torch.arange(1, ys.shape[-1] + 1, dtype=ys.dtype)
    return ys * weights * features


def run_in_windows(rnn, streams, rows, steps, **options):
    """Outputs of each stream, put together, and where its windows ended."""
    keeper = StateKeeper(rnn)
    outputs, borders = {}, {}
    for batch in Windows(streams, rows, steps, horizon=0, dtype=torch.float64, **options):
        state = keeper.before(batch)
        assert state is None or not any(tensor.requires_grad for _, tensor in named_tensors(state))
        ys, state = rnn(batch.x, state, lengths=batch.lengths, resets=batch.resets)
        keeper.after(batch, state)
        weigh(ys, batch)[batch.mask].sum().backward()
        for row, names in enumerate(batch.stream_ids):
            length = int(batch.lengths[row])
            starts = [t for t in range(length) if t == 0 or batch.resets[row, t]]
            for name, start, stop in zip(names, starts, [*starts, length][1:], strict=True):
                outputs.setdefault(name, []).append(ys[row, start:stop].detach())
                borders.setdefault(name, []).append(stop - start)
    assert not keeper.stream_ids
    return {name: torch.cat(parts) for name, parts in outputs.items()}, borders


def gradients(rnn):
    return {name: parameter.grad for name, parameter in rnn.named_parameters() if parameter.grad is not None}


def check_against_each_alone(rnn, lengths, rows, steps, **options):
    streams, data = streams_for(rnn, lengths)
    outputs, borders = run_in_windows(rnn, streams, rows, steps, **options)
    inside = {name: gradient.clone() for name, gradient in gradients(rnn).items()}
    rnn.zero_grad()
    assert outputs.keys() == data.keys()
    for name, x in data.items():
        with torch.no_grad():
            assert_close(outputs[name], rnn(x)[0][0], what=name)
        # Gradients end where windows end, so the stream alone is run in the pieces that its windows made of it.
        state, position = None, 0
        for piece in x.split(borders[name], 1):
            ys, state = rnn(piece, state)
            state = td.detach(state)
            weigh(ys, torch.arange(position, position + piece.shape[1])[None]).sum().backward()
            position += piece.shape[1]
    assert_all_close(inside, gradients(rnn))


@pytest.mark.share(10)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_streams_in_windows_are_the_streams_alone(subject):
    check_against_each_alone(build(subject, engine="reference"), [9, 3, 17, 1, 6, 12], rows=2, steps=5)


@pytest.mark.parametrize("subject", ["lstm", "graph-tokens"])
def test_through_the_compiled_engine(subject):
    check_against_each_alone(build(subject), [23, 3, 17, 1, 6, 12], rows=3, steps=7)


def test_a_learned_initial_state_learns_at_every_beginning():
    rnn = build("gru", learn_initial_state=True, engine="reference")
    check_against_each_alone(rnn, [9, 3, 17, 1, 6, 12], rows=2, steps=5)
    assert rnn.initial["h"].grad.abs().sum() > 0


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8), st.integers(1, 4), st.integers(1, 9), st.integers(0, 3))
def test_any_layout(lengths, rows, steps, seed):
    check_against_each_alone(build("rnn", engine="reference"), lengths, rows, steps, seed=seed)


def test_a_stream_may_be_read_in_two_rows_at_once():
    rnn = build("gru", engine="reference")
    streams, data = streams_for(rnn, [3, 30, 4])
    keeper, twice = StateKeeper(rnn), 0
    with torch.no_grad():
        alone = {name: rnn(x)[0][0] for name, x in data.items()}
        for batch in Windows(streams, 2, 5, horizon=0, seed=None, epochs=2, dtype=torch.float64):
            ys, state = rnn(batch.x, keeper.before(batch), lengths=batch.lengths, resets=batch.resets)
            keeper.after(batch, state)
            twice += keeper.stream_ids == ["s1", "s1"]
            for row, names in enumerate(batch.stream_ids):
                segments = batch.resets[row].cumsum(0) - batch.resets[row, 0].long()
                for t in range(int(batch.lengths[row])):
                    assert_close(ys[row, t], alone[names[segments[t]]][batch.positions[row, t]])
    assert twice


def some(lengths=(30, 22, 41), rows=2, steps=5, subject="gru"):
    rnn = build(subject, engine="reference")
    streams, _ = streams_for(rnn, lengths)
    return rnn, list(Windows(streams, rows, steps, horizon=0, dtype=torch.float64))


def run(rnn, keeper, batches):
    outputs = []
    with torch.no_grad():
        for batch in batches:
            ys, state = rnn(batch.x, keeper.before(batch), lengths=batch.lengths, resets=batch.resets)
            keeper.after(batch, state)
            outputs.append(ys)
    return outputs


def rows_of(batch, rows):
    """The same batch with its rows in another order, or only some of them."""
    parts = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    taken = {name: part[rows] for name, part in parts.items() if isinstance(part, torch.Tensor)}
    return dataclasses.replace(batch, **taken, stream_ids=tuple(batch.stream_ids[row] for row in rows))


def test_states_follow_their_streams_into_other_rows_and_batches():
    rnn, batches = some()
    expected = run(rnn, StateKeeper(rnn), batches)
    keeper = StateKeeper(rnn)
    for number, batch in enumerate(batches):
        order = [1, 0] if number % 2 else [0, 1]
        if number % 3 == 2:  # one row after the other: each stream pauses while the other goes on
            for row in order:
                (ys,) = run(rnn, keeper, [rows_of(batch, [row])])
                assert_close(ys, expected[number][[row]])
        else:
            (ys,) = run(rnn, keeper, [rows_of(batch, order)])
            assert_close(ys, expected[number][order])


def test_a_kept_keeper_goes_on_to_the_bit():
    rnn, batches = some(subject="lstm")
    for stop in range(len(batches) + 1):
        keeper = StateKeeper(rnn)
        expected = run(rnn, keeper, batches[:stop])
        kept = keeper.state_dict()
        tensors = kept.pop("state")
        again = StateKeeper(rnn)
        again.load_state_dict({**json.loads(json.dumps(kept)), "state": tensors})
        assert again.stream_ids == keeper.stream_ids
        expected = run(rnn, keeper, batches[stop:])
        for ys, other in zip(run(rnn, again, batches[stop:]), expected, strict=True):
            assert torch.equal(ys, other)


def test_what_was_kept_does_not_change_with_what_comes_later():
    rnn, batches = some()
    keeper = StateKeeper(rnn)
    run(rnn, keeper, batches[:2])
    kept = keeper.state_dict()
    before = {name: tensor.clone() for name, tensor in kept["state"].items()}
    run(rnn, keeper, batches[2:])
    for tensor in keeper.state_dict()["state"].values():
        tensor.zero_()
    assert_all_close(kept["state"], before)


def test_streams_that_have_ended_are_forgotten():
    rnn, batches = some(lengths=(10, 20, 30, 7), rows=2)
    keeper = StateKeeper(rnn)
    for batch in batches:
        run(rnn, keeper, [batch])
        ended = [name for row, names in enumerate(batch.stream_ids) for name in names[: int(batch.ends[row].sum())]]
        going = {name for names in batch.stream_ids for name in names} - set(ended)
        assert sorted(keeper.stream_ids) == sorted(going)


def test_what_is_kept_and_what_is_handed_out_are_memory_of_their_own():
    rnn, batches = some(subject="lstm")
    expected = run(rnn, StateKeeper(rnn), batches)
    keeper = StateKeeper(rnn)
    for number, batch in enumerate(batches):
        ys, state = rnn(batch.x, keeper.before(batch), lengths=batch.lengths, resets=batch.resets)
        assert_close(ys, expected[number])
        whole = torch.stack([tensor for _, tensor in named_tensors(state)] * 50).detach()  # as an engine's block is
        views = rebuild(state, {name: whole[i] for i, (name, _) in enumerate(named_tensors(state))})
        keeper.after(batch, views)
        whole.fill_(torch.nan)
        for tensor in keeper._kept.state if keeper.stream_ids else ():
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        kept = keeper.state_dict()
        keeper.load_state_dict(kept)
        for tensor in (*kept["state"].values(), *keeper.state_dict()["state"].values()):
            tensor.fill_(torch.nan)
        if number + 1 < len(batches):
            for tensor in keeper.before(batches[number + 1]) or ():
                tensor.fill_(torch.nan)


def test_states_wait_on_another_device_and_come_back_to_that_of_the_batch():
    rnn, batches = some()
    keeper = StateKeeper(rnn, device="meta")
    run(rnn, keeper, batches[:1])
    assert all(tensor.is_meta for tensor in keeper.state_dict()["state"].values())
    keeper = StateKeeper(rnn)
    run(rnn, keeper, batches[:1])
    kept = keeper.state_dict()["state"]
    elsewhere = dataclasses.replace(batches[1], x=batches[1].x.to("meta"))
    assert all(tensor.is_meta for _, tensor in named_tensors(keeper.before(elsewhere)))
    assert_all_close(keeper.state_dict()["state"], kept)
    again = StateKeeper(rnn, device="meta")
    again.load_state_dict(keeper.state_dict())
    assert all(tensor.is_meta for tensor in again.state_dict()["state"].values())


def test_a_stream_that_went_back_or_left_out_steps_is_refused_by_name():
    rnn, batches = some()
    name = batches[0].stream_ids[0][0]
    keeper = StateKeeper(rnn)
    run(rnn, keeper, batches[:3])
    for batch, message in [
        (batches[1], rf"stream '{name}' went back: its state is that before step 15, but row 0 continues with step 5"),
        (batches[4], rf"stream '{name}' left steps out: its state is that before step 15, but row 0 .* step 20"),
    ]:
        with pytest.raises(StateError, match=message):
            keeper.before(batch)
        with pytest.raises(StateError, match=message):
            keeper.after(batch, rnn.initial_state(2))
    run(rnn, keeper, batches[3:])  # nothing was lost


def test_a_state_that_was_never_here_is_refused_by_name():
    rnn, batches = some()
    message = rf"row 0 continues stream '{batches[0].stream_ids[0][0]}' at step 5, but no state .* is kept: load"
    with pytest.raises(StateError, match=message):
        StateKeeper(rnn).before(batches[1])
    keeper = StateKeeper(rnn)
    run(rnn, keeper, batches[:1])
    keeper.clear()
    with pytest.raises(StateError, match=message):
        keeper.before(batches[1])


def test_beginning_anew_needs_no_state_and_is_no_way_back():
    rnn, batches = some()
    keeper = StateKeeper(rnn)
    expected = run(rnn, keeper, batches[:3])
    assert torch.equal(torch.cat(run(rnn, keeper, batches[:3])), torch.cat(expected))


def test_the_state_of_another_network_or_batch_is_refused():
    rnn, batches = some()
    keeper, other = StateKeeper(rnn), build("lstm", engine="reference")
    with pytest.raises(StateError, match=r"another network|keeps"):
        keeper.after(batches[0], other.initial_state(2))
    with pytest.raises(StateError, match=r"the input has 2 rows, but state h has 3"):
        keeper.after(batches[0], rnn.initial_state(3))
    run(rnn, keeper, batches[:1])
    with pytest.raises(
        StateError, match=r"state c is nothing .*, but this Recurrent has \[2, 5\] there.*another network"
    ):
        StateKeeper(other).load_state_dict(keeper.state_dict())
    theirs = StateKeeper(other)
    run(other, theirs, batches[:1])
    with pytest.raises(StateError, match=r"state c is \[2, 5\] .*, but this Recurrent has nothing there"):
        StateKeeper(rnn).load_state_dict(theirs.state_dict())
    wide = td.Recurrent(td.GRUCell(3, 6)).double()
    with pytest.raises(StateError, match=r"state h is \[2, 5\] in what was kept, but this Recurrent has \[2, 6\]"):
        StateKeeper(wide).load_state_dict(keeper.state_dict())
    with pytest.raises(StateError, match=r"not a state of a keeper"):
        StateKeeper(rnn).load_state_dict({})


@pytest.mark.share(7)
@pytest.mark.parametrize("kind", [td.LSTM, td.GRU])
@pytest.mark.parametrize("wiring", td.WIRINGS)
def test_a_drop_in_keeps_its_own_state(kind, wiring):
    torch.manual_seed(0)
    rnn = kind(3, 4, 2, batch_first=True, wiring=wiring).double()
    data = {f"s{n}": torch.randn(1, length, 3, dtype=torch.float64) for n, length in enumerate((17, 1, 30, 8))}
    keeper, found, ends = StateKeeper(rnn), {name: [] for name in data}, 0
    streams = [Array(x[0], id=name) for name, x in data.items()]
    for batch in Windows(streams, 2, 5, horizon=0, dtype=torch.float64):
        ys, hx = rnn(batch.x, keeper.before(batch), lengths=batch.lengths, resets=batch.resets)
        keeper.after(batch, hx)
        kept = json.loads(json.dumps({k: v for k, v in keeper.state_dict().items() if k != "state"}))
        again = StateKeeper(rnn)
        again.load_state_dict(kept | {"state": keeper.state_dict()["state"]})
        keeper = again
        for row, step in batch.mask.nonzero().tolist():
            names = iter(batch.stream_ids[row])
            name = [next(names) for at in range(step + 1) if not at or batch.resets[row, at]][-1]
            found[name].append(ys[row, step])
        ends += int(batch.ends.sum())
    assert ends == len(data)
    for name, x in data.items():
        assert_close(torch.stack(found[name]), rnn(x)[0][0])


def test_what_has_no_state_to_carry_is_refused():
    with pytest.raises(ValueError, match="bidirectional"):
        StateKeeper(td.GRU(3, 4, bidirectional=True))
    with pytest.raises(TypeError, match=r"a Linear has no initial_state"):
        StateKeeper(torch.nn.Linear(2, 2))
