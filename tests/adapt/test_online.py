"""Learning while running: against truncated backpropagation written out, bounded, and resumed to the bit."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional

import treadle as td
from tests.tolerances import assert_close
from treadle.errors import DataError, ModelFileError, ShapeError, StateError


def headed(cell, features=2):
    g = td.Graph(cell.input_size)
    memory = g.add("memory", cell, reads=g.x)
    return td.Recurrent(g.outputs(g.add("head", nn.Linear(cell.output_size, features), reads=memory)))


def stream(steps, inputs=3, outputs=2, seed=1):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(steps, inputs, generator=random), torch.randn(steps, outputs, generator=random)


def weights_of(online):
    return {name: tensor.clone() for name, tensor in online.model.state_dict().items()}


def written_out(weights, xs, ys, horizon, rate, replayed=lambda newest: []):
    """Truncated BPTT in plain PyTorch: its own cell and head, a list of states, SGD by hand."""
    cell, head = nn.LSTMCell(3, 5).double(), nn.Linear(5, 2).double()
    with torch.no_grad():
        for (_, mine), name in zip(
            [*cell.named_parameters(), *head.named_parameters()],
            ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight", "bias"),
            strict=True,
        ):
            mine.copy_(next(tensor for key, tensor in weights.items() if key.split(".")[-1] == name))
    parameters = [*cell.parameters(), *head.parameters()]
    state = (torch.zeros(1, 5).double(), torch.zeros(1, 5).double())
    before, predictions = [], []
    for t in range(len(xs)):
        before.append(state)
        with torch.no_grad():
            state = cell(xs[t][None], state)  # live, with the weights of this moment, once and for all
            predictions.append(head(state[0])[0])
        begin = max(0, t + 1 - horizon)

        def outputs(first, last):
            h = before[first]
            for s in range(first, last + 1):
                h = cell(xs[s][None], h)
                yield head(h[0])[0]

        total = functional.mse_loss(list(outputs(begin, t))[-1], ys[t])
        windows = replayed(begin)
        if windows:
            said = [y for first in windows for y in outputs(first, first + t - begin)]
            right = [ys[s] for first in windows for s in range(first, first + t - begin + 1)]
            total = total + functional.mse_loss(torch.stack(said), torch.stack(right))
        gradients = torch.autograd.grad(total, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= rate * gradient
    return torch.stack(predictions), state, parameters


def sgd(model, rate=0.1):
    return torch.optim.SGD(model.parameters(), lr=rate)


@pytest.mark.parametrize("horizon", [1, 4, 50])
@pytest.mark.parametrize("batch_first", [True, False])
def test_it_is_truncated_backpropagation(horizon, batch_first):
    model = headed(td.LSTMCell(3, 5)).double()
    model.batch_first = batch_first
    xs, ys = (part.double() for part in stream(23))
    predictions, state, parameters = written_out(model.state_dict(), xs, ys, horizon, 0.1)
    online = td.adapt.Online(model, functional.mse_loss, sgd(model), horizon=horizon, history=60, most=1e9)
    said = []
    for x, y in zip(xs, ys, strict=True):
        said.append(online.predict_one(x))
        error = online.learn_one(x, y)
        if horizon == 1:  # a longer window runs again, with the weights as they are by now
            assert error == pytest.approx(functional.mse_loss(said[-1], y).item())
    assert_close(torch.stack(said), predictions)
    assert_close(online.state["memory"].h, state[0])
    assert_close(online.state["memory"].c, state[1])
    for mine, written in zip(online.model.parameters(), parameters, strict=True):
        assert_close(mine, written)


def test_replayed_windows_are_rows_of_the_same_batch():
    model = headed(td.LSTMCell(3, 5)).double()
    xs, ys = (part.double() for part in stream(15))
    random = torch.Generator().manual_seed(7)
    draw = lambda newest: torch.randint(newest + 1, (3,), generator=random).tolist()  # noqa: E731
    _, _, parameters = written_out(model.state_dict(), xs, ys, 4, 0.05, draw)
    online = td.adapt.Online(model, functional.mse_loss, sgd(model, 0.05), horizon=4, replays=3, most=1e9, seed=7)
    for x, y in zip(xs, ys, strict=True):
        online.learn_one(x, y)
    for mine, written in zip(online.model.parameters(), parameters, strict=True):
        assert_close(mine, written)


def test_prediction_changes_nothing():
    online = td.adapt.Online(headed(td.LSTMCell(3, 5)), functional.mse_loss)
    xs, ys = stream(5)
    for x, y in zip(xs, ys, strict=True):
        online.learn_one(x, y)
    before, state = weights_of(online), online.state
    assert torch.equal(online.predict_one(xs[0]), online.predict_one(xs[0]))
    assert all(torch.equal(before[name], tensor) for name, tensor in weights_of(online).items())
    assert torch.equal(state["memory"].c, online.state["memory"].c)


@pytest.mark.slow
def test_it_learns_what_needs_memory():
    model = headed(td.GRUCell(1, 12), 1)
    online = td.adapt.Online(model, functional.mse_loss, torch.optim.Adam(model.parameters(), 0.02), 6, replays=4)
    bits = torch.randint(2, (600, 1), generator=torch.Generator().manual_seed(0)).float()
    errors = [online.learn_one(bits[t], bits[t - 2]) for t in range(2, 600)]
    assert sum(errors[-100:]) / 100 < 0.02 < 0.2 < sum(errors[:20]) / 20


def test_steps_without_an_answer_carry_the_state_alone():
    model = headed(td.LSTMCell(3, 5))
    online = td.adapt.Online(model, functional.mse_loss, horizon=5, replays=2)
    before = weights_of(online)
    xs, ys = stream(6)
    for x in xs:
        assert online.learn_one(x) is None
    assert all(torch.equal(before[name], tensor) for name, tensor in weights_of(online).items())
    assert_close(online.state["memory"].h, model(xs[None])[1]["memory"].h)
    assert online.learn_one(xs[0], ys[0]) > 0  # the windows that are replayed may have no answer either


def test_memory_is_bounded():
    online = td.adapt.Online(headed(td.LSTMCell(3, 5)), functional.mse_loss, horizon=3, history=7, replays=1)
    xs, ys = stream(20)
    sizes = []
    for x, y in zip(xs, ys, strict=True):
        online.learn_one(x, y)
        sizes.append(sum(torch.as_tensor(t).numel() for t in (online.state_dict()["xs"], online.state_dict()["ys"])))
    assert online.remembered == 7
    assert len(set(sizes[6:])) == 1


def test_windows_do_not_reach_over_a_new_beginning():
    model = headed(td.LSTMCell(3, 5)).double()
    xs, ys = (part.double() for part in stream(8))
    online = td.adapt.Online(model, functional.mse_loss, sgd(model, 0.0), horizon=8, most=1e9)
    for x, y in zip(xs[:5], ys[:5], strict=True):
        online.learn_one(x, y)
    online.reset()
    assert_close(online.predict_one(xs[5]), model(xs[None, 5:6])[0][0, 0])
    online.learn_one(xs[5], ys[5])
    online.learn_one(xs[6], ys[6])
    mine = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    functional.mse_loss(model(xs[None, 5:7])[0][0, -1], ys[6]).backward()
    for gradient, parameter in zip(mine, model.parameters(), strict=True):
        assert_close(gradient, parameter.grad)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_and_nothing_is_lost(wrong):
    xs, ys = stream(12)
    runs = []
    for disturbed in (False, True):
        torch.manual_seed(3)
        online = td.adapt.Online(headed(td.LSTMCell(3, 5)), functional.mse_loss, horizon=4, replays=2)
        for t, (x, y) in enumerate(zip(xs, ys, strict=True)):
            if disturbed and t == 6:
                with pytest.raises(DataError, match="y must be finite"):
                    online.learn_one(x, torch.tensor([0.0, wrong]))
                with pytest.raises(DataError, match="x must be finite"):
                    online.learn_one(torch.tensor([0.0, wrong, 0.0]), y)
                with pytest.raises(DataError, match="x must be finite"):
                    online.predict_one(torch.tensor([0.0, wrong, 0.0]))
                with pytest.raises(ShapeError, match=r"y was \[2\] of torch.float32 before, but is \[3\]"):
                    online.learn_one(x, torch.zeros(3))
                with pytest.raises(ShapeError, match="takes a step of"):
                    online.learn_one(torch.zeros(4), y)
            online.learn_one(x, y)
        runs.append(online)
    for a, b in zip(*(run.model.parameters() for run in runs), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(runs[0].state["memory"].c, runs[1].state["memory"].c)


def test_a_loss_or_a_gradient_that_is_not_finite_is_refused():
    xs, ys = stream(4)
    broken = {"value": None}

    def loss(outputs, answers):
        if broken["value"] == "loss":
            return outputs.sum() * float("nan")
        if broken["value"] == "gradient":
            return (outputs - outputs.detach()).abs().sqrt().sum()  # 0, with a slope of infinity times 0
        return functional.mse_loss(outputs, answers)

    online = td.adapt.Online(headed(td.LSTMCell(3, 5)), loss)
    online.learn_one(xs[0], ys[0])
    before, state, remembered = weights_of(online), online.state, online.remembered
    for broken["value"], message in (("loss", "the loss is nan"), ("gradient", "the gradient's norm is nan")):
        with pytest.raises(DataError, match=message):
            online.learn_one(xs[1], ys[1])
        assert all(torch.equal(before[name], tensor) for name, tensor in weights_of(online).items())
        assert torch.equal(state["memory"].c, online.state["memory"].c)
        assert online.remembered == remembered
    broken["value"] = None
    online.learn_one(xs[1], ys[1])


def random_network():
    """One that draws numbers while it learns, over tokens, with an answer of two parts."""
    g = td.Graph(())
    embedded = g.add("embedded", nn.Embedding(6, 4), reads=g.x)
    memory = g.add("memory", td.ZoneoutLSTMCell(4, 5), reads=embedded)
    dropped = g.add("dropped", nn.Dropout(0.3), reads=memory)
    return g.outputs(g.add("head", nn.Linear(5, 3), reads=dropped))


def chosen_loss(outputs, answers):
    action, good = answers
    chosen = outputs.gather(1, action[:, None])[:, 0]
    return functional.binary_cross_entropy_with_logits(chosen, good)


def test_what_is_resumed_is_what_was_not_interrupted(tmp_path):
    def new(seed):
        torch.manual_seed(seed)
        return td.adapt.Online(random_network(), chosen_loss, horizon=4, history=9, replays=2)

    tokens = torch.randint(6, (30,), generator=torch.Generator().manual_seed(0)).tolist()

    def go(online, steps):
        said = []
        for t in steps:
            if t == 17:
                online.reset()
            said.append(online.predict_one(tokens[t]))
            online.learn_one(tokens[t], (tokens[t] % 3, float(tokens[t] > 2)) if t % 5 else None)
        return torch.stack(said)

    whole = new(0)
    go(whole, range(15))
    whole.save(tmp_path / "run.checkpoint", keys=["a", "b"])
    uninterrupted = go(whole, range(15, 30))
    again = new(1)
    go(again, range(3))
    assert again.restore(tmp_path / "run.checkpoint") == {"keys": ["a", "b"]}
    assert torch.equal(go(again, range(15, 30)), uninterrupted)
    for mine, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_the_first_steps_can_be_resumed_too(tmp_path):
    online = td.adapt.Online(headed(td.LSTMCell(3, 5)), functional.mse_loss)
    online.save(tmp_path / "new.checkpoint")
    again = td.adapt.Online(headed(td.LSTMCell(3, 5)), functional.mse_loss)
    again.restore(tmp_path / "new.checkpoint")
    assert again.remembered == 0


def test_what_does_not_fit_is_not_restored_and_nothing_is_lost(tmp_path):
    xs, ys = stream(5)

    def new(units=5, **options):
        online = td.adapt.Online(headed(td.LSTMCell(3, units)), functional.mse_loss, **options)
        for x, y in zip(xs, ys, strict=True):
            online.learn_one(x, y)
        return online

    new().save(tmp_path / "run.checkpoint")
    other = new(horizon=3)
    before, state = weights_of(other), other.state
    with pytest.raises(StateError, match="horizon was 16 there, but is 3 here"):
        other.restore(tmp_path / "run.checkpoint")
    assert all(torch.equal(before[name], tensor) for name, tensor in weights_of(other).items())
    assert torch.equal(state["memory"].c, other.state["memory"].c)
    with pytest.raises(ModelFileError, match="another network"):
        new(units=6).restore(tmp_path / "run.checkpoint")
    (tmp_path / "run.checkpoint").write_bytes(b"no")
    with pytest.raises(ModelFileError, match="not a whole safetensors file"):
        other.restore(tmp_path / "run.checkpoint")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 0}, "horizon is a whole number of at least 1, but 0"),
        ({"horizon": 9, "history": 8}, "history is a whole number of at least 9, but 8"),
        ({"replays": -1}, "replays is a whole number of at least 0"),
        ({"most": 0}, "most is a positive number"),
        ({"optimiser": torch.optim.SGD([nn.Parameter(torch.zeros(1))])}, "no parameter of this network"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        td.adapt.Online(td.LSTMCell(3, 5), functional.mse_loss, **options)
    with pytest.raises(TypeError, match="loss is a function"):
        td.adapt.Online(td.LSTMCell(3, 5), "mse")
