"""A registry's answers are read to the end, but not for long."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kfp_vision.core.errors import InputError, UnreachableError
from kfp_vision.repository import registry_api
from kfp_vision.repository.registry_api import RegistryApi


class Registry(BaseHTTPRequestHandler):
    """Answers whole, in chunks, with an error, or a byte at a time for a minute."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        kind = self.path.strip("/")
        body = b'{"message": "no\\nroom"}' if kind == "full" else b'{"name": "roses"}'
        self.send_response(507 if kind == "full" else 200)
        if kind == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for half in (body[:5], body[5:], b""):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(half), half))
            return
        self.send_header("Content-Length", str(600 if kind == "slow" else len(body)))
        self.end_headers()
        try:
            for _ in range(600 if kind == "slow" else 0):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.1)
        except OSError:  # the client has had enough
            self.close_connection = True
            return
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def api() -> Iterator[RegistryApi]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        server.daemon_threads = False
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield RegistryApi(f"http://127.0.0.1:{server.server_port}", {})
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("kind", ["whole", "chunked"])
def test_an_answer_is_read_to_its_end(api, kind):
    assert api.get(kind) == {"name": "roses"}


def test_what_the_registry_says_of_an_error_is_told_in_one_line(api):
    with pytest.raises(InputError, match=r"HTTP 507 from http://127\.0\.0\.1:\d+/full: no room"):
        api.get("full")


def test_an_answer_that_trickles_in_is_given_up(api, monkeypatch):
    monkeypatch.setattr(registry_api, "MAX_SECONDS", 0.5)
    with pytest.raises(UnreachableError, match="a model registry must answer; got Timeout from "):
        api.get("slow")


def test_an_endless_answer_is_given_up(api, monkeypatch):
    monkeypatch.setattr(registry_api, "MAX_ANSWER_BYTES", 10)
    with pytest.raises(UnreachableError, match="a model registry must answer; got Timeout from "):
        api.get("whole")
