import json
import math

import numpy as np
import pytest
import torch

import treadle as td
from tests.tolerances import assert_close
from treadle.errors import DataError, ModelFileError
from treadle.files import model_file
from treadle.training import Fitted, forecaster, sequence_model
from treadle.training.layered_networks import fit_linear
from treadle.training.scaling import Scaling, fill_previous


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.safetensors"


def forecasts():
    torch.manual_seed(0)
    scaling = Scaling(("a", "b"), torch.tensor([10.0, 0.0]).double(), torch.tensor([2.0, 5.0]).double())
    target = Scaling(("a",), torch.tensor([10.0]).double(), torch.tensor([2.0]).double())
    return Fitted(forecaster(2, 3, [0, 2], [1, 2], hidden_size=4), scaling, target, predict="every", horizon=3)


def test_scaling_there_and_back_is_the_value():
    values = torch.tensor([[1e6, 3.0, -1e-3], [1e6 + 1, 3.0, math.nan], [1e6 + 5, 3.0, 2e-3]])
    scaling = Scaling.fit("xyz", [values[:2], values[2:]])
    scaled = scaling.apply(values)
    exact = values.double().numpy()
    expected = (exact - np.nanmean(exact, 0)) / np.where(np.nanstd(exact, 0) > 0, np.nanstd(exact, 0), 1)
    back = scaling.undo(scaled)
    assert torch.equal(back.isnan(), values.isnan())
    for column in range(3):
        there = ~values[:, column].isnan()
        assert_close(scaled[there, column], torch.from_numpy(expected)[there, column])
        assert_close(back[there, column], values[there, column])
    assert scaled[:, 1].tolist() == [0, 0, 0]  # a constant stays finite
    again = Scaling.from_json(json.loads(json.dumps(scaling.as_json())))
    assert torch.equal(again.apply(values).nan_to_num(), scaled.nan_to_num())


def test_gaps_are_filled_from_before_only():
    values = torch.tensor([[math.nan, 1.0], [2.0, math.nan], [math.nan, math.nan]])
    assert fill_previous(values).tolist() == [[0, 1], [2, 1], [2, 1]]
    assert fill_previous(values[:0]).shape == (0, 2)


