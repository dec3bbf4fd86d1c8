"""Run in a process of its own: the first call of each cell that is named, and what importing costs.

python -m benchmarks.first_call '{"engines": {"LSTMCell": "cpu"}, "steps": 10, "threads": 2}' prints JSON.
"""

import json
import sys
import time
from dataclasses import replace
from typing import Any


def main(engines: dict[str, str], steps: int, threads: int) -> dict[str, Any]:
    """Seconds of the imports and of the first two calls of each cell, forward and backward; then its errors."""
    start = time.perf_counter()
    import torch

    torch_imported = time.perf_counter()
    import treadle as td

    imported = time.perf_counter()
    from benchmarks.gates import compare
    from benchmarks.training import draw, inputs, recurrent_outputs

    torch.set_num_threads(threads)
    made = []
    for name, engine in engines.items():
        torch.manual_seed(0)
        cell, x = getattr(td, name), inputs(steps, 8, 32)
        if name == "ConvLSTMCell":
            cell, x = cell(2, 2, image_size=(4, 4)), x.view(steps, 8, 2, 4, 4)
        else:
            cell = cell(32, 32)
        # In evaluation mode nothing is random, so that there is one right answer. Gradients from above are drawn on the
        # reference engine, so that the engine under test meets this network in the first call that is timed.
        rnn = td.Recurrent(cell, batch_first=False, engine="reference").eval()
        reference = draw(rnn, recurrent_outputs, x)
        made.append((name, reference, td.Recurrent(cell, batch_first=False, engine=engine).eval()))

    answer: dict[str, Any] = {"torch": torch_imported - start, "treadle": imported - torch_imported, "cells": {}}
    load_what_pytorch_needs(torch)
    for name, reference, rnn in made:
        training = replace(reference, module=rnn)
        seconds = []
        for _ in range(2):
            before = time.perf_counter()
            training()
            seconds.append(time.perf_counter() - before)
        answer["cells"][name] = {"first": seconds[0], "second": seconds[1]}
    for name, reference, rnn in made:
        check = compare(name, replace(reference, module=rnn).values(), reference.double().values())
        answer["cells"][name] |= {"error": check.error, "where": check.where}
    return answer


def load_what_pytorch_needs(torch: Any) -> None:
    """Take a gradient from one that is given, of PyTorch's own: the first time, that imports SymPy."""
    one = torch.ones(1, requires_grad=True)
    torch.autograd.grad(one * one, one, torch.ones(1))


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))
