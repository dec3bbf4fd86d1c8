"""The Open Inference Protocol over gRPC."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from treadle.serving import descriptions
from treadle.serving.dataplane import Dataplane
from treadle.serving.grpc_messages import protocol, request_from, response_from
from treadle.serving.refusals import Refused, as_refused
from treadle.serving.requests import chosen
from treadle.serving.tokens import Tokens

AT_ONCE = 64
"""Requests of one stream that are under way; more of them are not even read."""


def owner_of(tokens: Tokens, context: Any) -> str:
    """Whose token a call has.

    Raises:
        Refused: it has none that is known.
    """
    said = None
    for name, value in context.invocation_metadata() or ():
        if name == "authorization":
            said = value
    return tokens.owner(said if isinstance(said, str) or said is None else said.decode("latin-1"))


class InferenceService:
    """Answers the calls of the protocol.

    Args:
        plane: what is asked.
        tokens: who may ask.
    """

    def __init__(self, plane: Dataplane, tokens: Tokens):
        self.plane, self.tokens, self.file = plane, tokens, protocol()
        self._new = protocol().message("ModelInferResponse")
        self._new_of_stream = protocol().message("ModelStreamInferResponse")

    async def infer(self, message: Any, owner: str, seconds: float | None) -> Any:
        """A `ModelInferRequest` answered."""
        request = request_from(message, self.plane.options.request_bytes)
        if seconds is not None and (request.timeout is None or seconds < request.timeout):
            request = request._replace(timeout=max(seconds, 0.0))
        if message.outputs:
            known = self.plane.model(message.model_name).latest.meaning.outputs
            chosen([(one.name, None) for one in known], [one.name for one in message.outputs])
        outcome = await self.plane.infer(message.model_name, message.model_version or None, owner, request)
        return response_from(outcome, message, self._new())

    def owner(self, context: Any) -> str:
        """Whose token a call has."""
        return owner_of(self.tokens, context)

    # The calls.

    async def ModelInfer(self, message: Any, context: Any) -> Any:
        """Steps."""
        return await self.infer(message, self.owner(context), context.time_remaining())

    async def ModelStreamInfer(self, messages: Any, context: Any) -> AsyncIterator[Any]:
        """Steps of any number of sequences; each answer comes when it is there, those of one sequence in order."""
        owner = self.owner(context)
        answers: asyncio.Queue[Any] = asyncio.Queue()
        room = asyncio.Semaphore(AT_ONCE)
        reader = asyncio.create_task(self._read_stream(messages, owner, context, answers, room))
        try:
            while (answer := await answers.get()) is not None:
                yield answer
                room.release()
            await reader
        finally:
            reader.cancel()

    async def _read_stream(
        self, messages: Any, owner: str, context: Any, answers: "asyncio.Queue[Any]", room: asyncio.Semaphore
    ) -> None:
        """Read requests, as far as there is room for them, until there are no more and all are answered."""
        under_way: set[asyncio.Task[None]] = set()
        try:
            async for message in messages:
                await room.acquire()
                task = asyncio.create_task(self._answer_one(message, owner, context, answers))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            while under_way:
                await asyncio.wait(under_way)
        finally:
            for task in under_way:
                task.cancel()
            answers.put_nowait(None)

    async def _answer_one(self, message: Any, owner: str, context: Any, answers: "asyncio.Queue[Any]") -> None:
        try:
            response = self._new_of_stream(infer_response=await self.infer(message, owner, context.time_remaining()))
        except Exception as error:
            response = self._refusal_in_stream(message, as_refused(error, "ModelStreamInfer"))
        answers.put_nowait(response)

    def _refusal_in_stream(self, message: Any, refused: Refused) -> Any:
        self.plane.reject(refused)
        response = self._new_of_stream(error_message=f"[{refused.kind.grpc}] {refused}")
        response.infer_response.id = message.id
        response.infer_response.model_name = message.model_name
        return response

    async def ServerLive(self, message: Any, context: Any) -> Any:
        """Whether it lives."""
        return {"live": True}

    async def ServerReady(self, message: Any, context: Any) -> Any:
        """Whether it answers."""
        return {"ready": self.plane.ready}

    async def ModelReady(self, message: Any, context: Any) -> Any:
        """Whether a model answers."""
        self.owner(context)
        self.plane.model(message.name).version(message.version)
        return {"ready": self.plane.ready}

    async def ServerMetadata(self, message: Any, context: Any) -> Any:
        """Name, version and extensions."""
        self.owner(context)
        return descriptions.server_metadata()

    async def ModelMetadata(self, message: Any, context: Any) -> Any:
        """What a model reads and gives."""
        return descriptions.model_metadata(*self._model(message, context))

    async def ModelConfig(self, message: Any, context: Any) -> Any:
        """A model's configuration."""
        return {"config": descriptions.model_config(*self._model(message, context))}

    async def ModelStatistics(self, message: Any, context: Any) -> Any:
        """What models have done."""
        if message.name:
            lives = [self._model(message, context)[1]]
        else:
            self.owner(context)
            lives = self.plane.versions()
        return descriptions.model_statistics(self.plane, lives)

    def _model(self, message: Any, context: Any) -> Any:
        self.owner(context)
        served = self.plane.model(message.name)
        return served, served.version(message.version)
