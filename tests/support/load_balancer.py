"""An address before several servers, as a service of Kubernetes is one: each new connection leads to the next of them."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests

SECONDS = 30
HOP_BY_HOP = ("connection", "content-length", "date", "keep-alive", "server", "transfer-encoding")


class Front(ThreadingHTTPServer):
    """The address.

    Args:
        choose: gives the server that a new connection leads to, `http://host:port`.
        hidden: headers of answers that do not come through.

    Attributes:
        led: where each connection led, in their order.
    """

    daemon_threads = True

    def __init__(self, choose: Callable[[], str], hidden: tuple[str, ...] = ()):
        self.choose, self.hidden, self.led = choose, hidden, list[str]()
        super().__init__(("127.0.0.1", 0), _Connection)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Connection(BaseHTTPRequestHandler):
    """A connection, of as many requests as the client likes: all go to the one server that it was led to."""

    protocol_version = "HTTP/1.1"
    server: Front

    def setup(self) -> None:
        super().setup()
        self.chosen = self.server.choose()
        self.server.led.append(self.chosen)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, *_: object) -> None:
        """Nothing: a test says what it has seen."""

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
    """The address, as long as the body lasts."""
    with Front(choose, hidden) as front:
        thread = threading.Thread(target=front.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield front
        finally:
            front.shutdown()
            thread.join()
