"""A line to a server here on which every request takes some time longer: `python -m benchmarks.delayed PORT SECONDS`.

It says at which port it listens, in one line, and goes on until it is told to stop.
"""

import asyncio
import contextlib
import sys


async def serve(port: int, seconds: float) -> None:
    """Passes on what comes, each piece of a request once it has waited."""

    async def relay(client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            server, asked = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(passed_on(client, asked, seconds), passed_on(server, answer, 0))

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as listening:
        print(listening.sockets[0].getsockname()[1], flush=True)
        await listening.serve_forever()


async def passed_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter, seconds: float) -> None:
    """Passes on until the source ends."""
    with contextlib.suppress(OSError):
        while piece := await source.read(1 << 18):
            await asyncio.sleep(seconds)
            sink.write(piece)
            await sink.drain()
        sink.write_eof()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2])))
