"""Nobody gets in who does not belong, and nobody who misbehaves does harm."""

import asyncio
import contextlib
import datetime
import gc
import random
import socket
import ssl
import struct

import httpx
import numpy as np
import pytest
import torch

import treadle as td
from tests.serving.clients import Options, listening, refused, served
from treadle.errors import DataError
from treadle.serving.server import Certificates
from treadle.serving.tokens import Tokens

torch.manual_seed(0)
RNN = td.Recurrent(td.LSTMCell(3, 5))
X = np.ones((1, 3), np.float32)


def test_pages_of_others_may_not_ask():
    async def work(client, plane):
        def get(**headers):
            return client.http.get("/v2", headers=headers)

        assert (await get()).status_code == 200
        assert (await get(Origin="http://server")).status_code == 200
        allowed = await get(Origin="https://friend.example")
        assert allowed.headers["access-control-allow-origin"] == "https://friend.example"
        for origin in ("http://evil.example", "null", "http://server.evil.example"):
            with refused(403, "may not ask") as found:
                found(await get(Origin=origin))
        preflight = {"Origin": "https://friend.example", "Access-Control-Request-Method": "PUT"}
        assert (await client.http.options("/v2", headers=preflight)).status_code == 200

    served({"m": RNN}, work, origins=["https://friend.example"])


def test_a_name_that_was_made_to_lead_here_is_refused():
    async def work(server):
        async with httpx.AsyncClient(base_url=server.addresses["http"]) as http:
            assert (await http.get("/v2")).status_code == 200
            with refused(403, "evil.example") as found:
                found(await http.get("/v2", headers={"Host": "evil.example"}))

    listening({"m": RNN}, work)


