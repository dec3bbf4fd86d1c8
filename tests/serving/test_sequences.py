"""Sequences over HTTP: each gives the bits of a lone session, whatever else goes on."""

import asyncio
import time

import numpy as np
import pytest
import torch

import treadle as td
from tests.serving.clients import OVER, Options, numbers, refused, served
from treadle.serving import Refused, scheduler
from treadle.serving.dataplane import Request

torch.manual_seed(0)
RNN = td.Recurrent(td.Stack([td.LSTMCell(3, 5), td.GRUCell(5, 7)]))
RANDOM = np.random.default_rng(0)


def rows(*shape):
    return RANDOM.standard_normal((*shape, 3), np.float32)


def alone(xs, rnn=RNN):
    """What a lone session gives."""
    session = rnn.session()
    return np.stack([np.array(session.step(x)) for x in xs])


@pytest.fixture
def together(request, monkeypatch):
    """Whether requests wait for others that come at the same time, as those of larger networks do, or none does."""
    found = getattr(request, "param", True)
    monkeypatch.setattr(scheduler, "AT_ONCE", 0.0 if found else 1.0)
    return found


def test_a_sequence_gives_the_bits_of_a_session():
    xs = rows(9)

    async def work(client, plane):
        return [await client.step("m", x, id=7, start=t == 0, end=t == 8) for t, x in enumerate(xs)]

    assert np.array_equal(served({"m": RNN}, work), alone(xs))


def test_blocks_and_rows_without_a_sequence_give_the_same():
    xs = rows(2, 37)

    async def work(client, plane):
        first = numbers(await client.post("m", xs[:1, :20], id="a", start=True))
        second = numbers(await client.post("m", xs[:1, 20:], id="a"))
        both = numbers(await client.post("m", xs))
        single = numbers(await client.post("m", xs[:, 0]))
        assert not plane.model("m").latest.living - set(plane.model("m").sequences.values())
        return np.concatenate([first, second], 1), both, single

    blocks, both, single = served({"m": RNN}, work)
    expected = np.stack([alone(row) for row in xs])
    assert np.array_equal(blocks[0], expected[0])
    assert np.array_equal(both, expected)
    assert np.array_equal(single, expected[:, 0])


@pytest.mark.parametrize("together", [False, True], indirect=True)
def test_many_clients_with_retries_starts_and_ends_at_random(together):
    """Each client's numbers are those of a session alone; every step is taken once."""

    async def one(client, number):
        random = np.random.default_rng(number)
        for _ in range(2):
            xs = random.standard_normal((random.integers(1, 9), 3)).astype(np.float32)
            expected = alone(xs)
            for t, x in enumerate(xs):
                last = t == len(xs) - 1
                for _ in range(random.integers(1, 4)):
                    y = await client.step("m", x, id=f"client {number}", start=t == 0, end=last, step=t)
                    assert np.array_equal(y, expected[t])

    async def work(client, plane):
        await asyncio.gather(*(one(client, number) for number in range(40)))
        live = plane.model("m").latest
        assert not plane.model("m").sequences
        assert not live.living
        assert live.counts.steps == sum(live.counts.by_rows[n] * n for n in range(17))
        most = max(n for n, turns in enumerate(live.counts.by_rows) if turns)
        assert most > 1 if together else most == 1

    served({"m": RNN}, work)


def test_a_retry_gets_the_kept_answer_and_steps_never_twice():
    xs = rows(4)
    expected = alone(xs)

    async def work(client, plane):
        for t in range(3):
            for _ in range(2):
                assert np.array_equal(await client.step("m", xs[t], id=1, start=t == 0, step=t), expected[t])
        with refused(409, "at step 3", "step 1") as found:
            found(await client.post("m", xs[1:2], id=1, step=1))
        with refused(409, "step 5") as found:
            found(await client.post("m", xs[1:2], id=1, step=5))
        with refused(409, "step 2", "another input") as found:
            found(await client.post("m", xs[:1], id=1, step=2))
        with refused(409, "at step 3", "step 0") as found:
            found(await client.post("m", xs[:1], id=1, step=0, start=True))
        for _ in range(2):
            assert np.array_equal(await client.step("m", xs[3], id=1, step=3, end=True), expected[3])
        assert plane.model("m").latest.counts.steps == 4

    served({"m": RNN}, work)


def test_a_start_begins_again_from_the_initial_state():
    xs = rows(3)

    async def work(client, plane):
        for _ in range(2):
            ys = [await client.step("m", x, id="a", start=t == 0) for t, x in enumerate(xs)]
            assert np.array_equal(ys, alone(xs))

    served({"m": RNN}, work)


def test_numbers_that_are_not_finite_are_refused_before_they_touch_a_state():
    xs = rows(2)

    async def work(client, plane):
        first = await client.step("m", xs[0], id=1, start=True)
        with refused(400, "not finite") as found:
            found(await client.post("m", np.array([[0, 1e300, 0]]), id=1, datatype="FP64"))
        return first, await client.step("m", xs[1], id=1)

    assert np.array_equal(served({"m": RNN}, work), alone(xs))


