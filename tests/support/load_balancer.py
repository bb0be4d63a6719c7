"""A load balancer for several servers, like a Kubernetes service: each new connection goes to the next server."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests

SECONDS = 30
HOP_BY_HOP = ("connection", "content-length", "date", "keep-alive", "server", "transfer-encoding")


class Front(ThreadingHTTPServer):
    """The load balancer.

    Args:
        choose: returns the server for a new connection, `http://host:port`.
        hidden: response headers to remove.

    Attributes:
        led: the server of each connection, in order.
    """

    daemon_threads = True

    def __init__(self, choose: Callable[[], str], hidden: tuple[str, ...] = ()):
        self.choose, self.hidden, self.led = choose, hidden, list[str]()
        super().__init__(("127.0.0.1", 0), _Connection)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Connection(BaseHTTPRequestHandler):
    """A client connection, whose requests all go to the server chosen for it."""

    protocol_version = "HTTP/1.1"
    server: Front

    def setup(self) -> None:
        super().setup()
        self.chosen = self.server.choose()
        self.server.led.append(self.chosen)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, *_: object) -> None:
        """Logs nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {"Content-Type": self.headers["Content-Type"]}
        answer = requests.post(self.chosen + self.path, data=body, headers=headers, timeout=SECONDS)
        self.send_response(answer.status_code)
        for name, value in answer.headers.items():
            if name.lower() not in (*HOP_BY_HOP, *self.server.hidden):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)


@contextlib.contextmanager
def fronting(choose: Callable[[], str], hidden: tuple[str, ...] = ()) -> Iterator[Front]:
    """Runs a load balancer during the context."""
    with Front(choose, hidden) as front:
        thread = threading.Thread(target=front.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield front
        finally:
            front.shutdown()
            thread.join()