def test_a_file_keeps_network_and_meaning(path):
    fitted, xs = forecasts(), torch.randn(12, 2) * 3 + 9
    fitted.save(path)
    again = Fitted.load(path)
    assert torch.equal(again.predict_all([xs])[0], fitted.predict_all([xs])[0])
    assert again.predict_all([xs])[0].shape == (12, 3, 1)
    assert isinstance(td.load(path), td.Recurrent)
    frozen = [name for name, parameter in again.model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["cell.change1.weight", "cell.change2.weight"]


def test_predictions_are_in_units_and_the_same_live():
    fitted, xs = forecasts(), torch.randn(12, 2) * 3 + 9
    session = fitted.model.session()
    scaled = fitted.inputs.apply(xs)
    live = torch.stack([session.step(x).clone() for x in scaled])
    said = fitted.predict_all([xs])[0]
    assert_close(said, 10 + 2 * live[..., None])


def test_a_window_of_its_own_for_every_step():
    fitted, xs = forecasts(), torch.randn(9, 2)
    fitted.window = 4
    said = fitted.predict_all([xs])[0]
    for t in range(9):
        ys, _ = fitted.model(fitted.inputs.apply(xs[max(t - 3, 0) : t + 1])[None])
        assert_close(said[t, :, 0], 10 + 2 * ys[0, -1])


def test_labels_are_said_by_name_after_the_last_step_or_every():
    model = sequence_model(1, 2, hidden_size=3)
    with torch.no_grad():
        model.cell.head.weight.zero_()
        model.cell.head.bias.copy_(torch.tensor([0.0, 1.0]))
    fitted = Fitted(model, Scaling.fit(["x"], [torch.randn(5, 1)]), labels=("no", "yes"))
    assert fitted.predict_all([torch.ones(3, 1), torch.ones(1, 1)]) == ["yes", "yes"]
    fitted.predict = "every"
    assert fitted.predict_all([torch.ones(3, 1)]) == [["yes"] * 3]


def test_what_does_not_fit_is_refused(path):
    fitted = forecasts()
    with pytest.raises(DataError, match=r"a sequence is \[T, 2\] \(a, b\), but \[5, 3\] was passed"):
        fitted.predict_all([torch.ones(5, 3)])
    with pytest.raises(DataError, match="sequence 1 has no steps"):
        fitted.predict_all([torch.ones(1, 2), torch.ones(0, 2)])
    td.save(path, fitted.model)
    with pytest.raises(ModelFileError, match="does not describe the inputs and outputs of its network"):
        Fitted.load(path)
    model_file.save(path, fitted.model, {"fitted": {"inputs": 3}})
    with pytest.raises(ModelFileError, match="is damaged"):
        Fitted.load(path)


def test_a_forecaster_starts_as_the_best_linear_forecast():
    torch.manual_seed(0)
    x = torch.randn(400, 2)
    y = torch.full((400, 2), math.nan)
    y[3:, 0] = 0.5 * x[3:, 0] - 0.25 * x[:-3, 1] + 1
    y[3:, 1] = x[:-3, 0]
    y[7, 1] = math.nan
    model = forecaster(2, 2, [0, 3], hidden_size=4)
    fit_linear(model, [(x[:200], y[:200]), (x[200:], y[200:]), (x[:2], y[:2])], [0, 3])
    ys, _ = model(x[None])
    # Ridge takes a thousandth off every weight, so this is the forecast within some thousandths, not to rounding.
    assert (ys[0, 8:] - y[8:]).abs().max() < 0.01


def test_a_forecaster_without_anything_to_learn_from_says_the_mean():
    model = forecaster(1, 1, [0, 5], hidden_size=4)
    fit_linear(model, [(torch.ones(3, 1), torch.ones(3, 1))], [0, 5])
    assert model(torch.randn(1, 4, 1))[0].abs().max() == 0


def test_a_column_that_varies_by_less_than_numbers_can_hold_is_refused():
    steps = torch.arange(100.0).double()[:, None]
    scaling = Scaling.fit(["y"], [1e9 + steps % 7])
    assert_close(scaling.undo(scaling.apply(1e9 + steps % 7)) - 1e9, steps % 7, torch.float32)
    for far in (1e16, -1e17):
        with pytest.raises(DataError, match=r"column 'y' varies by .* around .* subtract"):
            Scaling.fit(["y"], [far + steps % 7])
    with pytest.raises(DataError, match=r"column 'y' has numbers as large as .*: give it in other units"):
        Scaling.fit(["y"], [steps * 1e300])
    assert Scaling.fit(["y"], [torch.full((5, 1), 1e15).double()]).deviations.tolist() == [1]
    with pytest.raises(DataError, match=r"column 'y' has the value 1e\+300, but was 1e\+09 ± 2.01 in the training set"):
        scaling.apply(torch.tensor([[1e300]], dtype=torch.float64))


def test_answers_are_as_precise_as_what_was_passed():
    fitted = forecasts()
    xs = torch.randn(5, 2)
    assert fitted.predict_all([xs])[0].dtype == torch.float32
    fitted.targets = Scaling(("a",), torch.tensor([1e9]).double(), torch.tensor([2.0]).double())
    (ys,) = fitted.predict_all([xs.double()])
    assert ys.dtype == torch.float64
    assert (ys - 1e9).abs().max() < 20
    assert len(set(ys.flatten().tolist())) == ys.numel()


def test_an_answer_that_is_no_number_is_refused(path):
    fitted = forecasts()
    with torch.no_grad():
        fitted.model.cell.head.bias[0] = torch.nan
    with pytest.raises(DataError, match="sequence 0, step 1: the network's output is not a finite number"):
        fitted.predict_all([torch.randn(5, 2)])


FORGED = {
    "horizon": "3",
    "window": -1,
    "predict": "never",
    "labels": [3],
    "inputs": {"names": ["a", "b"], "means": [0.0, 0.0], "deviations": [1.0, 0.0]},
    "targets": {"names": ["a"], "means": [float("nan")], "deviations": [1.0]},
}


@pytest.mark.parametrize("name", FORGED)
def test_a_file_whose_meaning_is_forged_is_refused(path, name):
    fitted = forecasts()
    fitted.save(path)
    values = model_file.read_notes(path)["fitted"] | {name: FORGED[name]}
    model_file.save(path, fitted.model, {"fitted": values})
    with pytest.raises(ModelFileError, match="is damaged: its description of inputs and outputs does not fit"):
        Fitted.load(path)
