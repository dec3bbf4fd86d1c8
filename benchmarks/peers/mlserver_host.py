"""MLServer with the same network, as a person writes it for MLServer; it runs on a Python that has MLServer and torch.

python mlserver_host.py '{"weights": "lstm.pt", "H": 64, "layers": 2}' prints its addresses as JSON. All happens in one
process, which costs the least CPU: by default MLServer hands requests to workers.
"""

import asyncio
import contextlib
import json
import logging
import socket
import sys
from typing import Any

import torch
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Network(MLModel):
    """PyTorch's LSTM, and the state of each sequence by its id."""

    async def load(self) -> bool:
        """Read the weights."""
        asked = json.loads(sys.argv[1])
        self.lstm = torch.nn.LSTM(asked["H"], asked["H"], asked["layers"]).eval()
        self.lstm.load_state_dict(torch.load(asked["weights"]))
        self.states: dict[Any, Any] = {}
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """A step of a sequence."""
        said: Any = payload.parameters
        x = torch.from_numpy(NumpyCodec.decode_input(payload.inputs[0]))
        state = None if said.sequence_start else self.states.get(said.sequence_id)
        with torch.inference_mode():
            y, self.states[said.sequence_id] = self.lstm(x[None], state)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", y[0].numpy())])


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


async def main() -> None:
    """Serve until SIGTERM."""
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)  # it would write a line for each request
    http, grpc, metrics = free_port(), free_port(), free_port()
    settings = Settings(
        host="127.0.0.1",
        http_port=http,
        grpc_port=grpc,
        metrics_port=metrics,
        parallel_workers=0,
        debug=False,
        metrics_endpoint=None,
    )
    server = MLServer(settings)
    announcing = asyncio.create_task(announce(http, grpc))
    await server.start([ModelSettings(name="net", implementation=Network)])
    await announcing


async def announce(http: int, grpc: int) -> None:
    """Say where it listens, once it answers that the model is ready."""
    question = b"GET /v2/models/net/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", http)
            writer.write(question)
            answer = await reader.read()
            writer.close()
            if b" 200 " in answer.partition(b"\r\n")[0]:
                break
        await asyncio.sleep(0.1)
    print(json.dumps({"http": f"http://127.0.0.1:{http}", "grpc": f"127.0.0.1:{grpc}"}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
