"""Forwards connections to a local server, delaying each request: `python -m benchmarks.delayed PORT SECONDS`.

Prints the port that it listens on, then runs until terminated.
"""

import asyncio
import contextlib
import sys


async def serve(port: int, seconds: float) -> None:
    """Forwards connections, delaying each chunk of a request.

    Args:
        port: port of the local server.
        seconds: delay per chunk.
    """

    async def relay(client: asyncio.StreamReader, response: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            server, request = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(forward(client, request, seconds), forward(server, response, 0))

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as listening:
        print(listening.sockets[0].getsockname()[1], flush=True)
        await listening.serve_forever()


async def forward(source: asyncio.StreamReader, sink: asyncio.StreamWriter, seconds: float) -> None:
    """Forwards chunks until the source ends.

    Args:
        source: stream to read.
        sink: stream to write.
        seconds: delay per chunk.
    """
    with contextlib.suppress(OSError):
        while chunk := await source.read(1 << 18):
            await asyncio.sleep(seconds)
            sink.write(chunk)
            await sink.drain()
        sink.write_eof()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2])))  # noqa: TID251 - a program of its own
