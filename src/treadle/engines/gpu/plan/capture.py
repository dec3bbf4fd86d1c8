"""Launches captured as a CUDA graph, which replays all of them by one call."""

from collections.abc import Callable

import torch

from treadle.engines.decision import say_once


def is_capturing(device: torch.device) -> bool:
    """Whether somebody captures what is launched now."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def captured(work: Callable[[], object], device: torch.device) -> Callable[[], object] | None:
    """What launches all that some work launches; None, said once, where it cannot be captured.

    The work has been done before, so that its kernels are compiled; it asks the device for nothing. What it reads and
    writes has to live as long as what is returned. Without a CUDA device, that is the work itself.
    """
    if device.type != "cuda":
        return work
    graph, before, aside = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device), torch.cuda.Stream(device)
    aside.wait_stream(before)
    try:
        with torch.cuda.stream(aside):
            # Other threads may do meanwhile what is forbidden in this one.
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                work()
            finally:
                graph.capture_end()
    except RuntimeError as error:
        say_once(f"launches on {device} are not captured in a CUDA graph, so short steps are slow: {error}")
        return None
    before.wait_stream(aside)
    return graph.replay
