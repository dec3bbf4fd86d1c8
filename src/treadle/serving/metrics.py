"""What a server does, as Prometheus reads it: collected when somebody asks, so that steps cost nothing more."""

from collections.abc import Iterable, Iterator
from typing import Any

from treadle.errors import TreadleError
from treadle.serving.dataplane import Dataplane
from treadle.serving.gate import Gate
from treadle.serving.rest import Endpoint


class Collector:
    """Reads the counts of a server's models.

    Args:
        plane: what is served.
        core: the module ``prometheus_client.core``.
    """

    def __init__(self, plane: Dataplane, core: Any):
        self.plane, self.core = plane, core

    def collect(self) -> Iterable[Any]:
        """All metrics, as they are now."""
        counter, gauge = self.core.CounterMetricFamily, self.core.GaugeMetricFamily
        labels = ["model", "version"]
        steps = counter("treadle_steps", "Steps of sequences taken.", labels=labels)
        turns = counter("treadle_step_calls", "Calls of the network.", labels=labels)
        seconds = counter("treadle_step_seconds", "Time in the network.", labels=labels)
        answered = counter("treadle_requests_answered", "Requests answered.", labels=labels)
        answer_seconds = counter(
            "treadle_request_seconds", "Time from a request's arrival to its answer.", labels=labels
        )
        waited = counter("treadle_queue_seconds", "Time that requests waited.", labels=labels)
        begun = counter("treadle_sequences_begun", "Sequences begun.", labels=labels)
        ended = counter("treadle_sequences_ended", "Sequences ended.", labels=[*labels, "reason"])
        active = gauge("treadle_sequences_active", "Sequences that live.", labels=labels)
        queued = gauge("treadle_requests_queued", "Requests that wait.", labels=labels)
        for live in self.plane.versions():
            which, counts = [live.name, live.number], live.counts
            steps.add_metric(which, counts.steps)
            turns.add_metric(which, counts.turns)
            seconds.add_metric(which, counts.seconds)
            answered.add_metric(which, counts.answered)
            answer_seconds.add_metric(which, counts.answered_seconds)
            waited.add_metric(which, counts.queue_seconds)
            begun.add_metric(which, counts.begun)
            for reason, count in list(counts.ended.items()):
                ended.add_metric([*which, reason], count)
            active.add_metric(which, len(live.living))
            queued.add_metric(which, live.scheduler.queued)
        yield from (steps, turns, seconds, answered, answer_seconds, waited, begun, ended, active, queued)
        yield from self._rows_per_call(labels)
        rejected = counter("treadle_requests_rejected", "Requests refused.", labels=["reason"])
        for reason, count in list(self.plane.rejected.items()):
            rejected.add_metric([reason], count)
        yield rejected
        failed = 0 if self.plane.keeper is None else self.plane.keeper.failed
        yield counter("treadle_keep_failures", "States that could not be kept or read.", value=failed)

    def _rows_per_call(self, labels: list[str]) -> Iterator[Any]:
        """How many sequences stepped together, as a histogram."""
        histogram = self.core.HistogramMetricFamily
        rows = histogram("treadle_rows_per_call", "Sequences that stepped together.", labels=labels)
        for live in self.plane.versions():
            buckets, found = [], 0
            for count, turns in enumerate(live.counts.by_rows):
                found += turns
                if count and (count & (count - 1) == 0 or count == len(live.counts.by_rows) - 1):
                    buckets.append((str(float(count)), found))
            total = sum(count * turns for count, turns in enumerate(live.counts.by_rows))
            rows.add_metric([live.name, live.number], buckets=[*buckets, ("+Inf", found)], sum_value=total)
        yield rows


def metrics_application(plane: Dataplane, gate: Gate) -> Any:
    """An ASGI application that answers ``/metrics``.

    Raises:
        TreadleError: prometheus-client is not installed.
    """
    try:
        import prometheus_client
        from prometheus_client import core
    except ImportError:
        raise TreadleError("prometheus-client is not installed: pip install 'treadle[serve]'") from None
    registry = prometheus_client.CollectorRegistry()
    registry.register(Collector(plane, core))
    prometheus_client.ProcessCollector(registry=registry)
    kind = prometheus_client.CONTENT_TYPE_LATEST.encode()

    async def answer(scope: Any, receive: Any, owner: str) -> Any:
        found = scope["path"] == "/metrics" and scope["method"] in ("GET", "HEAD")
        if not found:
            return 404, b"text/plain", b"see /metrics\n", []
        return 200, kind, prometheus_client.generate_latest(registry), []

    endpoint = Endpoint(plane, gate, answer)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await endpoint(scope, receive, send)

    return application
