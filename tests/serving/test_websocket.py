"""A WebSocket for a sequence: rows in, rows out."""

import asyncio
import contextlib
import json

import numpy as np
import pytest
import torch

import treadle as td
from tests.serving.clients import Options, listening
from treadle.serving import scheduler

websockets = pytest.importorskip("websockets", reason="no websockets")

torch.manual_seed(0)
RNN = td.Recurrent(td.Stack([td.LSTMCell(3, 5), td.GRUCell(5, 7)]))
XS = np.random.default_rng(0).standard_normal((60, 3)).astype(np.float32)


def alone(xs):
    session = RNN.session()
    return np.stack([np.array(session.step(x)) for x in xs])


def connect(server, path, **options):
    address = server.addresses["http"].replace("http", "ws", 1)
    return websockets.connect(f"{address}/v2/models/m/sequences/{path}", open_timeout=30, **options)


def rows(message):
    return np.frombuffer(message, np.float32).reshape(-1, 7)


async def closed(socket):
    """The code and the reason with which a server closes."""
    with contextlib.suppress(websockets.ConnectionClosed):
        while True:
            await socket.recv()
    return socket.close_code, socket.close_reason


def test_rows_are_answered_in_order_however_they_are_sent():
    async def work(server):
        async with connect(server, "a/stream?start=true") as socket:
            greeting = json.loads(await socket.recv())
            assert greeting["step"] == 0
            assert greeting["input"] == {"datatype": "FP32", "shape": [3]}
            for x in XS[:40]:  # more than may be under way
                await socket.send(x.tobytes())
            await socket.send(XS[40:50].tobytes())
            found = [rows(await socket.recv()) for _ in range(41)]
        async with connect(server, "a/stream?end=true") as socket:
            assert json.loads(await socket.recv())["step"] == 50
            await socket.send(XS[50:].tobytes())
            found.append(rows(await socket.recv()))
        async with connect(server, "a/stream") as socket:
            assert (await closed(socket)) == (1008, "sequence 'a' has ended, as its client asked, at step 60: send"
                " sequence_start to begin it again")  # fmt: skip
        return np.concatenate(found)

    assert np.array_equal(listening({"m": RNN}, work), alone(XS))


@pytest.mark.parametrize("together", [False, True])
def test_many_at_once_are_each_alone(together, monkeypatch):
    """Whether steps are taken where they are asked for, or those that come at the same time are taken together."""
    monkeypatch.setattr(scheduler, "AT_ONCE_IN_LINE", 0.0 if together else 1.0)

    async def one(server, number):
        async with connect(server, f"{number}/stream?start=true") as socket:
            await socket.recv()
            for x in XS[number:]:
                await socket.send(x.tobytes())
            ys = [rows(await socket.recv())[0] for _ in XS[number:]]
            assert np.array_equal(ys, alone(XS[number:]))

    async def work(server):
        await asyncio.gather(*(one(server, number) for number in range(20)))
        assert (sum(server.plane.model("m").latest.counts.by_rows[2:]) > 0) == together

    listening({"m": RNN}, work, Options(queue=4))


def test_messages_that_have_come_step_together():
    async def work(server):
        async with connect(server, "a/stream?start=true&step=0") as socket:
            await socket.recv()
            for x in (XS[0], XS[1:4], *XS[4:16]):
                await socket.send(x.tobytes())
            found = [rows(await socket.recv()) for _ in range(14)]
            assert [len(ys) for ys in found] == [1, 3, *[1] * 12]
            assert server.plane.model("m").latest.counts.turns < 8
        async with connect(server, "a/stream?step=15") as socket:  # the last step once more, and two behind it
            await socket.recv()
            for x in XS[15:18]:
                await socket.send(x.tobytes())
            again = [rows(await socket.recv()) for _ in range(3)]
        assert np.array_equal(again[0], found[-1])
        return np.concatenate(found + again[1:])

    assert np.array_equal(listening({"m": RNN}, work), alone(XS[:18]))


