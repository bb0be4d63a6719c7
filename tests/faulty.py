"""A line to a server on which things go wrong, in a pattern that a seed decides."""

import asyncio
import contextlib
import hashlib
import random
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence

FATES = ("drop", "busy", "delay", "cut")
DELAY_SECONDS = 0.05
ETAG = re.compile(rb"""(?<=Etag: ")[0-9a-f]{32}|(?<=<ETag>)[0-9a-f]{32}""")  # as rclone writes them
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


class Line:
    """A proxy for one HTTP server; a share of all requests is dropped, delayed, answered with 503, or cut short.

    Attributes:
        address: `host:port` to ask instead of the server.
        requests: how many came.
        fates: what went wrong, and how many times.
        sent: bytes of bodies that went through.
        most: requests that were on their way at a time.
    """

    def __init__(self, port: int, share: float, seed: int, fates: Sequence[str], spared: int, encrypted: bool):
        self._port, self._share, self._chance = port, share, random.Random(seed)
        self._fates, self._spared, self._encrypted = fates, spared, encrypted
        self.address, self.requests, self.sent = "", 0, 0
        self.most, self._now = 0, 0
        self.fates: Counter[str] = Counter()

    async def run(self, ready: threading.Event) -> None:
        """Listens until `end` is called; says when it has begun to."""
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            ready.set()
            await self._ended.wait()

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)

    def _fate(self) -> str:
        self.requests += 1
        fate = self._chance.choice(self._fates) if self._chance.random() < self._share else ""
        self.fates[fate] += bool(fate)
        return fate

    async def _serve(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while await self._relay(await client.readuntil(b"\r\n\r\n"), answer):
                    await answer.drain()
        finally:
            answer.transport.abort()

    async def _relay(self, request: bytes, answer: asyncio.StreamWriter) -> bool:
        """Answers one request, and says whether the line holds."""
        fate = self._fate()
        if fate == "drop":
            return False
        if fate == "busy":
            answer.write(BUSY)
            return True
        if fate == "delay":
            await asyncio.sleep(DELAY_SECONDS)
        server, asked = await asyncio.open_connection("127.0.0.1", self._port)
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            asked.write(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            head = await server.readuntil(b"\r\n\r\n")
            body = b"" if request.startswith(b"HEAD ") else await server.read()
        finally:
            self._now -= 1
            asked.transport.abort()
        if self._encrypted:  # such a store's ETags look like an MD5 and are none
            head, body = (ETAG.sub(lambda tag: hashlib.md5(tag[0]).hexdigest().encode(), part) for part in (head, body))
        cut = fate == "cut" and len(body) > self._spared
        body = body[: (len(body) + 1) // 2] if cut else body
        self.sent += len(body)
        answer.write(head + body)
        await answer.drain()
        return not cut and b"connection: close" not in head.lower()


@contextlib.contextmanager
def line(
    port: int, *, share: float = 0.2, seed: int = 0, fates: Sequence[str] = FATES, spared: int = 0, encrypted: bool = False
) -> Iterator[Line]:
    """A faulty line to the server on a port of this machine.

    Args:
        port: the server's.
        share: of the requests for which something goes wrong.
        seed: of the pattern.
        fates: what goes wrong.
        spared: bodies of so many bytes are never cut.
        encrypted: ETags are turned into others that look the same.
    """
    made = Line(port, share, seed, fates, spared, encrypted)
    ready = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(made.run(ready)))
    thread.start()
    ready.wait()
    try:
        yield made
    finally:
        made.end()
        thread.join()
