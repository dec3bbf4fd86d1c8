"""Replicas on Ray: one is killed, one is added; no step is lost or doubled, and few sequences move."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import torch

import treadle as td
from tests.ray_clusters import free_port, needs_cluster, needs_ray, processes_called, started_cluster
from treadle.errors import DataError
from treadle.serving import Options, ray_application

torch.manual_seed(0)
RNN = td.Recurrent(td.Stack([td.LSTMCell(3, 5), td.GRUCell(5, 7)]))
pytestmark = needs_ray


class Replicas:
    """``treadle serve --on ray`` on a small cluster, and what its clients do."""

    def __init__(self, cluster, folder):
        self.cluster, self.port = cluster, free_port()
        td.save(folder / "m.safetensors", RNN)
        self.command = [sys.executable, "-m", "treadle", "serve", folder / "m.safetensors", "--on", "ray"]
        self.command += ["--keep", folder / "kept", "--http", f"127.0.0.1:{self.port}"]
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)

    @contextlib.contextmanager
    def serving(self, count):
        with subprocess.Popen(
            [*self.command, "--replicas", str(count)], env=self.cluster, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert f"{count} replicas" in process.stdout.readline()
                yield
            finally:
                self.http.close()
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=120)

    def scale(self, count):
        done = subprocess.run([*self.command, "--replicas", str(count)], env=self.cluster, timeout=250, check=True)
        assert done.returncode == 0

    def step(self, id, x, step):
        """A client that counts its steps, and asks again until it has an answer."""
        said = {"sequence_id": id, "sequence_start": step == 0, "step": step}
        body = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": x.tolist()}], "parameters": said}
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                response = self.http.post("/v2/models/m/infer", json=body, headers={"x-session-id": id})
                if response.status_code == 200:
                    assert response.json()["parameters"]["step"] == step + 1
                    return np.array(response.json()["outputs"][0]["data"], np.float32)
                assert response.status_code >= 500 or response.status_code == 429, response.text
            time.sleep(0.02)  # as a client does that is told to try again
        raise AssertionError(f"no answer for step {step} of {id}")

    def owner(self, id):
        return self.http.get("/v2", headers={"x-session-id": id}).headers["x-replica"]


@pytest.mark.slow
@needs_cluster
@pytest.mark.parametrize("steps", [2_000])
def test_a_replica_is_killed_and_another_one_is_added(tmp_path, steps):
    clients = 40
    each = steps // clients
    xs = np.random.default_rng(1).standard_normal((clients, each + 1, 3)).astype(np.float32)
    expected = RNN(torch.from_numpy(xs))[0].detach().numpy()
    taken, killed = [0] * clients, threading.Event()
    with started_cluster(cpus=4) as cluster:
        replicas = Replicas(cluster, tmp_path)
        with replicas.serving(2):

            def play(number):
                for t in range(each):
                    y = replicas.step(f"client {number}", xs[number, t], t)
                    np.testing.assert_allclose(y, expected[number, t], rtol=0, atol=1e-6)
                    taken[number] += 1
                    if sum(taken) > steps // 3 and not killed.is_set():
                        killed.set()
                        os.kill(processes_called("ray::ServeReplica", cluster)[0], signal.SIGKILL)

            with ThreadPoolExecutor(8) as pool:
                list(pool.map(play, range(clients)))
            assert killed.is_set()
            for number in range(clients):
                about = replicas.http.get(f"/v2/models/m/sequences/client {number}").json()
                assert about["step"] == each

            ids = [f"somebody {number}" for number in range(400)]
            before = {id: replicas.owner(id) for id in ids}
            assert len(set(before.values())) == 2
            replicas.scale(3)
            after = {id: replicas.owner(id) for id in ids}
            (new,) = set(after.values()) - set(before.values())
            moved = [id for id in ids if before[id] != after[id]]
            assert {after[id] for id in moved} == {new}
            assert 0.18 < len(moved) / len(ids) < 0.5
            for number in range(clients):
                y = replicas.step(f"client {number}", xs[number, each], each)
                np.testing.assert_allclose(y, expected[number, each], rtol=0, atol=1e-6)


def test_steps_that_are_not_kept_cannot_move():
    with pytest.raises(DataError, match="`keep_every=10`, but a sequence can move"):
        ray_application({"m": RNN}, Options(keep_every=10), keep="kept")
