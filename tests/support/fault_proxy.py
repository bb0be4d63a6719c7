"""A line to a server on which things go wrong, in a pattern that a seed decides."""

import contextlib
import hashlib
import math
import random
import re
import socket
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from support.model_servers import Stoppable

FATES = ("drop", "busy", "delay", "cut")
DELAY_SECONDS = 0.05
ETAG = re.compile(rb"""(?<=Etag: ")[0-9a-f]{32}|(?<=<ETag>)[0-9a-f]{32}""")  # as rclone writes them
LENGTH = re.compile(rb"\r\nContent-Length: (\d+)\r\n", re.IGNORECASE)
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"


class Line:
    """A proxy for one HTTP server; a share of all requests is dropped, delayed, answered with 503, or cut short.

    With the fate `spoil`, which is none of `FATES`, a byte of what is sent to the server becomes another; with `forbid`,
    which is none either, whatever would make something there is answered with 403. While it is `gone`, all are dropped.

    Attributes:
        address: `host:port` to ask instead of the server.
        requests: how many came.
        fates: what went wrong, and how many times.
        sent: bytes of bodies that went through.
        now, most: requests that are on their way, and the most that were at a time.
        gone: whether the server is.
    """

    def __init__(self, port: int, share: float, seed: int, fates: Sequence[str], spared: int, encrypted: bool, after: int):
        self._after = after
        self._port, self._share, self._chance = port, share, random.Random(seed)
        self._fates, self._spared, self._encrypted = fates, spared, encrypted
        self.address, self.requests, self.sent = "", 0, 0
        self.now, self.most = 0, 0
        self.fates: Counter[str] = Counter()
        self.gone, self.goes_after = threading.Event(), math.inf
        self._lock = threading.Lock()

    def _fate(self) -> str:
        with self._lock:
            self.requests += 1
            if self.requests > self.goes_after:
                self.gone.set()
                self.goes_after = math.inf
            if self.gone.is_set():
                self.fates["gone"] += 1
                return "drop"
            befallen = self._chance.random() < self._share and self.requests > self._after
            fate = self._chance.choice(self._fates) if befallen else ""
            self.fates[fate] += bool(fate)
            return fate

    def relay(self, request: bytes, answer: BinaryIO) -> bool:
        """Answers one request, and says whether the line holds."""
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            return self._relayed(request, answer, self._fate())
        finally:
            with self._lock:
                self.now -= 1

    def _relayed(self, request: bytes, answer: BinaryIO, fate: str) -> bool:
        if fate == "drop":
            return False
        if fate == "busy":
            answer.write(BUSY)
            return True
        if fate == "forbid" and request.startswith((b"PUT ", b"POST ")):
            answer.write(FORBIDDEN)
            return True
        if fate == "delay":
            time.sleep(DELAY_SECONDS)
        if fate == "spoil" and not request.endswith(b"\r\n\r\n"):
            half = (request.index(b"\r\n\r\n") + 4 + len(request)) // 2
            request = request[:half] + bytes([request[half] ^ 1]) + request[half + 1 :]
        head, body = _asked(self._port, request)
        if self._encrypted:  # such a store's ETags look like an MD5 and are none
            head, body = (ETAG.sub(lambda tag: hashlib.md5(tag[0]).hexdigest().encode(), part) for part in (head, body))
        cut = fate == "cut" and len(body) > self._spared
        body = body[: (len(body) + 1) // 2] if cut else body
        with self._lock:
            self.sent += len(body)
        answer.write(head + body)
        return not cut and not self.gone.is_set() and b"connection: close" not in head.lower()


def _asked(port: int, request: bytes) -> tuple[bytes, bytes]:
    with socket.create_connection(("127.0.0.1", port)) as server, server.makefile("rb") as answer:
        server.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
        head = _until_empty_line(answer)
        return head, b"" if request.startswith(b"HEAD ") else answer.read()


def _request(stream: BinaryIO) -> bytes:
    """The next request with its body; nothing where the other side is gone."""
    head = _until_empty_line(stream)
    length = LENGTH.search(head)
    return head + (stream.read(int(length[1])) if length else b"")


def _until_empty_line(stream: BinaryIO) -> bytes:
    """A request's or an answer's lines before its body; nothing where the other side is gone."""
    lines = []
    while (line := stream.readline()) and line != b"\r\n":
        lines.append(line)
    return b"".join([*lines, line]) if line else b""


class _Server(socketserver.ThreadingTCPServer):
    """Relays what comes; when it is closed, whoever still holds a connection is hung up on."""

    request_queue_size = 100
    allow_reuse_address = True

    def __init__(self, line: Line, port: int = 0):
        self.line = line
        self.held: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def get_request(self) -> tuple[socket.socket, object]:
        connection, client = super().get_request()
        self.held.add(connection)
        return connection, client

    def server_close(self) -> None:
        for connection in self.held:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while (request := _request(self.rfile)) and self.server.line.relay(request, self.wfile):
                pass


@contextlib.contextmanager
def line(
    port: int,
    *,
    share: float = 0.2,
    seed: int = 0,
    fates: Sequence[str] = FATES,
    spared: int = 0,
    encrypted: bool = False,
    after: int = 0,
) -> Iterator[Line]:
    """A faulty line to the server on a port of this machine.

    Args:
        port: the server's.
        share: of the requests for which something goes wrong.
        seed: of the pattern.
        fates: what goes wrong.
        spared: bodies of so many bytes are never cut.
        encrypted: ETags are turned into others that look the same.
        after: so many requests, the first ones, go well.
    """
    made = Line(port, share, seed, fates, spared, encrypted, after)
    with _held(made):
        yield made


@contextlib.contextmanager
def outage(port: int, *, after: int, seconds: float | None = None, server: Stoppable | None = None) -> Iterator[Line]:
    """A line to a server that goes away: whoever holds a connection is hung up on, and nobody takes a new one.

    Args:
        port: the server's.
        after: how many requests are answered before.
        seconds: how long it is gone; by default for good.
        server: is stopped meanwhile, in the middle of its answers, and started again in the end.
    """
    made = Line(port, 0, 0, FATES, 0, False, 0)
    made.goes_after = after
    opened, over = threading.Event(), threading.Event()

    def come_and_go(own: int) -> None:
        with _held(made, own):
            opened.set()
            made.gone.wait()
            if server:
                server.stop()
            while made.now:  # what it has begun to answer it does
                time.sleep(0.001)
        back = not over.wait(seconds)
        if server:
            server.start()
        if back:
            made.gone.clear()
            with _held(made, own):
                over.wait()

    with _kept() as kept:
        thread = threading.Thread(target=come_and_go, args=[kept])
        thread.start()
        opened.wait()
        try:
            yield made
        finally:
            over.set()
            made.gone.set()
            thread.join()


@contextlib.contextmanager
def _kept() -> Iterator[int]:
    """A port that nobody else is given, not even as their own end of a connection, while nobody listens on it."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        yield port


@contextlib.contextmanager
def _held(made: Line, port: int = 0) -> Iterator[None]:
    """Has a line relay what comes to a port of its own, or to this one."""
    with _Server(made, port) as server:
        made.address = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
