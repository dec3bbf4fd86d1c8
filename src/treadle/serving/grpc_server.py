"""A gRPC server: services beside each other, whose refusals have gRPC's codes."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

import grpc
from google.protobuf import json_format

from treadle.serving.addresses import Address
from treadle.serving.dataplane import Dataplane
from treadle.serving.proto_file import Method, ProtoFile
from treadle.serving.refusals import Refused, as_refused


class Service(Protocol):
    """Answers the calls of a service: a method for each, from a message and its context."""

    @property
    def file(self) -> ProtoFile:
        """Where it is declared."""
        ...


def grpc_server(
    plane: Dataplane, services: Sequence[Service], address: Address, tls: tuple[bytes, bytes] | None
) -> Any:
    """A gRPC server that has not begun yet, and its port.

    Args:
        plane: what is asked; it counts what is refused.
        services: who answers.
        address: where to listen.
        tls: key and certificate, as PEM; None for none.

    Raises:
        OSError: the port is taken.
    """
    most = plane.options.request_bytes
    server = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", most),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", 1024),
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
        ]
    )
    for service in services:
        handlers = {one.name: _handler(plane, service, one) for one in service.file.methods()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.file.service, handlers),))
    try:
        if tls is None:
            port = server.add_insecure_port(str(address))
        else:
            port = server.add_secure_port(str(address), grpc.ssl_server_credentials([tls]))
    except RuntimeError as error:
        raise OSError(f"`grpc={address}`: {error}: name another") from None
    return server, port


def _handler(plane: Dataplane, service: Service, method: Method) -> Any:
    """What gRPC calls for one of a service's calls."""
    answer = getattr(service, method.name)
    kind = ("stream" if method.request_streams else "unary") + ("_stream" if method.response_streams else "_unary")
    guarded = _guarded_stream(plane, answer) if method.response_streams else _guarded(plane, answer, method.response)
    return getattr(grpc, f"{kind}_rpc_method_handler")(
        guarded,
        request_deserializer=method.request.FromString,
        response_serializer=method.response.SerializeToString,
    )


async def _abort(plane: Dataplane, context: Any, refused: Refused) -> None:
    plane.reject(refused)
    if refused.retry_after is not None:
        context.set_trailing_metadata((("grpc-retry-pushback-ms", str(max(1, round(1e3 * refused.retry_after)))),))
    await context.abort(getattr(grpc.StatusCode, refused.kind.grpc), str(refused))


def _guarded(plane: Dataplane, answer: Callable[..., Any], response: Any) -> Callable[..., Any]:
    """A call whose refusals have gRPC's codes, and whose dicts become messages."""

    async def guarded(message: Any, context: Any) -> Any:
        try:
            found = await answer(message, context)
            if isinstance(found, dict):
                found = json_format.ParseDict(found, response(), ignore_unknown_fields=True)
            return found
        except Exception as error:
            refused = as_refused(error, "gRPC")
        return await _abort(plane, context, refused)

    return guarded


def _guarded_stream(plane: Dataplane, answer: Callable[..., Any]) -> Callable[..., Any]:
    async def guarded(messages: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for one in answer(messages, context):
                yield one
        except Exception as error:
            await _abort(plane, context, as_refused(error, "gRPC"))

    return guarded