def test_a_file_of_tokens(tmp_path):
    path = tmp_path / "tokens"
    path.write_text("# who may ask\nanna the-token-of-anna\n\nsomebodys-own-token  # alone\n")
    tokens = Tokens.read(path)
    assert tokens.owner("Bearer the-token-of-anna") == "anna"
    assert tokens.owner("bearer somebodys-own-token") not in ("", "anna")
    for text, words in (
        ("", "no tokens"),
        ("short", "line 1"),
        ("a b the-token-of-anna", "line 1"),
        ("the-token-of-anna\nben the-token-of-anna", "twice"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=words):
            Tokens.read(path)


def certificates(folder):
    """A certificate for localhost that signs itself."""
    x509 = pytest.importorskip("cryptography.x509", reason="no cryptography")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = Certificates(folder / "certificate.pem", folder / "key.pem")
    files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    files.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return files


def test_tls_on_all_of_them(tmp_path):
    files = certificates(tmp_path)
    grpc = pytest.importorskip("grpc", reason="no grpcio")

    async def work(server):
        address = server.addresses["http"].replace("127.0.0.1", "localhost")
        assert address.startswith("https://")
        trust = ssl.create_default_context(cafile=str(files.certificate))
        async with httpx.AsyncClient(base_url=address, verify=trust) as http:
            assert (await http.get("/v2")).status_code == 200
        credentials = grpc.ssl_channel_credentials(files.certificate.read_bytes())
        place = server.addresses["grpc"].replace("127.0.0.1", "localhost")
        async with grpc.aio.secure_channel(place, credentials) as channel:
            live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            assert await live(b"") == b"\x08\x01"

    listening({"m": RNN}, work, certificates=files)


def malformed():
    """What a server may be sent, 300 kinds of it."""
    draw = random.Random(0)
    good = b'{"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}'
    post = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\n"
    upgrade = (
        b"GET /v2/models/m/sequences/a/stream?start=true HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    yield b""  # half-open: connects and says nothing
    yield post
    yield post + b"Content-Length: 1000000\r\n\r\n"
    yield post + b"Content-Length: -1\r\n\r\n"
    yield post + b"Content-Length: 10\r\nContent-Length: 20\r\n\r\n" + good
    yield post + b"Transfer-Encoding: chunked\r\n\r\nZZZ\r\n"
    yield post + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"
    yield post + b"X: " + b"a" * 100_000 + b"\r\n\r\n"
    yield post + b"X: a\r\n" * 20_000 + b"\r\n"
    yield b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    yield b"GET http://other/ HTTP/1.1\r\n\r\n"
    yield b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + draw.randbytes(200)
    yield upgrade.replace(b"13", b"7")
    yield upgrade.replace(b"AAAA", b"!")
    for frame in (b"\x82\xff" + b"\xff" * 8, b"\x82\x0c" + b"0" * 12, b"\x8f\x80" + b"0" * 4, b"\x88\x81\0\0\0\0a"):
        yield upgrade + frame
    while True:
        kind = draw.randrange(4)
        if kind == 0:
            yield draw.randbytes(draw.randrange(1, 400))
        elif kind == 1:  # a request with some bytes changed
            head = post + b"Content-Length: %d\r\n\r\n" % len(good)
            spoilt = bytearray(head + good)
            for _ in range(draw.randrange(1, 5)):
                spoilt[draw.randrange(len(spoilt))] = draw.randrange(256)
            yield bytes(spoilt)
        elif kind == 2:  # a request that breaks off
            yield (post + b"Content-Length: %d\r\n\r\n" % len(good) + good)[: draw.randrange(200)]
        else:
            head = bytes([draw.randrange(256), 0x80 | draw.randrange(126)])
            yield upgrade + head + struct.pack("!I", draw.randrange(2**32)) + draw.randbytes(draw.randrange(100))


@pytest.mark.slow
def test_three_hundred_kinds_of_nonsense_do_no_harm(caplog):
    async def one(host, port, content):
        reader, writer = await asyncio.open_connection(host, port)
        with contextlib.suppress(OSError):
            writer.write(content)
            await writer.drain()
            if len(content) % 3:
                writer.write_eof()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    while await reader.read(1 << 16):
                        pass
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def work(server):
        host, port = server.addresses["http"].removeprefix("http://").split(":")
        places = [(host, int(port)), server.addresses["grpc"].split(":")]
        kinds = malformed()
        for _ in range(30):
            contents = [next(kinds) for _ in range(10)]
            await asyncio.gather(*(one(*place, content) for content in contents for place in places))
        async with httpx.AsyncClient(base_url=server.addresses["http"]) as http:
            assert (await http.get("/v2/models/m")).status_code == 200
        plane = server.plane
        live = plane.model("m").latest
        assert live.scheduler.queued == 0
        assert len(live.living) <= 2  # what was well-formed by chance
        gc.collect()
        assert len(asyncio.all_tasks()) < 20
        return plane

    plane = listening({"m": RNN}, work, Options(idle=1000))
    assert "Traceback" not in caplog.text
    assert "failed" not in plane.rejected


def test_who_reads_nothing_is_not_waited_for():
    """A WebSocket whose client sends and never reads: what waits for it stays small."""
    websockets = pytest.importorskip("websockets", reason="no websockets")

    async def work(server):
        address = server.addresses["http"].replace("http", "ws", 1)
        async with websockets.connect(f"{address}/v2/models/m/sequences/a/stream?start=true", max_queue=1) as socket:
            content = np.ones((20_000, 3), np.float32).tobytes()

            async def send():
                for _ in range(200):
                    await socket.send(content)

            sending = asyncio.create_task(send())
            async with httpx.AsyncClient(base_url=server.addresses["http"]) as http:
                for _ in range(20):
                    assert (await http.get("/v2/health/ready")).status_code == 200
                    await asyncio.sleep(0.01)
            live = server.plane.model("m").latest
            assert live.scheduler.queued <= 16
            sending.cancel()
            socket.transport.abort()

    listening({"m": RNN}, work)


def test_a_port_that_is_taken_is_said():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        from treadle.serving.addresses import Address

        with pytest.raises(OSError, match="already in use"):
            Address(*taken.getsockname()).listen("http")
