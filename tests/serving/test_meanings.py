"""Networks of treadle fit take what they were trained on: bytes, columns in their own units."""

import numpy as np
import pytest
import torch

import treadle as td
from tests.serving.clients import numbers, refused, served
from treadle.serving.served import read_network
from treadle.streams import Vocabulary
from treadle.training import Fitted, WordModel, language_model, sequence_model, word_model
from treadle.training.scaling import Scaling

XS = 20 + 3 * torch.randn(6, 2, dtype=torch.float64)
SCALING = Scaling.fit(["heat", "wind"], [XS])


def save(path, labels=(), **options):
    torch.manual_seed(1)
    outputs = len(labels) or max(options.get("horizon") or 1, 1)
    model = sequence_model(2, outputs, hidden_size=4)
    targets = None if labels else Scaling.fit(["load"], [100 * torch.rand(9, 1)])
    Fitted(model, SCALING, targets, tuple(labels), **options).save(path)
    return Fitted.load(path)


def test_a_language_model_reads_bytes_and_texts():
    rnn = language_model("gru", hidden_size=8)
    text = b"def f"
    with torch.no_grad():
        expected = rnn(torch.tensor([list(text)]))[0][0].numpy()

    async def work(client, plane):
        meaning = plane.model("m").latest.meaning
        assert meaning.inputs[0].described() == {"name": "bytes", "datatype": "UINT8", "shape": [-1]}
        as_bytes = [
            await client.step("m", b, name="bytes", datatype="UINT8", id=1, start=not t) for t, b in enumerate(text)
        ]
        tensor = {"name": "bytes", "shape": [1], "datatype": "BYTES", "data": [text.decode()]}
        as_text = numbers(await client.http.post("/v2/models/m/infer", json={"inputs": [tensor]}))[0]
        assert np.array_equal(as_text, as_bytes)
        tensor |= {"shape": [2], "data": ["ab", "c"]}
        with refused(400, "different lengths") as found:
            found(await client.http.post("/v2/models/m/infer", json={"inputs": [tensor]}))
        with refused(400, "0 to 255") as found:
            found(await client.post("m", [256], name="bytes", datatype="INT64"))
        return as_text

    assert np.allclose(served({"m": rnn}, work), expected, atol=1e-5)


def test_a_language_model_of_256_words_does_not_read_bytes(tmp_path):
    vocabulary = Vocabulary.of([" ".join(f"w{n}" for n in range(255))], "words", size=256)
    WordModel(word_model(256, "gru", hidden_size=4), vocabulary).save(tmp_path / "m")
    network = read_network(tmp_path / "m", "m")
    assert network.meaning.inputs[0].described() == {"name": "x", "datatype": "INT64", "shape": [-1]}


@pytest.mark.share(2)
@pytest.mark.parametrize("horizon", [None, 0, 3])
def test_columns_are_read_and_predicted_in_their_own_units(tmp_path, horizon):
    fitted = save(tmp_path / "m", horizon=horizon, predict="every")
    expected = np.asarray(fitted.predict_all([XS])[0])

    async def work(client, plane):
        said = plane.model("m").latest.meaning
        assert said.inputs[0].described()["parameters"] == {"columns": ["heat", "wind"]}
        live = [await client.step("m", x, datatype="FP64", id=1, start=not t) for t, x in enumerate(XS.numpy())]
        columns = [
            {"name": name, "shape": [1, 6], "datatype": "FP64", "data": XS[:, place].tolist()}
            for place, name in enumerate(["heat", "wind"])
        ]
        block = numbers(await client.http.post("/v2/models/m/infer", json={"inputs": columns}))[0]
        assert np.array_equal(block, live)
        with refused(400, "heat, wind") as found:
            found(await client.http.post("/v2/models/m/infer", json={"inputs": columns[:1]}))
        return block

    found = served({"m": tmp_path / "m"}, work)
    assert found.shape == expected.shape
    assert np.allclose(found, expected, rtol=1e-4)


def test_a_classifier_says_labels_and_scores(tmp_path):
    fitted = save(tmp_path / "m", labels=("day", "night", "dusk"), predict="every")
    expected = fitted.predict_all([XS])[0]

    async def work(client, plane):
        response = await client.post("m", XS.numpy()[None], datatype="FP64")
        assert numbers(response, 0).tolist() == [expected]
        assert numbers(response, 1).shape == (1, 6, 3)

    served({"m": tmp_path / "m"}, work)


def test_a_network_that_forecasts_from_a_window_reads_it_whole(tmp_path):
    fitted = save(tmp_path / "m", horizon=2, predict="last", window=4)
    expected = np.asarray(fitted.predict_all([XS])[0])[-1]

    async def work(client, plane):
        with refused(400, "last 4 steps", "one block") as found:
            found(await client.post("m", XS.numpy()[:1], datatype="FP64", id=1, start=True))
        with refused(400, "4 for a forecast") as found:
            found(await client.post("m", XS.numpy()[None], datatype="FP64"))
        return numbers(await client.post("m", XS.numpy()[None, -4:], datatype="FP64"))[0]

    assert np.allclose(served({"m": tmp_path / "m"}, work), expected, rtol=1e-4)


def test_values_that_float32_cannot_hold_are_refused(tmp_path):
    save(tmp_path / "m", predict="every")

    async def work(client, plane):
        for value in (1e300, float("inf")):
            x = np.array([[value, 1.0]])
            tensor = {"name": "x", "shape": [1, 2], "datatype": "FP64", "data": x.reshape(-1).tolist()}
            import json

            response = await client.http.post("/v2/models/m/infer", content=json.dumps({"inputs": [tensor]}))
            with refused(400, "not finite") as found:
                found(response)

    served({"m": tmp_path / "m"}, work)


def test_models_are_named(tmp_path):
    rnn = td.Recurrent(td.GRUCell(2, 3))

    async def work(client, plane):
        assert (await client.http.get("/v2/models/b")).json()["name"] == "b"
        return await client.step("a", [1, 2], id=1, start=True), await client.step("b", [1, 2], id=1, start=True)

    first, second = served({"a": rnn, "b": rnn}, work)
    assert np.array_equal(first, second)
