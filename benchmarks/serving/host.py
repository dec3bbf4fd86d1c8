"""Run in a process of its own: a server of one network, or its echo; prints its addresses, ends at SIGTERM.

python -m benchmarks.serving.host '{"kind": "treadle", "H": 64}' prints JSON.
"""

import json
import sys
from typing import Any

import torch
from torch import nn

import treadle as td
from benchmarks.serving import MODEL
from benchmarks.serving.echo import EchoPlane
from benchmarks.sizes import LAYERS
from treadle.serving.addresses import Address
from treadle.serving.dataplane import Dataplane
from treadle.serving.gate import Gate
from treadle.serving.options import Options
from treadle.serving.server import Server
from treadle.serving.tokens import Tokens


def network(H: int) -> nn.LSTM:
    """The network that all sides serve."""
    torch.manual_seed(0)
    return nn.LSTM(H, H, LAYERS)


def main(kind: str, H: int, options: dict[str, Any] | None = None) -> None:
    """Serve until SIGTERM."""
    torch.set_num_threads(1)  # as `treadle serve` does
    ours = td.LSTM(H, H, LAYERS)
    ours.load_state_dict(network(H).state_dict())
    plane = (EchoPlane if kind == "echo" else Dataplane)({MODEL: ours}, Options(**(options or {})))
    anywhere = Address("127.0.0.1", 0)
    server = Server(plane, Gate(Tokens(), local=True), anywhere, anywhere)
    server.run(lambda: print(json.dumps(server.addresses), flush=True))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
