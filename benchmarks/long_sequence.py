"""Run in a process of its own: one pass over a very long sequence, and the most memory that the process ever had.

python -m benchmarks.long_sequence '{"steps": 1000000, "memory": "100MB", "threads": 2, "engine": "cpu"}' prints JSON.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

INPUTS, HIDDEN = 8, 64


def main(steps: int, memory: str, threads: int, engine: str) -> dict[str, Any]:
    """Seconds and bytes of one forward and one backward pass, B=1; and gradients, to compare with other schedules'."""
    import torch

    import treadle as td

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    rnn = td.Recurrent(td.LSTMCell(INPUTS, HIDDEN), gradient=td.CheckpointedBPTT(memory), engine=engine)
    xs = torch.randn(1, steps, INPUTS, requires_grad=True)
    start = time.perf_counter()
    ys, _ = rnn(xs)
    # A gradient of its own for every output; the mean of squares with no tensor beside it.
    ys.backward(ys.detach() / ys.numel())
    seconds = time.perf_counter() - start
    assert xs.grad is not None
    peak = most_memory()
    found = [parameter.grad.flatten().tolist() for parameter in rnn.parameters() if parameter.grad is not None]
    return {"seconds": seconds, "peak": peak, "gradient": found, "first": xs.grad[0, :100].tolist()}


def most_memory() -> int:
    """The most bytes that this process has held at a time."""
    status = Path("/proc/self/status")
    if status.exists():
        # What `resource` says begins with what the process had that started this one.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))
