"""MLServer with the same network, as a person writes it for MLServer; it runs on a Python that has MLServer and torch.

python mlserver_host.py '{"weights": "lstm.pt", "H": 64, "layers": 2}' prints its addresses as JSON. All happens in one
process, which costs the least CPU: by default MLServer hands requests to workers.
"""

import asyncio
import json
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

    @torch.inference_mode()
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """A step of a sequence."""
        said: Any = payload.parameters
        x = torch.from_numpy(NumpyCodec.decode_input(payload.inputs[0]))
        state = None if said.sequence_start else self.states.get(said.sequence_id)
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
    print(json.dumps({"http": f"http://127.0.0.1:{http}", "grpc": f"127.0.0.1:{grpc}"}), flush=True)
    await server.start([ModelSettings(name="net", implementation=Network)])


if __name__ == "__main__":
    asyncio.run(main())
