"""A faulty proxy for a server, with a reproducible pattern of faults."""

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
BUCKET_REQUEST = re.compile(rb"GET /storage/v1/b/[^/? ]+[? ]")
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"


class Line:
    """A proxy for one HTTP server; a share of the requests is dropped, delayed, answered with 503, or truncated.

    Two more fates are not in `FATES`: `spoil` changes a byte of the request body, and `forbid` answers PUT and POST with 403.
    While `gone` is set, all requests are dropped.

    Attributes:
        address: `host:port` to use instead of the server.
        requests: the number of requests, without those for a bucket itself, which Google's client sends at any time.
        fates: the number of each fault.
        sent: bytes of relayed response bodies.
        now, most: concurrent requests at present, and at most.
        gone: whether the server is unreachable.
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

    def _fate(self, request: bytes) -> str:
        with self._lock:
            self.requests += not BUCKET_REQUEST.match(request)
            if self.requests > self.goes_after:
                self.gone.set()
                self.goes_after = math.inf
            if self.gone.is_set():
                self.fates["gone"] += 1
                return "drop"
            is_faulty = self._chance.random() < self._share and self.requests > self._after
            fate = self._chance.choice(self._fates) if is_faulty else ""
            self.fates[fate] += bool(fate)
            return fate

    def relay(self, request: bytes, answer: BinaryIO) -> bool:
        """Relays one request; returns whether the connection stays open."""
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            return self._relay_with_fate(request, answer, self._fate(request))
        finally:
            with self._lock:
                self.now -= 1

    def _relay_with_fate(self, request: bytes, answer: BinaryIO, fate: str) -> bool:
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
        head, body = _forward(self._port, request)
        if self._encrypted:  # ETags of encrypted objects look like an MD5 but are not
            head, body = (ETAG.sub(lambda tag: hashlib.md5(tag[0]).hexdigest().encode(), part) for part in (head, body))
        cut = fate == "cut" and len(body) > self._spared
        body = body[: (len(body) + 1) // 2] if cut else body
        with self._lock:
            self.sent += len(body)
        answer.write(head + body)
        return not cut and not self.gone.is_set() and b"connection: close" not in head.lower()


def _forward(port: int, request: bytes) -> tuple[bytes, bytes]:
    with socket.create_connection(("127.0.0.1", port)) as server, server.makefile("rb") as answer:
        server.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
        head = _until_empty_line(answer)
        return head, b"" if request.startswith(b"HEAD ") else answer.read()


def _request(stream: BinaryIO) -> bytes:
    """Reads the next request with its body; empty if the client has disconnected."""
    head = _until_empty_line(stream)
    length = LENGTH.search(head)
    return head + (stream.read(int(length[1])) if length else b"")


def _until_empty_line(stream: BinaryIO) -> bytes:
    """Reads the lines of a message up to its body; empty if the peer has disconnected."""
    lines = []
    while (line := stream.readline()) and line != b"\r\n":
        lines.append(line)
    return b"".join([*lines, line]) if line else b""


class _Server(socketserver.ThreadingTCPServer):
    """Relays requests; closing it also closes all open connections."""

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
    """Runs a faulty proxy for the server on a local port.

    Args:
        port: the port of the server.
        share: the share of requests with a fault.
        seed: determines the pattern.
        fates: the kinds of faults.
        spared: bodies up to this many bytes are never truncated.
        encrypted: replaces ETags by others of the same form.
        after: the number of first requests without faults.
    """
    proxy = Line(port, share, seed, fates, spared, encrypted, after)
    with _listening(proxy):
        yield proxy


@contextlib.contextmanager
def outage(port: int, *, after: int, seconds: float | None = None, server: Stoppable | None = None) -> Iterator[Line]:
    """Runs a proxy for a server that becomes unreachable: open connections are closed and new ones refused.

    Args:
        port: the port of the server.
        after: the number of requests answered before.
        seconds: the duration; endless by default.
        server: is killed during the outage, and restarted at its end.
    """
    proxy = Line(port, 0, 0, FATES, 0, False, 0)
    proxy.goes_after = after
    opened, over = threading.Event(), threading.Event()

    def interrupt(own: int) -> None:
        with _listening(proxy, own):
            opened.set()
            proxy.gone.wait()
            if server:
                server.stop()
            while proxy.now:  # requests in progress are completed
                time.sleep(0.001)
        is_restored = not over.wait(seconds)
        if server:
            server.start()
        if is_restored:
            proxy.gone.clear()
            with _listening(proxy, own):
                over.wait()

    with _reserved_port() as reserved:
        thread = threading.Thread(target=interrupt, args=[reserved])
        thread.start()
        opened.wait()
        try:
            yield proxy
        finally:
            over.set()
            proxy.gone.set()
            thread.join()


@contextlib.contextmanager
def _reserved_port() -> Iterator[int]:
    """Reserves a port on which nothing listens, and which no other socket gets."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        yield port


@contextlib.contextmanager
def _listening(proxy: Line, port: int = 0) -> Iterator[None]:
    """Lets a proxy listen on a port; 0 chooses one."""
    with _Server(proxy, port) as server:
        proxy.address = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
