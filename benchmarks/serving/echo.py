"""The twin of a server that steps nothing: the same addresses, parsing, checks and framing; it answers the input."""

from typing import Any

from treadle.serving.dataplane import Dataplane, Outcome, Request
from treadle.serving.live_model import LiveModel
from treadle.serving.sequences import Answer


class EchoPlane(Dataplane):
    """Answers a step with its input: what is left of a server without sequences, turns and the network."""

    async def infer(self, name: str, version: str | None, owner: str, request: Request) -> Outcome:
        """A request checked as ever, and its input as the output."""
        live = self.model(name).version(version)
        xs, block = live.meaning.rows(request.tensors)
        parameters = {"sequence_id": request.called or request.sequence, "step": xs.shape[1]}
        return Outcome(live, live.meaning.answers(xs, block), parameters)

    def submit(
        self, served: Any, version: Any, owner: Any, request: Any, xs: Any, answered: Any, *_, **__
    ) -> LiveModel:
        """For WebSockets, whose handlers ask here."""
        answered(Answer(xs, 0))
        return served.latest
