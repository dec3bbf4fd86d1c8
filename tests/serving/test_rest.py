"""The protocol over HTTP: JSON and bytes, what a server says of itself, and requests that are none."""

import asyncio
import gzip
import json
import re
import signal
import subprocess
import sys
import zlib

import httpx
import numpy as np
import pytest
import torch

import treadle as td
from tests.serving.clients import OVER, Options, refused, served
from treadle.serving.bodies import decompressed
from treadle.serving.refusals import Refused

torch.manual_seed(0)
RNN = td.Recurrent(td.LSTMCell(3, 5))
X = np.random.default_rng(0).standard_normal((2, 4, 3)).astype(np.float32)
TENSOR = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2.5, 3]}


def whole(x):
    with torch.no_grad():
        return RNN(torch.from_numpy(x))[0].numpy()


async def post_bytes(client, said, *tensors, length=None):
    head = json.dumps(said).encode()
    length = len(head) if length is None else length
    headers = {"Inference-Header-Content-Length": str(length)}
    return await client.http.post("/v2/models/m/infer", content=b"".join([head, *tensors]), headers=headers)


def test_tensors_as_bytes_both_ways():
    async def work(client, plane):
        tensor = {"name": "x", "shape": [2, 4, 3], "datatype": "FP32", "parameters": {"binary_data_size": X.nbytes}}
        for said in (
            {"parameters": {"binary_data_output": True}},
            {"outputs": [{"name": "y", "parameters": {"binary_data": True}}]},
        ):
            response = await post_bytes(client, {"id": "17", "inputs": [tensor], **said}, X.tobytes())
            assert response.status_code == 200, response.text
            size = int(response.headers["inference-header-content-length"])
            head = json.loads(response.content[:size])
            assert head["id"] == "17"
            assert head["outputs"][0]["parameters"]["binary_data_size"] == len(response.content) - size
            ys = np.frombuffer(response.content[size:], np.float32).reshape(head["outputs"][0]["shape"])
            assert np.allclose(ys, whole(X), atol=1e-6)
        plain = await post_bytes(client, {"inputs": [tensor]}, X.tobytes())
        assert np.array_equal(np.array(plain.json()["outputs"][0]["data"], np.float32), ys.reshape(-1))

    served({"m": RNN}, work)


def test_datatypes_and_nested_lists_are_converted():
    async def work(client, plane):
        found = []
        for datatype, data in (
            ("FP64", [1, 2, 3]),
            ("INT8", [[1, 2, 3]]),
            ("FP16", [[1.0, 2, 3]]),
            ("UINT64", [1, 2, 3]),
        ):
            tensor = TENSOR | {"datatype": datatype, "data": data}
            found.append((await client.http.post("/v2/models/m/infer", json={"inputs": [tensor]})).json()["outputs"])
        assert all(one == found[0] for one in found)

    served({"m": RNN}, work)


