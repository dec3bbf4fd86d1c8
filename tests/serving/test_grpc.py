"""The protocol over gRPC."""

import asyncio

import numpy as np
import pytest
import torch

import treadle as td
from tests.serving.clients import Options, listening

grpc = pytest.importorskip("grpc", reason="no grpcio")
from treadle.serving.grpc_messages import protocol  # noqa: E402

torch.manual_seed(0)
RNN = td.Recurrent(td.Stack([td.LSTMCell(3, 5), td.GRUCell(5, 7)]))
XS = np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32)


def alone(xs):
    session = RNN.session()
    return np.stack([np.array(session.step(x)) for x in xs])


def method(channel, name):
    (found,) = (one for one in protocol().methods() if one.name == name)
    kind = channel.stream_stream if found.request_streams else channel.unary_unary
    call = kind(
        f"/inference.GRPCInferenceService/{name}",
        request_serializer=found.request.SerializeToString,
        response_deserializer=found.response.FromString,
    )
    return found.request, call


def request(x, raw=True, **parameters):
    message = protocol().message("ModelInferRequest")(model_name="m", id="17")
    tensor = message.inputs.add(name="x", datatype="FP32", shape=x.shape)
    if raw:
        message.raw_input_contents.append(x.tobytes())
    else:
        tensor.contents.fp32_contents.extend(x.reshape(-1).tolist())
    for name, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(message.parameters[name], kind, value)
    return message


def answer(response):
    (output,) = response.outputs
    if response.raw_output_contents:
        return np.frombuffer(response.raw_output_contents[0], np.float32).reshape(output.shape)
    return np.array(output.contents.fp32_contents, np.float32).reshape(output.shape)


def calls(work, tokens=None, options=None):
    """Run ``await work(infer, stream, channel)`` beside a server."""

    async def main(server):
        async with grpc.aio.insecure_channel(server.addresses["grpc"]) as channel:
            return await work(method(channel, "ModelInfer")[1], method(channel, "ModelStreamInfer")[1], channel)

    return listening({"m": RNN}, main, options, tokens)


@pytest.mark.parametrize("id", [7, "anna"])
@pytest.mark.parametrize("raw", [True, False])
def test_a_sequence_gives_the_bits_of_a_session(id, raw):
    async def work(infer, stream, channel):
        found = []
        for t, x in enumerate(XS):
            sequence = {"sequence_id": id, "sequence_start": t == 0, "sequence_end": t == 8, "step": t}
            for _ in range(1 + t % 2):
                response = await infer(request(x[None], raw, **sequence))
            assert response.id == "17"
            assert bool(response.raw_output_contents) == raw
            found.append(answer(response)[0])
        return found

    assert np.array_equal(calls(work), alone(XS))


def test_streams_carry_many_sequences_each_in_order():
    async def work(infer, stream, channel):
        async def messages():
            for t, x in enumerate(XS):
                for id in range(1, 21):
                    yield request(x[None], sequence_id=id, sequence_start=t == 0)
            yield request(XS[:1], sequence_id="nobody")

        found, errors = {}, []
        async for response in stream(messages()):
            if response.error_message:
                errors.append(response.error_message)
            else:
                id = response.infer_response.parameters["sequence_id"].int64_param
                found.setdefault(id, []).append(answer(response.infer_response)[0])
        assert len(found) == 20
        assert len(errors) == 1
        assert "never begun" in errors[0]
        return found.values()

    for ys in calls(work):
        assert np.array_equal(ys, alone(XS))