def test_the_answers_before_a_refusal_are_sent_and_no_row_behind_it_is_taken():
    nothing = np.full_like(XS[0], np.nan)

    async def work(server):
        for path, sent, taken in (
            ("a/stream?start=true&step=0", (nothing, *XS[:3]), 0),  # the first may be a retry, and goes alone
            ("b/stream?start=true", (*XS[:3], nothing, *XS[3:6]), 3),
        ):
            async with connect(server, path) as socket:
                await socket.recv()
                for x in sent:
                    await socket.send(x.tobytes())
                found = [rows(await socket.recv()) for _ in range(taken)]
                assert (await closed(socket))[0] == 1007
            assert np.array_equal(np.concatenate(found), alone(XS[:taken])) if taken else not found
            sequence = server.plane.model("m").sequences.get(("", path[0]))
            assert (0 if sequence is None else sequence.position) == taken

    listening({"m": RNN}, work)


def test_what_is_refused_in_its_turn_takes_with_it_what_is_behind_it():
    async def work(server):
        async with connect(server, "a/stream?start=true") as socket:
            await socket.recv()
            await socket.send(XS[0].tobytes())
            await socket.recv()
            scheduler = server.plane.model("m").latest.scheduler
            scheduler._running = True  # a turn that does not end
            await socket.send(XS[1].tobytes())
            while not scheduler.queued:
                await asyncio.sleep(0.001)
            (job,) = server.plane.model("m").sequences["", "a"].jobs
            job.deadline = 0.0
            await socket.send(XS[2].tobytes())
            while scheduler.queued < 2:
                await asyncio.sleep(0.001)
            scheduler._running = False
            scheduler._wake()
            assert (await closed(socket))[0] == 1013
        assert server.plane.model("m").sequences["", "a"].position == 1

    listening({"m": RNN}, work)


@pytest.mark.parametrize("part", ["numbers", "answers"])
def test_a_failure_of_the_server_is_said_at_the_end_of_the_connection(part, monkeypatch):
    async def work(server):
        async with connect(server, "a/stream?start=true") as socket:
            await socket.recv()

            def failing(*arguments):
                raise RuntimeError("this is nobody's fault but the server's")

            monkeypatch.setattr(type(server.plane.model("m").latest.meaning), part, failing)
            await socket.send(XS[0].tobytes())
            assert (await closed(socket)) == (1011, "the server failed with a RuntimeError")

    listening({"m": RNN}, work)


@pytest.mark.parametrize(
    ("message", "code", "words"),
    [
        (b"123", 1007, "a row has 12"),
        (b"", 1007, "a row has 12"),
        (np.full(3, np.nan, np.float32).tobytes(), 1007, "not finite"),
        ("text", 1003, "binary"),
        (b"0" * 12 * 101, 1009, "more than 100"),
        (b"0" * 5000, 1009, ""),
    ],
)
def test_messages_that_are_no_rows_end_the_connection(message, code, words):
    async def work(server):
        async with connect(server, "a/stream?start=true") as socket:
            await socket.recv()
            await socket.send(XS[0].tobytes())
            await socket.recv()
            await socket.send(message)
            found, reason = await closed(socket)
            assert (found, words in reason) == (code, True), reason
        async with connect(server, "a/stream") as socket:  # the sequence is as it was
            assert json.loads(await socket.recv())["step"] == 1

    listening({"m": RNN}, work, Options(steps=100, request_bytes=4096))


def test_the_step_that_is_expected_is_checked_and_the_token_too():
    async def work(server):
        token = {"additional_headers": {"Authorization": "Bearer the-token-of-anna"}}
        async with connect(server, "a/stream?start=true", **token) as socket:
            await socket.recv()
            await socket.send(XS[0].tobytes())
            first = await socket.recv()
        for step in (0, 1):  # the last step once more, and the next
            async with connect(server, f"a/stream?step={step}", **token) as socket:
                await socket.recv()
                await socket.send(XS[step].tobytes())
                if step:
                    assert np.array_equal(rows(await socket.recv()), alone(XS[:2])[1:])
                else:
                    assert (await closed(socket))[0] == 1008  # it did not count steps before
        assert np.array_equal(rows(first), alone(XS[:1]))
        browser = {"subprotocols": ["treadle", "bearer.the-token-of-anna"]}
        async with connect(server, "a/stream", **browser) as socket:
            assert json.loads(await socket.recv())["step"] == 2
            assert socket.subprotocol == "treadle"
        async with connect(server, "a/stream") as socket:
            assert (await closed(socket))[0] == 1008

    listening({"m": RNN}, work, tokens={"the-token-of-anna": "anna"})