BROKEN = {
    "no JSON": (b"{", "JSON"),
    "nested without end": (b"[" * 100_000, "JSON"),
    "a list": (b"[]", "object"),
    "no inputs": ({}, "inputs"),
    "inputs of numbers": ({"inputs": [1]}, "inputs"),
    "no name": ({"inputs": [TENSOR | {"name": 1}]}, "name"),
    "another name": ({"inputs": [TENSOR | {"name": "z"}]}, "x FP32 [B, 3]"),
    "twice": ({"inputs": [TENSOR, TENSOR]}, "same name"),
    "no shape": ({"inputs": [TENSOR | {"shape": "1,3"}]}, "shape"),
    "another shape": ({"inputs": [TENSOR | {"shape": [3]}]}, "x FP32 [B, 3]"),
    "negative shape": ({"inputs": [TENSOR | {"shape": [-1, -3]}]}, "1 or more"),
    "huge shape": ({"inputs": [TENSOR | {"shape": [2**40, 2**40]}]}, "more numbers"),
    "true as a size": ({"inputs": [TENSOR | {"shape": [True, 3]}]}, "whole numbers"),
    "no such datatype": ({"inputs": [TENSOR | {"datatype": "FP7"}]}, "FP32"),
    "texts": ({"inputs": [TENSOR | {"datatype": "BYTES", "data": ["a", "b", "c"]}]}, "BYTES"),
    "texts as numbers": ({"inputs": [TENSOR | {"data": ["1", "2", "3"]}]}, "numbers"),
    "booleans": ({"inputs": [TENSOR | {"data": [True, False, True]}]}, "numbers"),
    "a boolean among numbers": ({"inputs": [TENSOR | {"data": [[1, 2, True]]}]}, "numbers"),
    "nothing": ({"inputs": [TENSOR | {"data": [None, None, None]}]}, "numbers"),
    "ragged": ({"inputs": [TENSOR | {"data": [[1], [2, 3]]}]}, "lengths"),
    "too few": ({"inputs": [TENSOR | {"data": [1, 2]}]}, "shape"),
    "no data": ({"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32"}]}, "list"),
    "does not fit UINT8": ({"inputs": [TENSOR | {"datatype": "UINT8", "data": [1, 2, 256]}]}, "UINT8"),
    "a huge number": ({"inputs": [TENSOR | {"data": [1, 2, 10**400]}]}, "numbers"),
    "NaN": (b'{"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, NaN]}]}', "not finite"),
    "other output": ({"inputs": [TENSOR], "outputs": [{"name": "z"}]}, "output"),
    "classification": (
        {"inputs": [TENSOR], "outputs": [{"name": "y", "parameters": {"classification": 3}}]},
        "classification",
    ),
    "start without id": ({"inputs": [TENSOR], "parameters": {"sequence_start": True}}, "sequence_id"),
    "id as a list": ({"inputs": [TENSOR], "parameters": {"sequence_id": [1]}}, "sequence_id"),
    "id below zero": ({"inputs": [TENSOR], "parameters": {"sequence_id": -1}}, "sequence_id"),
    "id without end": ({"inputs": [TENSOR], "parameters": {"sequence_id": "a" * 300}}, "sequence_id"),
    "start as a text": (
        {"inputs": [TENSOR], "parameters": {"sequence_id": 1, "sequence_start": "yes"}},
        "sequence_start",
    ),
    "step as a text": ({"inputs": [TENSOR], "parameters": {"sequence_id": 1, "step": "1"}}, "step"),
    "two rows of a sequence": (
        {"inputs": [TENSOR | {"shape": [2, 3], "data": [1] * 6}], "parameters": {"sequence_id": 1}},
        "2 rows",
    ),
    "parameters as a list": ({"inputs": [TENSOR], "parameters": []}, "parameters"),
    "bytes that are not there": (
        {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": 12}}]},
        "binary_data_size",
    ),
}


def test_requests_that_are_none_are_refused_with_a_reason():
    async def work(client, plane):
        for name, (body, words) in BROKEN.items():
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            response = await client.http.post("/v2/models/m/infer", content=content)
            assert response.status_code in (400, 413), (name, response.text)
            assert words in response.json()["error"], (name, response.text)
            assert len(response.content) < 600, name
        assert plane.model("m").latest.counts.steps == 0
        assert not plane.model("m").sequences

    served({"m": RNN}, work)


def test_bytes_that_do_not_fit_are_refused():
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": 12}}

    async def work(client, plane):
        good = {"inputs": [tensor]}
        for said, content, length in (
            (good, b"", None),
            (good, b"1" * 11, None),
            (good, b"1" * 13, None),
            (good, b"1" * 12, 10**9),
            (good, b"1" * 12, "-1"),
            (good, b"1" * 12, "abc"),
            ({"inputs": [tensor | {"shape": [1, 4]}]}, b"1" * 12, None),
            ({"inputs": [tensor | {"data": [1, 2, 3]}]}, b"1" * 12, None),
        ):
            response = await post_bytes(client, said, content, length=length)
            assert response.status_code == 400, response.text

    served({"m": RNN}, work)


def test_too_large_too_compressed_or_elsewhere():
    async def work(client, plane):
        with refused(413, "1000 bytes") as found:
            found(await client.http.post("/v2/models/m/infer", content=b" " * 1001))

        async def parts():
            for _ in range(100):
                yield b" " * 100

        with refused(413, "1000 bytes") as found:
            found(await client.http.post("/v2/models/m/infer", content=parts()))
        with refused(415, "br") as found:
            found(await client.http.post("/v2/models/m/infer", content=b"", headers={"Content-Encoding": "br"}))
        for method, path, status in (
            ("POST", "/v2/models/n/infer", 404),
            ("POST", "/v2/models/m/versions/2/infer", 404),
            ("GET", "/v2/models/m/infer", 405),
            ("GET", "/v2/models/n", 404),
            ("GET", "/nothing", 404),
            ("DELETE", "/v2/models/m/sequences/a", 404),
        ):
            with refused(status) as found:
                found(await client.http.request(method, path, json={"inputs": [TENSOR]}))

    served({"m": RNN}, work, Options(request_bytes=1000))