def test_a_token_that_there_is_not_harms_nobody_else():
    graph = td.Graph(())
    embedded = graph.add("embedded", torch.nn.Embedding(16, 8), reads=graph.x)
    rnn = td.Recurrent(graph.outputs(graph.add("layer", td.GRUCell(8, 5), reads=embedded)))

    async def work(client, plane):
        async def step(id, token):
            return await client.post("m", [token], id=id, start=True, datatype="INT64")

        good, bad, other = await asyncio.gather(step(1, 3), step(2, 16), step(3, 3))
        with refused(400, "0 to 15") as found:
            found(bad)
        assert good.status_code == other.status_code == 200
        return numbers(good)[0]

    assert np.array_equal(served({"m": rnn}, work), np.array(rnn.session().step(np.int64(3))))


def test_why_a_sequence_is_no_more_is_told_apart():
    async def work(client, plane):
        with refused(404, "'a'", "never begun") as found:
            found(await client.post("m", rows(1), id="a"))
        for id in "abc":
            await client.step("m", rows(), id=id, start=True, end=id == "b")
        with refused(OVER, "'b'", "has ended", "step 1") as found:
            found(await client.post("m", rows(1), id="b"))
        await client.http.delete("/v2/models/m/sequences/c")
        with refused(OVER, "deleted") as found:
            found(await client.post("m", rows(1), id="c"))
        plane.model("m").expire(plane._loop.time() + 1000)
        with refused(OVER, "'a'", "expired") as found:
            found(await client.post("m", rows(1), id="a"))
        counts = plane.model("m").latest.counts
        assert dict(counts.ended) == {"ended": 1, "deleted": 1, "expired": 1}
        assert counts.begun == 3
        assert not plane.model("m").sequences

    served({"m": RNN}, work)


@pytest.mark.usefixtures("together")
def test_more_than_can_wait_is_refused_at_once():
    async def work(client, plane):
        found = await asyncio.gather(*(client.post("m", rows(1), id=n + 1, start=True) for n in range(30)))
        busy = [one for one in found if one.status_code != 200]
        assert 0 < len(busy) < 30
        for one in busy:
            assert one.status_code == 429
            assert int(one.headers["retry-after"]) >= 1
        assert plane.rejected == {"busy": len(busy)}

    served({"m": RNN}, work, Options(queue=8))


def test_a_request_that_waits_too_long_takes_no_step():
    async def work(client, plane):
        await client.step("m", rows(), id=1, start=True)
        scheduler = plane.model("m").latest.scheduler
        scheduler._running = True  # a turn that does not end
        late = asyncio.create_task(client.post("m", rows(1), id=1, timeout=1000))
        await asyncio.sleep(0.05)
        scheduler._running = False
        scheduler._wake()
        with refused(504, "deadline") as found:
            found(await late)
        assert plane.model("m").latest.counts.steps == 1

    served({"m": RNN}, work)


@pytest.mark.parametrize("together", [False, True], indirect=True)
def test_a_request_without_time_left_takes_no_step(together):
    async def work(client, plane):
        await client.step("m", rows(), id=1, start=True)
        with pytest.raises(Refused, match="deadline"):
            await plane.infer("m", None, "", Request({"x": rows(1)}, "1", timeout=0.0))
        assert (await client.http.get("/v2/models/m/sequences/1")).json()["step"] == 1

    served({"m": RNN}, work)


@pytest.mark.parametrize("together", [False, True], indirect=True)
def test_steps_are_counted_however_they_are_taken(together):
    xs = rows(5)

    async def work(client, plane):
        ys = [await client.step("m", x, id=1, start=t == 0) for t, x in enumerate(xs)]
        assert (await client.http.get("/v2/models/m/sequences/1")).json()["step"] == 5
        (said,) = (await client.http.get("/v2/models/m/stats")).json()["model_stats"]
        assert (said["inference_count"], said["execution_count"]) == (5, 5)
        assert said["inference_stats"]["success"]["count"] == 5
        assert said["inference_stats"]["success"]["ns"] >= said["inference_stats"]["compute_infer"]["ns"] > 0
        assert abs(said["last_inference"] / 1e3 - time.time()) < 60
        return ys

    assert np.array_equal(served({"m": RNN}, work), alone(xs))


@pytest.mark.usefixtures("together")
def test_limits_on_sequences_and_on_requests_of_one():
    async def work(client, plane):
        for id in (1, 2):
            await client.step("m", rows(), id=id, start=True)
        with refused(429, "2 sequences") as found:
            found(await client.post("m", rows(1), id=3, start=True))
        found = await asyncio.gather(*(client.post("m", rows(1), id=1) for _ in range(12)))
        assert sorted({one.status_code for one in found}) == [200, 429]
        await client.step("m", rows(), id=1, end=True)
        await client.step("m", rows(), id=3, start=True)

    served({"m": RNN}, work, Options(sequences=2, pending=4))


