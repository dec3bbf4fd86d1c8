"""Triton's own client, as it is, in an environment of its own: it needs an older protobuf than ours."""

import asyncio
import json
import subprocess
import venv

import pytest
import torch

import treadle as td
from tests.serving.clients import listening

CLIENT = """
import queue, sys
import numpy as np
import tritonclient.grpc, tritonclient.http

def steps(module, client, id):
    found = []
    for t in range(3):
        x = module.InferInput("x", [1, 3], "FP32")
        x.set_data_from_numpy(np.full((1, 3), t, np.float32))
        y = module.InferRequestedOutput("y")
        order = {"sequence_id": id, "sequence_start": t == 0, "sequence_end": t == 2}
        found.append(client.infer("m", [x], outputs=[y], **order).as_numpy("y")[0].tolist())
    return found

def streamed(client, ids):
    module, answers = tritonclient.grpc, queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for t in range(3):
        for id in ids:
            x = module.InferInput("x", [1, 3], "FP32")
            x.set_data_from_numpy(np.full((1, 3), t, np.float32))
            order = {"sequence_id": id, "sequence_start": t == 0, "sequence_end": t == 2}
            client.async_stream_infer("m", [x], request_id=f"{id}", **order)
    found = {}
    for _ in range(3 * len(ids)):
        result, error = answers.get(timeout=60)
        assert error is None, error
        found.setdefault(result.get_response().id, []).append(result.as_numpy("y")[0].tolist())
    client.stop_stream()
    return list(found.values())

found = []
for module, address in ((tritonclient.http, sys.argv[1]), (tritonclient.grpc, sys.argv[2])):
    client = module.InferenceServerClient(address)
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("m")
    for ask in (client.get_model_metadata, client.get_model_config, client.get_inference_statistics):
        assert ask("m")
    found += [steps(module, client, id) for id in (7, "anna")]
found += streamed(client, [8, "ben", 9])
print(found)
"""


@pytest.mark.slow
def test_tritonclient_runs_rest_grpc_and_streams(tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "tritonclient[http,grpc]==2.73.0"]
    installed = subprocess.run(install, capture_output=True, text=True, timeout=280)
    if installed.returncode:
        pytest.skip("tritonclient cannot be installed here")
    torch.manual_seed(0)
    rnn = td.Recurrent(td.LSTMCell(3, 5))

    async def work(server):
        http = server.addresses["http"].removeprefix("http://")
        command = [str(python), "-c", CLIENT, http, server.addresses["grpc"]]
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        printed, _ = await process.communicate()
        assert process.returncode == 0, printed.decode()
        return printed.decode()

    session = rnn.session()
    expected = [session.step(torch.full((3,), float(t))).tolist() for t in range(3)]
    assert json.loads(listening({"m": rnn}, work)) == [expected] * 7
