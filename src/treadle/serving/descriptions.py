"""What a server says of itself and of its models: metadata, configuration, statistics."""

import time
from typing import Any

import treadle
from treadle.serving.dataplane import Dataplane
from treadle.serving.live_model import LiveModel
from treadle.serving.served import ServedModel
from treadle.serving.tensors import TensorKind

EXTENSIONS = (
    "sequence", "sequence(string_id)", "binary_tensor_data", "model_configuration", "statistics", "parameters",
    "treadle_sequence_state", "treadle_sequence_stream",
)  # fmt: skip


def server_metadata() -> dict[str, Any]:
    """Name, version and extensions."""
    return {"name": "treadle", "version": treadle.__version__, "extensions": list(EXTENSIONS)}


def model_metadata(served: ServedModel, live: LiveModel) -> dict[str, Any]:
    """What a model reads and gives; the first axis is of rows."""
    return {
        "name": served.name,
        "versions": list(served.versions),
        "platform": "treadle",
        "inputs": [one.described() for one in live.meaning.inputs],
        "outputs": [one.described() for one in live.meaning.outputs],
    }


def model_config(served: ServedModel, live: LiveModel) -> dict[str, Any]:
    """A model's configuration, in Triton's words."""

    def described(one: TensorKind) -> dict[str, Any]:
        kind = "STRING" if one.datatype == "BYTES" else one.datatype
        return {"name": one.name, "data_type": f"TYPE_{kind}", "dims": list(one.shape or (1,))}

    options = served.options
    return {
        "name": served.name,
        "platform": "treadle",
        "backend": "treadle",
        "max_batch_size": options.queue,
        "input": [described(one) for one in live.meaning.inputs],
        "output": [described(one) for one in live.meaning.outputs],
        "sequence_batching": {
            "max_sequence_idle_microseconds": round(options.idle * 1e6),
            "oldest": {
                "max_candidate_sequences": min(options.sequences, 2**31 - 1),
                "max_queue_delay_microseconds": round(options.wait * 1e6),
            },
        },
        "parameters": {"fingerprint": {"string_value": live.version.fingerprint}},
    }


def model_statistics(plane: Dataplane, lives: list[LiveModel]) -> dict[str, Any]:
    """What models have done so far, in Triton's words, and what Triton has no words for."""

    def duration(count: int, seconds: float) -> dict[str, int]:
        return {"count": count, "ns": round(seconds * 1e9)}

    def of(live: LiveModel) -> dict[str, Any]:
        counts, scheduler = live.counts, live.scheduler
        batches = [
            {"batch_size": rows, "compute_infer": duration(turns, counts.seconds_by_rows[rows])}
            for rows, turns in enumerate(counts.by_rows)
            if turns
        ]
        return {
            "name": live.name,
            "version": live.number,
            "last_inference": round(1e3 * (time.time() - time.perf_counter() + counts.last)) if counts.last else 0,
            "inference_count": counts.steps,
            "execution_count": counts.turns,
            "inference_stats": {
                "success": duration(counts.answered, counts.answered_seconds),
                "fail": duration(sum(plane.rejected.values()), 0.0),
                "queue": duration(counts.answered, counts.queue_seconds),
                "compute_infer": duration(counts.turns, counts.seconds),
            },
            "batch_stats": batches,
            "sequences": {
                "active": len(live.living),
                "begun": counts.begun,
                "ended": dict(counts.ended),
                "queued": scheduler.queued,
            },
            "rejected": dict(plane.rejected),
        }

    return {"model_stats": [of(live) for live in lives]}
