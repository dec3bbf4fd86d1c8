"""What is kept of sequences survives the end of the server: no acknowledged step is lost or doubled."""

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest
import torch

import treadle as td
from tests.serving.clients import OVER, Options, refused, served
from treadle.errors import TreadleError
from treadle.serving.stores import FolderStore, Write, open_store

torch.manual_seed(0)
RNN = td.Recurrent(td.Stack([td.LSTMCell(3, 5), td.GRUCell(5, 7)]))
OTHER = td.Recurrent(td.Stack([td.LSTMCell(3, 5), td.GRUCell(5, 7)]))
XS = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)


def alone(xs, rnn=RNN):
    session = rnn.session()
    return np.stack([np.array(session.step(x)) for x in xs])


@pytest.fixture(scope="module")
def redis_address(tmp_path_factory):
    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server: apt-get install redis-server")
    pytest.importorskip("redis", reason="no redis package")
    place = tmp_path_factory.mktemp("redis") / "socket"
    command = ["redis-server", "--port", "0", "--unixsocket", place, "--save", "", "--dir", place.parent]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not place.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    yield f"unix://{place}"
    server.terminate()
    server.wait()


@pytest.fixture(params=["folder", "redis"])
def place(request, tmp_path):
    return str(tmp_path / "kept") if request.param == "folder" else request.getfixturevalue("redis_address")


def abandoned(models, work, options, keep):
    """As `served`, but the server ends as if it was killed: nothing is flushed."""

    async def and_die(client, plane):
        found = await work(client, plane)
        for model in plane.models.values():
            for live in model.versions.values():
                live.living.clear()
        return found

    return served(models, and_die, options, keep=keep)


def test_after_a_kill_every_acknowledged_step_is_there_once(place):
    expected, name = alone(XS[:6]), f"a/{place[-9:]}"

    async def first(client, plane):
        return [await client.step("m", x, id=name, start=t == 0, step=t) for t, x in enumerate(XS[:3])]

    async def second(client, plane):
        again = await client.step("m", XS[2], id=name, step=2)  # it may not have heard of it
        plane.model("m").expire(plane._loop.time() + 1)
        return [again, *[await client.step("m", XS[t], id=name, step=t, end=t == 5) for t in (3, 4, 5)]]

    async def third(client, plane):
        again = await client.step("m", XS[5], id=name, step=5, end=True)
        with refused(OVER, "has ended") as found:
            found(await client.post("m", XS[:1], id=name))
        assert plane.model("m").latest.counts.steps == 0
        return [again]

    found = abandoned({"m": RNN}, first, Options(), place)
    found += abandoned({"m": RNN}, second, Options(), place)[1:]
    assert np.array_equal(found, expected)
    assert np.array_equal(abandoned({"m": RNN}, third, Options(), place), expected[5:])


def test_a_start_that_was_heard_is_not_taken_twice(tmp_path):
    async def first(client, plane):
        return [await client.step("m", x, id=1, start=t == 0, step=t) for t, x in enumerate(XS[:1])]

    async def second(client, plane):
        again = await client.step("m", XS[0], id=1, start=True, step=0)
        assert plane.model("m").latest.counts.steps == 0
        with refused(409, "at step 1") as found:
            found(await client.post("m", XS[5:6], id=1, step=2))
        await client.step("m", XS[3], id=1, start=True)  # without a step, it begins again
        assert np.array_equal(await client.step("m", XS[4], id=1), alone(XS[3:5])[1])
        return [again]

    kept = str(tmp_path / "kept")
    assert np.array_equal(abandoned({"m": RNN}, first, Options(), kept), abandoned({"m": RNN}, second, Options(), kept))


def test_states_that_are_not_due_are_kept_when_the_server_ends(place):
    async def first(client, plane):
        for t, x in enumerate(XS[:7]):
            await client.step("m", x, id="b", start=t == 0)

    async def second(client, plane):
        return await client.step("m", XS[7], id="b", step=7)

    served({"m": RNN}, first, Options(keep_every=5), keep=place)
    assert np.array_equal(served({"m": RNN}, second, Options(keep_every=5), keep=place), alone(XS[:8])[7])


def test_a_state_that_was_put_or_an_end_is_kept_too(tmp_path):
    kept = str(tmp_path / "kept")

    async def first(client, plane):
        for id in "ab":
            await client.step("m", XS[0], id=id, start=True)
        state = (await client.http.get("/v2/models/m/sequences/a/state")).content
        await client.http.put("/v2/models/m/sequences/c/state", content=state)
        await client.http.delete("/v2/models/m/sequences/b")
        plane.model("m").expire(plane._loop.time() + 1000)
        assert (await client.http.get("/v2/models/m/sequences/a")).json()["kind"] == "over"

    async def second(client, plane):
        for id, words in {"a": "expired", "b": "deleted", "c": "expired"}.items():
            with refused(OVER, words) as found:
                found(await client.post("m", XS[1:2], id=id))
        assert not plane.model("m").sequences

    abandoned({"m": RNN}, first, Options(keep_every=1000), kept)
    abandoned({"m": RNN}, second, Options(), kept)