def test_nobody_fills_a_queue_that_others_need():
    """With half of it taken, a sequence that waits already is refused, one that does not is let in."""

    async def work(client, plane):
        for id in (1, 2, 3):
            await client.step("m", rows(), id=id, start=True)
        scheduler = plane.model("m").latest.scheduler
        scheduler._running = True  # a turn that does not end
        waiting = [asyncio.create_task(client.post("m", rows(1), id=1)) for _ in range(5)]
        while scheduler.queued < 4:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        assert scheduler.queued == 4
        other = asyncio.create_task(client.post("m", rows(1), id=2))
        while scheduler.queued < 5:
            await asyncio.sleep(0.001)
        with refused(429, "wait already") as found:
            found(await client.post("m", rows(1), id=2))
        scheduler._running = False
        scheduler._wake()
        assert sorted([one.status_code for one in await asyncio.gather(*waiting)]) == [200] * 4 + [429]
        assert (await other).status_code == 200

    served({"m": RNN}, work, Options(queue=8))


def test_only_turns_with_steps_say_how_long_turns_take():
    async def work(client, plane):
        await client.step("m", rows(), id=1, start=True)
        scheduler = plane.model("m").latest.scheduler
        before = scheduler.seconds, scheduler.shortest
        assert (await client.http.get("/v2/models/m/sequences/1")).json()["step"] == 1
        assert (scheduler.seconds, scheduler.shortest) == before

    served({"m": RNN}, work)


def test_long_turns_leave_the_event_loop():
    xs = rows(50)

    async def work(client, plane):
        plane.model("m").latest.scheduler.seconds = 1.0
        first = client.post("m", xs[None], id=1, start=True)
        second = client.post("m", xs[None], id=2, start=True)
        return [numbers(one)[0] for one in await asyncio.gather(first, second)]

    for ys in served({"m": RNN}, work):
        assert np.array_equal(ys, alone(xs))


def test_states_can_be_taken_along(tmp_path):
    xs = rows(6)
    expected, path = alone(xs), tmp_path / "state.safetensors"

    async def work(client, plane):
        for t in range(3):
            await client.step("m", xs[t], id="a", start=t == 0)
        content = (await client.http.get("/v2/models/m/sequences/a/state")).content
        path.write_bytes(content)
        state = td.load_state(path, RNN)
        put = await client.http.put("/v2/models/m/sequences/b/state", content=content)
        assert put.json() == {"model_name": "m", "sequence_id": "b", "step": 3}
        about = (await client.http.get("/v2/models/m/sequences/b")).json()
        assert about["step"] == 3
        for t in range(3, 6):
            assert np.array_equal(await client.step("m", xs[t], id="b", step=t), expected[t])
            y, state = RNN.step(torch.from_numpy(xs[t : t + 1]), state)
            assert np.allclose(y[0].detach(), expected[t], atol=1e-5)
        td.save_state(path, state, RNN)
        put = await client.http.put("/v2/models/m/sequences/a/state?step=9", content=path.read_bytes())
        assert put.json()["step"] == 9
        with refused(404, "never begun") as found:
            found(await client.http.get("/v2/models/m/sequences/nobody/state"))
        for wrong, words in ((b"nothing", "whole safetensors"), (content[:-3], "whole safetensors")):
            with refused(409, words) as found:
                found(await client.http.put("/v2/models/m/sequences/b/state", content=wrong))
        td.save_state(path, td.GRUCell(3, 5).initial_state(1), td.GRUCell(3, 5))
        with refused(409, "another network") as found:
            found(await client.http.put("/v2/models/m/sequences/b/state", content=path.read_bytes()))
        assert (await client.http.get("/v2/models/m/sequences/b")).json()["step"] == 6

    served({"m": RNN}, work)


def test_ids_belong_to_the_owner_of_the_token():
    tokens = {"the-token-of-anna": "anna", "another-token-of-anna": "anna", "the-token-of-ben": "ben"}
    xs = rows(2)

    async def work(anna, plane):
        first = await anna.step("m", xs[0], id=1, start=True)
        ben, other = type(anna)(anna.http, "the-token-of-ben"), type(anna)(anna.http, "another-token-of-anna")
        with refused(404, "never begun") as found:
            found(await ben.post("m", xs[1:], id=1))
        for token in (None, "the-token-of-nobody", "é" * 20):
            stranger = type(anna)(anna.http, token and token.encode().decode("latin-1"))
            stranger.headers = {name: value.encode("latin-1") for name, value in stranger.headers.items()}
            with refused(401, "token") as found:
                found(await stranger.post("m", xs[1:], id=1))
        assert (await anna.http.get("/v2/health/live")).status_code == 200
        assert (await anna.http.get("/v2/models/m")).status_code == 401
        return first, await other.step("m", xs[1], id=1)

    assert np.array_equal(served({"m": RNN}, work, token="the-token-of-anna", tokens=tokens), alone(xs))


@pytest.mark.parametrize("rate", [3.0])
def test_who_sends_too_much_is_slowed_down(rate):
    async def work(client, plane):
        found = [await client.post("m", rows(1), id=1, start=True) for _ in range(5)]
        assert [one.status_code for one in found].count(429) >= 1
        assert found[0].status_code == 200

    served({"m": RNN}, work, Options(rate=rate))