def test_refusals_have_their_codes():
    async def work(infer, stream, channel):
        async def code(message, **options):
            with pytest.raises(grpc.aio.AioRpcError) as found:
                await infer(message, **options)
            return found.value.code().name, found.value.details()

        token = (("authorization", "Bearer the-token-of-anna"),)
        assert (await code(request(XS[:1])))[0] == "UNAUTHENTICATED"
        for message, name, words in (
            (request(XS[:1], sequence_id=5), "NOT_FOUND", "never begun"),
            (request(XS), "OUT_OF_RANGE", "steps"),
            (request(XS[:, :2][:1]), "INVALID_ARGUMENT", "x FP32 [B, 3]"),
            (request(XS[:1], sequence_id=5, sequence_start=1), "INVALID_ARGUMENT", "true or false"),
            (request(np.full((1, 3), np.nan, np.float32)), "INVALID_ARGUMENT", "not finite"),
        ):
            found, said = await code(message, metadata=token)
            assert (found, words in said) == (name, True), said
        broken = request(XS[:1])
        broken.raw_input_contents.append(b"")
        assert (await code(broken, metadata=token))[0] == "INVALID_ARGUMENT"
        broken = request(XS[:1])
        broken.model_name = "n"
        assert (await code(broken, metadata=token))[0] == "NOT_FOUND"

    calls(work, {"the-token-of-anna": "anna"}, Options(steps=8))


def test_what_a_server_says_of_itself():
    async def work(infer, stream, channel):
        async def ask(call_name, **fields):
            kind, call = method(channel, call_name)
            return await call(kind(**fields))

        await infer(request(XS[None], sequence_id=1, sequence_start=True))
        assert (await ask("ServerLive")).live
        assert (await ask("ServerReady")).ready
        assert (await ask("ModelReady", name="m", version="1")).ready
        assert "sequence(string_id)" in (await ask("ServerMetadata")).extensions
        about = await ask("ModelMetadata", name="m")
        assert [(one.name, one.datatype, list(one.shape)) for one in about.inputs] == [("x", "FP32", [-1, 3])]
        config = (await ask("ModelConfig", name="m")).config
        assert config.sequence_batching.oldest.max_candidate_sequences == 100_000
        (stats,) = (await ask("ModelStatistics", name="m")).model_stats
        assert stats.inference_count == 9
        assert stats.inference_stats.success.count == 1
        with pytest.raises(grpc.aio.AioRpcError):
            await ask("ModelReady", name="m", version="2")

    calls(work)


def test_a_client_that_has_gone_takes_no_step():
    async def work(server):
        async with grpc.aio.insecure_channel(server.addresses["grpc"]) as channel:
            infer = method(channel, "ModelInfer")[1]
            await infer(request(XS[:1], sequence_id=1, sequence_start=True))
            scheduler = server.plane.model("m").latest.scheduler
            scheduler._running = True  # a turn that does not end
            call = infer(request(XS[:1], sequence_id=1))
            while not scheduler.queued:
                await asyncio.sleep(0.001)
            call.cancel()
            sequence = server.plane.model("m").sequences["", "1"]
            while not sequence.jobs[0].gone():
                await asyncio.sleep(0.001)
            scheduler._running = False
            scheduler._wake()
            while scheduler.queued:
                await asyncio.sleep(0.001)
            assert sequence.position == 1

    listening({"m": RNN}, work)


@pytest.mark.slow
def test_a_thousand_sequences_over_eight_connections():
    """Starts, ends and retries at random; each sequence has the bits of a lone session."""
    xs = np.random.default_rng(3).standard_normal((1000, 6, 3)).astype(np.float32)
    expected = [alone(one) for one in xs]

    async def one(infer, number, draw):
        last = int(draw.integers(1, 7))
        for t in range(last):
            for _ in range(int(draw.integers(1, 3))):
                sequence = {
                    "sequence_id": number + 1,
                    "sequence_start": t == 0,
                    "sequence_end": t == last - 1,
                    "step": t,
                }
                y = answer(await infer(request(xs[number, t : t + 1], **sequence)))[0]
                assert np.array_equal(y, expected[number][t])

    async def work(server):
        async def connection(which):
            draw = np.random.default_rng(which)
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(server.addresses["grpc"], options=options) as channel:
                infer = method(channel, "ModelInfer")[1]
                await asyncio.gather(*(one(infer, number, draw) for number in range(which, 1000, 8)))

        await asyncio.gather(*(connection(which) for which in range(8)))
        live = server.plane.model("m").latest
        assert not live.living
        assert not server.plane.model("m").sequences

    listening({"m": RNN}, work, Options(queue=10_000))
