"""Files of Keras that are no such files, or mean harm: refused in one line, and nothing in them is run."""

import contextlib
import copy
import io
import json
import os
import zipfile

import numpy as np
import pytest

import treadle as td
from treadle.errors import DataError, InteropError, ModelFileError

h5py = pytest.importorskip("h5py", reason="h5py is not installed: pip install h5py")
pytest.importorskip("pyfive", reason="pyfive is not installed: pip install pyfive")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def dense(name="dense", **config):
    return {"class_name": "Dense", "config": {"name": name, "units": 2, "batch_input_shape": [None, 3]} | config}


def sequential(*layers):
    return {"class_name": "Sequential", "config": {"name": "model", "layers": list(layers)}}


def h5(model=None, kernel=None, change=lambda file, layer: None):
    """A model of one layer, and what was done to the file."""
    with h5py.File("model.h5", "w") as file:
        model = sequential(dense()) if model is None else model
        file.attrs["model_config"] = model if isinstance(model, str | bytes) else json.dumps(model)
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [b"dense"]
        group.attrs["keras_version"] = b"2.4.0"
        layer = group.create_group("dense")
        layer.attrs["weight_names"] = [b"kernel", b"bias"]
        layer["bias"] = np.zeros(2, "f")
        if kernel is None:
            layer["kernel"] = np.ones((3, 2), "f")
        else:
            kernel(layer)
        change(file, layer)
    return "model.h5"


def archive(members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile("model.keras", "w", compression) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return "model.keras"


def whole(**changed):
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file["layers/dense/vars/0"], file["layers/dense/vars/1"] = np.ones((3, 2), "f"), np.zeros(2, "f")
    members = {"config.json": json.dumps(sequential(dense())), "metadata.json": '{"keras_version": "3.9.0"}'}
    return members | {"model.weights.h5": content.getvalue()} | changed


def test_what_is_right_is_read():
    for path in (h5(), archive(whole())):
        assert td.interop.from_keras(path).report.difference < 1e-6


def external(layer):
    with open("numbers.bin", "wb") as file:
        file.write(bytes(24))
    layer.create_dataset("kernel", (3, 2), "f", external=[("numbers.bin", 0, 24)])


def virtual(layer):
    with h5py.File("other.h5", "w") as file:
        file["x"] = np.ones((3, 2), "f")
    layout = h5py.VirtualLayout((3, 2), "f")
    layout[:] = h5py.VirtualSource("other.h5", "x", (3, 2))
    layer.create_virtual_dataset("kernel", layout)


def linked(layer):
    with h5py.File("other.h5", "w") as file:
        file["x"] = np.ones((3, 2), "f")
    layer["kernel"] = h5py.ExternalLink("other.h5", "/x")


def circular(layer):
    layer["kernel"] = h5py.SoftLink("/model_weights/dense/kernel")


def huge(layer):
    layer.create_dataset("kernel", (3, 2**40), "f", chunks=(3, 1024))


def packed(layer):
    layer.create_dataset("kernel", (3000, 10**6), "f", chunks=(1, 10**6), compression="gzip")


def foreign_filter(layer):
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((3, 2))
    plan.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
    space = h5py.h5s.create_simple((3, 2))
    h5py.h5d.create(layer.id, b"kernel", h5py.h5t.NATIVE_FLOAT, space, plan)


def texts(layer):
    layer.create_dataset("kernel", data=[b"code"])


def group(layer):
    layer.create_group("kernel")


def test_layers_of_one_class_are_numbered_in_their_order():
    """Keras 2.12 has dense and dense_2 in a folder of another name; later ones dense and dense_1."""
    model = sequential(dense("first", units=3), dense("second"))
    for folder, names in (("_layer_checkpoint_dependencies", ("dense", "dense_2")), ("layers", ("dense", "dense_1"))):
        content = io.BytesIO()
        with h5py.File(content, "w") as file:
            for n, name in enumerate(names):
                file[f"{folder}/{name}/vars/0"] = np.full((3, 3 - n), n + 1, "f")
                file[f"{folder}/{name}/vars/1"] = np.zeros(3 - n, "f")
                file[f"{folder}/{name}/vars"].attrs["name"] = ("first", "second")[n]
        members = {"config.json": json.dumps(model), "model.weights.h5": content.getvalue()}
        network = td.interop.from_keras(archive(whole(**members)))
        assert network(np.ones((1, 3), "f")).tolist() == [[18, 18]]
        members["config.json"] = json.dumps(sequential(dense("second", units=3), dense("first")))
        with pytest.raises(InteropError, match="holds the weights of 'first' where those of 'second' should be"):
            td.interop.from_keras(archive(whole(**members)))


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (external, "'kernel' keeps its numbers in another file"),
        (virtual, "'kernel' keeps its numbers in another file"),
        (
            linked,
            "'kernel' is damaged, or leads elsewhere|'weight_names' is damaged, or leads|'dense' is damaged, or leads",
        ),
        (circular, "there is no array 'kernel'|'kernel' is damaged, or leads elsewhere"),
        (huge, "'kernel' would be far larger than the file"),
        (packed, "'kernel' is compressed, which is not read"),
        (foreign_filter, "'kernel' is compressed, which is not read"),
        (texts, "'kernel' holds .*, but weights are numbers"),
        (group, "there is no array 'kernel'"),
        (lambda layer: None, "there is no array 'kernel'"),
    ],
)
def test_arrays_are_in_the_file_and_of_its_size(kernel, message):
    with pytest.raises(ModelFileError, match=f"model.h5: {message}"):
        td.interop.from_keras(h5(kernel=kernel))