def test_compressed_requests_are_read_as_far_as_the_limit_on_bytes_goes():
    said = {"inputs": [TENSOR], "parameters": {"binary_data_output": False}}
    content = json.dumps(said).encode()

    async def work(client, plane):
        async def post(content, coding):
            return await client.http.post("/v2/models/m/infer", content=content, headers={"Content-Encoding": coding})

        plain = await post(content, "identity")
        assert plain.status_code == 200
        halves = gzip.compress(content[:9]) + gzip.compress(content[9:])
        for coding, packed in (("gzip", gzip.compress(content)), ("GZip", halves), ("deflate", zlib.compress(content))):
            found = await post(packed, coding)
            assert found.json()["outputs"] == plain.json()["outputs"]
        bomb = gzip.compress(bytes(10_000_000), 9)[:900]
        for packed, status, words in (
            (bomb, 413, "1000 bytes"),
            (gzip.compress(content)[:-1], 400, "breaks off"),
            (content, 400, "cannot be decompressed"),
            (gzip.compress(content) + b"more", 400, "cannot be decompressed"),
        ):
            with refused(status, words) as found:
                found(await post(packed, "gzip"))

    served({"m": RNN}, work, Options(request_bytes=1000))


def test_of_gzip_some_members_are_read_however_they_lie_in_its_pieces():
    noise = np.random.default_rng(0).bytes(150_000)  # more than a piece, packed
    for members in ([noise, b"", noise], [b"ab"] * 1000):
        content = b"".join(members)
        assert decompressed(b"".join(map(gzip.compress, members)), len(content)) == content
    with pytest.raises(Refused, match="more than 1,000 members of gzip: compress it as a whole"):
        decompressed(gzip.compress(b"") * 1001, 10)