@pytest.mark.parametrize("on_reload", ["finish", "reset"])
def test_what_was_kept_by_another_network_is_not_used(tmp_path, on_reload):
    kept = str(tmp_path / "kept")

    async def first(client, plane):
        await client.step("m", XS[0], id=1, start=True)

    async def second(client, plane):
        response = await client.post("m", XS[1:2], id=1)
        if on_reload == "finish":
            with refused(OVER, "replaced") as found:
                found(response)
        else:
            assert response.json()["parameters"]["sequence_reset"]

    abandoned({"m": RNN}, first, Options(), kept)
    abandoned({"m": OTHER}, second, Options(on_reload=on_reload), kept)


def test_a_store_that_fails_is_said_and_the_step_can_be_asked_for_again(tmp_path):
    async def work(client, plane):
        await client.step("m", XS[0], id=1, start=True, step=0)
        put = plane.keeper.store.put
        plane.keeper.store.put = None  # not callable
        with refused(503, "step 2", "could not be kept") as found:
            found(await client.post("m", XS[1:2], id=1, step=1))
        with refused(503, "step 2") as found:
            found(await client.post("m", XS[1:2], id=1, step=1))
        plane.keeper.store.put = put
        y = await client.step("m", XS[1], id=1, step=1)
        assert plane.model("m").latest.counts.steps == 2
        return y

    assert np.array_equal(served({"m": RNN}, work, keep=str(tmp_path / "kept")), alone(XS[:2])[1])


def test_a_damaged_record_is_no_state(tmp_path):
    kept = tmp_path / "kept"

    async def first(client, plane):
        await client.step("m", XS[0], id=1, start=True)

    async def second(client, plane):
        with refused(503, "could not be read") as found:
            found(await client.post("m", XS[1:2], id=1))
        await client.step("m", XS[0], id=1, start=True)

    abandoned({"m": RNN}, first, Options(), str(kept))
    (file,) = kept.glob("*/*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    abandoned({"m": RNN}, second, Options(), str(kept))


def test_a_folder_is_swept_of_what_nobody_touches(tmp_path):
    store = FolderStore(tmp_path)
    store.put([Write(("m", "", "old"), b"1"), Write(("m", "", "new"), b"2")])
    os.utime(store._path(("m", "", "old")), (0, 0))
    store._sweep()
    assert store.get(("m", "", "old")) is None
    assert store.get(("m", "", "new")) == b"2"


def test_a_place_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(TreadleError, match="redis://"):
        open_store("ftp://somewhere")
    pytest.importorskip("redis", reason="no redis package")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(TreadleError, match="does not answer"):
            open_store(f"redis://127.0.0.1:{taken.getsockname()[1]}")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="is not a folder"):
        open_store(str(tmp_path / "file"))


class Process:
    """A server in a process of its own, that can be killed and started again."""

    def __init__(self, model, kept):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        address = ["--http", f"127.0.0.1:{self.port}", "--grpc", "none", "--metrics", "none"]
        self.command = [sys.executable, "-m", "treadle", "serve", model, *address, "--keep", kept]
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        assert re.search("http://", self.process.stdout.readline())

    def kill(self, number=signal.SIGKILL):
        self.process.send_signal(number)
        self.process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "steps"), [(6, 1500)])
def test_kills_lose_and_double_nothing(tmp_path, kills, steps):
    """Clients that count steps and try again see each step once, with the bits of a session alone."""
    td.save(tmp_path / "m.safetensors", RNN)
    server = Process(tmp_path / "m.safetensors", tmp_path / "kept")
    draw = random.Random(0)
    xs = np.random.default_rng(1).standard_normal((50, steps // 50, 3)).astype(np.float32)
    expected = [alone(one) for one in xs]
    moments = sorted(draw.sample(range(1, steps), kills))
    client = httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=30)
    try:
        done, at = 0, [0] * len(xs)
        while done < steps:
            which = draw.choice([n for n, step in enumerate(at) if step < steps // 50])
            t = at[which]
            tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": xs[which, t].tolist()}
            said = {"sequence_id": f"client {which}", "sequence_start": t == 0, "step": t}
            killing = bool(moments) and done == moments[0]
            with contextlib.suppress(httpx.TransportError):
                if killing:  # somewhere between the request and its answer
                    moments.pop(0)
                    killer = subprocess.Popen(
                        ["sh", "-c", f"sleep 0.00{draw.randrange(10)}; kill -9 {server.process.pid}"]
                    )
                response = client.post("/v2/models/m/infer", json={"inputs": [tensor], "parameters": said})
                assert response.status_code == 200, response.text
                y = np.array(response.json()["outputs"][0]["data"], np.float32)
                assert np.array_equal(y, expected[which][t])
                at[which] += 1
                done += 1
            if killing:
                killer.wait()
                server.kill()
                server.start()
        assert at == [steps // 50] * len(xs)
        for number in range(len(xs)):
            assert client.get(f"/v2/models/m/sequences/client {number}").json()["step"] == steps // 50
        server.kill(signal.SIGTERM)
        assert server.process.returncode == 0
    finally:
        client.close()
        if server.process.poll() is None:
            server.kill()
