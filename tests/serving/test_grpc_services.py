"""gRPC's own services: health and reflection, asked by others' clients, or byte by byte."""

import asyncio

import pytest
import torch

import treadle as td
from tests.serving.clients import Options, listening

grpc = pytest.importorskip("grpc", reason="no grpcio")
from treadle.serving.grpc_messages import protocol  # noqa: E402

torch.manual_seed(0)
RNN = td.Recurrent(td.LSTMCell(3, 5))
SERVICE = "inference.GRPCInferenceService"
SERVING, NOT_SERVING, SERVICE_UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"
"""`HealthCheckResponse` as bytes: field 1, a number."""
TOKEN = "the-token-of-anna"


def named(service):
    """`HealthCheckRequest` as bytes: field 1, a text."""
    return b"\x0a" + bytes([len(service)]) + service.encode() if service else b""


def beside(work, tokens=None):
    """Run ``await work(channel, server)`` beside a server."""

    async def main(server):
        async with grpc.aio.insecure_channel(server.addresses["grpc"]) as channel:
            return await work(channel, server)

    return listening({"m": RNN}, main, Options(), tokens)


@pytest.mark.parametrize("service", ["", SERVICE])
def test_health_is_checked_and_watched_without_a_token(service):
    async def work(channel, server):
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(named(service))
        assert await check(named(service)) == SERVING
        assert await watch.read() == SERVING
        ending = asyncio.create_task(server.plane.stop())
        assert await asyncio.wait_for(watch.read(), 5) == NOT_SERVING
        assert await check(named(service)) == NOT_SERVING
        assert await watch.read() is grpc.aio.EOF
        await ending

    beside(work, {TOKEN: "anna"})


def test_health_of_services_that_there_are_not():
    async def work(channel, server):
        with pytest.raises(grpc.aio.AioRpcError) as found:
            await channel.unary_unary("/grpc.health.v1.Health/Check")(named("nobody"))
        assert found.value.code() is grpc.StatusCode.NOT_FOUND
        assert SERVICE in found.value.details()
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(named("nobody"))
        assert await watch.read() == SERVICE_UNKNOWN
        watch.cancel()

    beside(work)


def test_health_of_all_services():
    async def work(channel, server):
        return await channel.unary_unary("/grpc.health.v1.Health/List")(b"")

    both = [entry(name) + SERVING for name in ("", SERVICE)]
    assert beside(work) in (both[0] + both[1], both[1] + both[0])


def entry(service):
    """What is before the health of a service in the map of `HealthListResponse`."""
    key = b"\x0a" + bytes([len(service)]) + service.encode()
    return b"\x0a" + bytes([len(key) + 4]) + key + b"\x12\x02"


def test_reflection_describes_what_there_is():
    reflection = pytest.importorskip("grpc_reflection.v1alpha.proto_reflection_descriptor_database")
    from google.protobuf import descriptor_pool, message_factory

    def ask(address):
        with grpc.insecure_channel(address) as channel:
            database = reflection.ProtoReflectionDescriptorDatabase(channel)
            pool = descriptor_pool.DescriptorPool(database)
            services = [*database.get_services()]
            with pytest.raises(KeyError):
                pool.FindMessageTypeByName("inference.Nothing")
            declared = [pool.FindServiceByName(name) for name in services]
            request = message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelInferRequest"))
            message = request(model_name="m", inputs=[{"name": "x", "shape": [1, 3]}], raw_input_contents=[b"1"])
            message.parameters["step"].int64_param = 7
            return {one.full_name: [call.name for call in one.methods] for one in declared}, message.SerializeToString()

    async def work(channel, server):
        return await asyncio.to_thread(ask, server.addresses["grpc"])

    calls, written = beside(work)
    assert set(calls) == {
        SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert calls[SERVICE] == [one.name for one in protocol().methods()]
    assert sorted(calls["grpc.health.v1.Health"]) == ["Check", "List", "Watch"]
    read = protocol().message("ModelInferRequest").FromString(written)
    assert (read.parameters["step"].int64_param, read.inputs[0].shape) == (7, [1, 3])


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_asks_for_a_token_and_says_what_it_does_not_know(version):
    async def work(channel, server):
        ask = channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
        files = b"".join(b"\x1a" + bytes([len(name)]) + name for name in (b"no.proto",))
        with pytest.raises(grpc.aio.AioRpcError) as found:
            await ask(iter([files])).read()
        assert found.value.code() is grpc.StatusCode.UNAUTHENTICATED
        answer = await ask(iter([files]), metadata=(("authorization", f"Bearer {TOKEN}"),)).read()
        # original_request (2) is the question; error_response (7) has code 5, NOT_FOUND.
        assert answer.startswith(b"\x12" + bytes([len(files)]) + files + b"\x3a")
        assert b"\x08\x05" in answer

    beside(work, {TOKEN: "anna"})