def test_what_a_server_says_of_itself():
    async def work(client, plane):
        async def get(path):
            response = await client.http.get(path)
            assert response.status_code == 200, response.text
            return response.json()

        assert (await get("/v2"))["name"] == "treadle"
        assert await get("/v2/health/live") == {"live": True}
        assert await get("/v2/health/ready") == {"ready": True}
        about = await get("/v2/models/m")
        assert about == await get("/v2/models/m/versions/1")
        assert about["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
        assert about["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 5]}]
        assert (await get("/v2/models/m/config"))["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [3]}]
        assert (await get("/v2/models/m/ready"))["ready"]
        await client.step("m", X[0, 0], id="a/b", start=True)
        assert (await get("/v2/models/m/sequences/a%2Fb"))["step"] == 1
        (stats,) = (await get("/v2/models/m/stats"))["model_stats"]
        assert (stats["inference_count"], stats["execution_count"]) == (1, 1)
        assert stats["sequences"] == {"active": 1, "begun": 1, "ended": {}, "queued": 0}
        assert (await get("/v2/models/stats"))["model_stats"][0]["name"] == "m"
        plane.ending = True
        assert (await client.http.get("/v2/health/ready")).status_code == 503
        with refused(503, "about to end") as found:
            found(await client.post("m", X[0, :1], id=1, start=True))
        plane.ending = False

    served({"m": RNN}, work)


def test_the_command_serves_and_ends(tmp_path):
    td.save(tmp_path / "heat.safetensors", RNN)
    command = [sys.executable, "-m", "treadle", "serve", tmp_path / "heat.safetensors", "--http", "127.0.0.1:0"]
    command += ["--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--log", "json"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = re.search(r"http://\S+", server.stdout.readline())
        assert address is not None
        assert "grpc: " in server.stdout.readline()
        metrics = re.search(r"http://\S+", server.stdout.readline())
        assert metrics is not None
        with httpx.Client(base_url=address[0]) as client:
            body = {"inputs": [TENSOR], "parameters": {"sequence_id": 1, "sequence_start": True}}
            response = client.post("/v2/models/heat/infer", json=body)
            expected = RNN.session().step(np.array(TENSOR["data"], np.float32))
            assert np.array_equal(np.array(response.json()["outputs"][0]["data"], np.float32), expected)
        text = httpx.get(metrics[0]).text
        assert 'treadle_steps_total{model="heat",version="1"} 1.0' in text
        assert 'treadle_rows_per_call_bucket{le="1.0",model="heat",version="1"} 1.0' in text
        server.send_signal(signal.SIGTERM)
        _, errors = server.communicate(timeout=60)
        assert all(json.loads(line)["message"] for line in errors.splitlines())
        assert server.returncode == 0, errors
        assert "Traceback" not in errors
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--http", "0.0.0.0:0"], "--token-file"),
        (["--http", "nowhere"], "127.0.0.1:8000"),
        (["--on-reload", "never"], "finish"),
        (["--tls-key", "key.pem"], "--tls-certificate"),
        (["--keep", "http://somewhere"], "redis://"),
        (["--metrics", "0.0.0.0:0"], "--token-file"),
        (["--log", "loud"], "json"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(tmp_path, capsys, options, words):
    from treadle.cli import main

    td.save(tmp_path / "heat.safetensors", RNN)
    with pytest.raises(SystemExit) as ended:
        main(["serve", str(tmp_path / "heat.safetensors"), *options])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1


def test_networks_that_cannot_be_served_are_refused():
    for model, words in (
        (td.LSTMCell(3, 5), "a treadle.Recurrent"),
        (td.Recurrent(td.LSTMCell(3, 5)).to(torch.bfloat16), "float32 or float64"),
    ):
        with pytest.raises(td.errors.ModelFileError, match=words):
            td.serving.application({"m": model})


def test_a_float64_network_answers_in_float64():
    rnn = td.Recurrent(td.GRUCell(3, 5)).double()

    async def work(client, plane):
        response = await client.post("m", X[:1].astype(float), datatype="FP64")
        assert response.json()["outputs"][0]["datatype"] == "FP64"
        return np.array(response.json()["outputs"][0]["data"]).reshape(4, 5)

    with torch.no_grad():
        expected = rnn(torch.from_numpy(X[:1]).double())[0][0].numpy()
    assert np.allclose(served({"m": rnn}, work), expected, atol=1e-12)


def test_a_new_version_of_a_file_is_served_beside_the_old_one(tmp_path):
    path, xs = tmp_path / "m.safetensors", X[0]
    others = td.Recurrent(td.LSTMCell(3, 5))

    def alone(rnn, steps):
        session = rnn.session()
        return [np.array(session.step(x)) for x in steps][-1]

    async def begin(client, plane):
        await client.step("m", xs[0], id="a", start=True)
        td.save(path, others)
        await plane.reload()

    async def finish(client, plane):
        old = plane.model("m").latest
        await begin(client, plane)
        assert np.array_equal(await client.step("m", xs[1], id="a"), alone(RNN, xs[:2]))
        assert np.array_equal(await client.step("m", xs[0], id="b", start=True), alone(others, xs[:1]))
        assert list(plane.model("m").versions) == ["1", "2"]
        await client.step("m", xs[0], id="a", end=True)
        plane.model("m").expire(0)
        assert list(plane.model("m").versions) == ["2"]
        assert old.sessions._pool is None  # its memory is given back
        path.write_bytes(b"no model")
        await plane.reload()
        assert plane.model("m").latest.number == "2"

    async def reset(client, plane):
        await begin(client, plane)
        await asyncio.sleep(0)
        response = await client.post("m", xs[1:2], id="a")
        assert response.json()["parameters"] == {"sequence_id": "a", "step": 1, "sequence_reset": True}
        assert np.array_equal(await client.step("m", xs[2], id="a"), alone(others, xs[1:3]))

    async def refuse(client, plane):
        await begin(client, plane)
        with refused(OVER, "replaced") as found:
            found(await client.post("m", xs[1:2], id="a"))
        await client.step("m", xs[0], id="a", start=True)

    for on_reload, work in {"finish": finish, "reset": reset, "refuse": refuse}.items():
        td.save(path, RNN)
        served({"m": path}, work, Options(on_reload=on_reload))


def test_the_openapi_document_speaks_of_each_model():
    async def work(client, plane):
        found = (await client.http.get("/openapi.json")).json()
        for path, operations in found["paths"].items():
            for method in set(operations) & {"get", "post", "put", "delete"}:
                address = path.format(sequence="nobody", version="1")
                status = (await client.http.request(method, address, json={"inputs": [TENSOR]})).status_code
                assert str(status) in operations[method]["responses"], (method, path, status)
        sent = found["paths"]["/v2/models/m/infer"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert sent["oneOf"][0]["properties"]["inputs"]["items"]["properties"]["shape"] == {"const": [1, 3]}

    served({"m": RNN}, work)


def test_what_json_may_write_in_two_ways_is_one():
    async def work(client, plane):
        body = {
            "inputs": [TENSOR],
            "outputs": [],
            "parameters": {"sequence_id": 7.0, "sequence_start": True, "step": 0.0},
        }
        response = await client.http.post("/v2/models/m/infer", json=body)
        assert response.json()["parameters"] == {"sequence_id": 7, "step": 1}
        for wrong in ({"step": None}, {"step": 0.5}, {"timeout": "1"}, {"sequence_id": None}):
            body["parameters"] = {"sequence_id": 7} | wrong
            with refused(400) as found:
                found(await client.http.post("/v2/models/m/infer", json=body))

    served({"m": RNN}, work)
