"""A connection takes headers up to a limit, and closes on those that go on without end."""

import asyncio

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from support import coroutines
from uvicorn.server import ServerState

from kfp_vision.serving.connections import MAX_HEADER_BYTES, DeadlineConnection

START, KIB = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", 1 << 10


async def application(scope, receive, send) -> None:
    size = len(await Request(scope, receive).body())
    await PlainTextResponse(f"a body of {size}")(scope, receive, send)


def answer(pieces: list[bytes]) -> bytes:
    """Returns all that a server answers to what is sent."""
    config = uvicorn.Config(application, log_config=None)
    config.load()

    async def ask() -> bytes:
        server = await asyncio.get_running_loop().create_server(
            lambda: DeadlineConnection(config=config, server_state=ServerState(), app_state={}), "127.0.0.1", 0
        )
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            received = await reader.read()
            writer.close()
            return received

    return coroutines.result(ask())


@pytest.mark.parametrize("header", [b"X-%d: %b\r\n" % (7, b"a" * KIB), b"a" * KIB], ids=["many headers", "one header"])
def test_headers_without_end_are_refused(header):
    endless = (header * (MAX_HEADER_BYTES // len(header) + 1))[: MAX_HEADER_BYTES - len(START) + 1]
    refused = answer([START, endless])
    assert refused.startswith(b"HTTP/1.1 431 ") and refused.endswith(b"headers must be at most 1 MiB.")


def test_long_headers_and_longer_bodies_are_taken():
    body = bytes(2 * MAX_HEADER_BYTES)
    headers = b"X: %b\r\nContent-Length: %d\r\n\r\n" % (b"a" * 200 * KIB, len(body))
    for pieces in ([START + headers, body], [START + headers[:-2], b"\r\n" + body]):
        assert answer(pieces).endswith(b"a body of %d" % len(body))