def references(file, layer):
    layer.attrs["weight_names"] = np.array([file.ref], h5py.ref_dtype)


def test_attributes_are_texts():
    with pytest.raises(ModelFileError, match="the attribute 'weight_names' is no text"):
        td.interop.from_keras(h5(change=references))

    def circle(file, layer):
        del file["model_weights/dense"]
        file["model_weights/dense"] = file["model_weights"]

    with pytest.raises((ModelFileError, InteropError)):
        td.interop.from_keras(h5(change=circle))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (lambda: h5("{"), "holds no description of a model"),
        (lambda: h5("[" * 100_000), "holds no description of a model"),
        (lambda: h5("3"), "holds no description of a model"),
        (lambda: archive({"a": "b"}), "is no file of Keras: it holds no config.json"),
        (lambda: archive(whole(**{"metadata.json": "x"})), "holds no description"),
        (lambda: archive(whole(**{"model.weights.h5": b"x"})), "is no HDF5 file"),
        (lambda: archive(whole(**{"model.weights.h5": bytes(9 * 10**7)}), zipfile.ZIP_DEFLATED), "far larger than"),
        (lambda: archive(whole(**{"config.json": b"[" * 7 * 10**7}), zipfile.ZIP_DEFLATED), "far larger than the file"),
    ],
)  # fmt: skip
def test_what_is_no_file_of_keras_is_refused(path, message):
    with pytest.raises(ModelFileError, match=message):
        td.interop.from_keras(path())


def test_truncated_and_damaged_files_are_refused():
    random = np.random.default_rng(0)
    for path in (h5(), archive(whole())):
        with open(path, "rb") as file:
            content = file.read()
        for n in range(60):
            broken = bytearray(content)
            if n % 2:
                broken = broken[: random.integers(1, len(content))]
            else:
                for place in random.integers(0, len(content), 20):
                    broken[place] = random.integers(256)
            with open("broken" + os.path.splitext(path)[1], "wb") as file:
                file.write(broken)
            with contextlib.suppress(ModelFileError, InteropError):
                td.interop.from_keras(file.name)


def functional(*layers, outputs=(("b", 0, 0),)):
    listed = [layer | {"name": layer["config"]["name"], "inbound_nodes": [nodes]} for layer, nodes in layers]
    listed.insert(0, {"class_name": "InputLayer", "name": "x", "inbound_nodes": [],
                      "config": {"name": "x", "batch_input_shape": [None, 3]}})  # fmt: skip
    return {
        "class_name": "Functional",
        "config": {"layers": listed, "input_layers": [["x", 0, 0]], "output_layers": outputs},
    }


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"class_name": "Mine", "config": {}}, "the model is of the class 'Mine'"),
        ({"class_name": "Sequential"}, "does not hold together .KeyError"),
        (sequential(), "the model has no layers"),
        (sequential(*[dense(str(n)) for n in range(10_001)]), "the model has 10001 layers, more than 10000"),
        (sequential(dense(), dense()), "two layers of the model have one name"),
        (sequential({"class_name": "Lambda", "config": {"name": "dense", "function": ["4wEA", None, None]}}),
         "layer 'dense' .Lambda.: it holds Python code, which a file must not"),
        (sequential(dense() | {"module": "os"}), "layer 'dense' .os>Dense.: there is no such layer here"),
        (sequential(dense() | {"registered_name": "me>Dense"}), "layer 'dense' .me>Dense.: there is no such layer"),
        (sequential(dense(units=10**30)), "units=1000.* is no number of features"),
        (sequential(dense(units=2**31 - 1)), r"kernel is \[3, 2\] in the file"),
        (functional((dense("b"), [["c", 0, 0]])), "the model reads 'c', which no layer gives"),
        (functional((dense("b"), [["c", 0, 0]]), (dense("c"), [["b", 0, 0]])), "layer '[bc]' reads its own output"),
        (functional((dense("b"), [["x", 0, 0, {"power": 3}]])), "is called with power, which cannot be read"),
        (functional(outputs=3), "does not hold together"),
    ],
)  # fmt: skip
def test_models_that_cannot_be_are_refused_by_name(model, message):
    with pytest.raises(InteropError, match=message) as caught:
        td.interop.from_keras(h5(model))
    assert len(str(caught.value).splitlines()) == 1


def test_objects_that_only_training_uses_are_not_made():
    """Keras would look them up, and has run what it found; here nobody does, Keras included."""
    evil = {"module": "os", "class_name": "system", "config": {"command": "touch harmed"}, "registered_name": "system"}
    members = whole(**{"config.json": json.dumps(sequential(dense(kernel_initializer=evil)))})
    report = td.interop.from_keras(archive(members)).report
    assert report.compared.endswith("equations in float64")
    assert not os.path.exists("harmed")


def test_only_regular_files_are_read():
    os.mkfifo("pipe.keras")
    with pytest.raises(DataError, match="is a pipe or a device"):
        td.interop.from_keras("pipe.keras")
    with pytest.raises(IsADirectoryError):
        td.interop.from_keras(".")
    with pytest.raises(FileNotFoundError):
        td.interop.from_keras("nothing.keras")


def test_a_model_that_would_be_too_large_to_try_says_so():
    model = sequential(dense(batch_input_shape=[10**9, 3]))
    with pytest.raises(InteropError, match="is too much to try it: pass inputs="):
        td.interop.from_keras(h5(copy.deepcopy(model)))
    assert td.interop.from_keras(h5(model), inputs=[np.ones((2, 3), "f")]).report.difference < 1e-6
