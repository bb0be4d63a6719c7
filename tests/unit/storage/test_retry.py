"""How long a store is waited for: by the clock, anew with all that arrives, and not where it would not help."""

import datetime
import ipaddress
import math
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.model_servers import until
from support.skip import leave_out

from kfp_vision.core import advanced
from kfp_vision.core.errors import InputError
from kfp_vision.preflight import checks
from kfp_vision.storage import base, reading, retry, stores
from kfp_vision.storage.base import Interrupted

CONTENT = b"what was waited for"
BY_FAR = 60.0  # seconds in which everything here has long happened
NOBODY = "http://127.0.0.1:9"  # a port on which nobody listens


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch) -> None:
    """A process that has met no server, and in which nobody has said how long one is waited for."""
    for name in (
        *base.ENVIRONMENT_VARIABLES,
        "http_proxy",
        "HTTP_PROXY",
        "https_proxy",
        "HTTPS_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(retry, "_process", retry.RetryPolicy())
    retry.forget_servers()


class Server(ThreadingHTTPServer):
    """A web server that has one file at every address.

    Attributes:
        refusals: statuses that it answers first, one after the other.
        after: seconds after which it says to come again.
    """

    def __init__(self, port: int = 0):
        super().__init__(("127.0.0.1", port), Answer)
        self.refusals: list[int] = []
        self.after = ""
        self.asked = 0


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.server.asked += 1
        status = self.server.refusals.pop(0) if self.server.refusals else 200
        self.send_response(status)
        self.send_header("Content-Length", str(len(CONTENT) if status == 200 else 0))
        if self.server.after:
            self.send_header("Retry-After", self.server.after)
        self.end_headers()
        if self.command == "GET" and status == 200:
            self.wfile.write(CONTENT)

    do_GET = do_HEAD  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


def serving(server: Server) -> Iterator[Server]:
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    yield from serving(Server())


def read(address: str) -> bytes:
    with reading.Reader() as reader:
        return reader.read(f"{address}/1.jpg")


def refusal(call: Callable[[], object]) -> tuple[str, float]:
    """The one line of a refusal, and the seconds that it took."""
    start = time.monotonic()
    with pytest.raises(InputError) as refused:
        call()
    assert "\n" not in str(refused.value)
    return str(refused.value), time.monotonic() - start


def test_a_server_that_nobody_has_reached_yet_is_waited_for_and_each_try_is_said(monkeypatch, capsys):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(read(f"http://127.0.0.1:{port}")))
    reader.start()
    said: list[str] = []
    until(lambda: said.extend(capsys.readouterr().out.splitlines()) or len(said) >= 2)
    for _ in serving(Server(port)):
        reader.join(BY_FAR)
    assert found == [CONTENT]
    first, second, *_ = said
    assert first.startswith(f"warning: http://127.0.0.1:{port} does not answer (Connection refused); retrying in 0.")
    assert first.endswith(" s, for 10m00s more") and re.search(r" s, for 9m5\ds more$", second)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_server_that_is_busy_is_waited_for(server, status, capsys):
    server.refusals = [status, status]
    assert read(f"http://127.0.0.1:{server.server_port}") == CONTENT
    assert capsys.readouterr().out.count(f"does not answer (HTTP {status}); retrying in ") == 2


def test_a_server_is_left_alone_for_as_long_as_it_asks(server):
    server.refusals, server.after = [503], "1"
    start = time.monotonic()
    assert read(f"http://127.0.0.1:{server.server_port}") == CONTENT
    assert time.monotonic() - start >= 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_server_that_refuses_is_not_waited_for(server, status):
    server.refusals = [status] * 9
    with pytest.raises((InputError, FileNotFoundError)):
        read(f"http://127.0.0.1:{server.server_port}")
    assert server.asked == 1


def test_with_no_patience_it_fails_at_once(server, capsys):
    retry.wait_for_stores(0)
    server.refusals = [503, 503]
    line, _ = refusal(lambda: read(f"http://127.0.0.1:{server.server_port}"))
    assert server.asked == 1 and capsys.readouterr().out == ""
    assert line == (
        f"error: the server must answer; got HTTP 503 at http://127.0.0.1:{server.server_port}/1.jpg. "
        "Check the address and the network, or set store_wait_seconds of advanced to wait longer."
    )


@pytest.mark.parametrize("uri", [f"{NOBODY}/1.jpg", f"s3://bucket/1.jpg?endpoint={NOBODY}"])
def test_it_says_in_the_end_how_long_it_has_waited_and_does_not_wait_again(uri, capsys):
    retry.wait_for_stores({"store_wait_seconds": 1})
    line, seconds = refusal(lambda: reading.describe(uri))
    assert 1 <= seconds < BY_FAR
    assert line.startswith(
        f"error: the server must answer; got Connection refused at {uri.partition('?')[0]}, waited for 1 s. "
    )
    assert line.endswith("or set store_wait_seconds of advanced to wait longer.")
    assert len(capsys.readouterr().out.splitlines()) >= 3
    line, _ = refusal(lambda: reading.describe(uri))  # to clean up, say
    assert "waited" not in line and capsys.readouterr().out == ""


def test_a_name_that_nobody_knows_is_given_up_soon(monkeypatch):
    try:
        socket.getaddrinfo("nowhere.invalid", 80)
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            leave_out("there is no DNS here that says what names there are not")
    monkeypatch.setattr(retry, "SOON", 0.3)
    for uri in ("http://nowhere.invalid/1.jpg", "s3://bucket/1.jpg?endpoint=http://nowhere.invalid"):
        line, seconds = refusal(lambda uri=uri: reading.describe(uri))
        assert seconds < BY_FAR
        assert line.startswith(f"error: the server must answer; got unknown host name at {uri.partition('?')[0]}")


def test_a_name_that_was_known_is_waited_for(server, monkeypatch, capsys):
    address = f"http://localhost:{server.server_port}"
    assert read(address) == CONTENT
    stores._web_store.cache_clear()  # with its connections
    monkeypatch.setattr(retry, "SOON", 0.0)
    ask, forgotten = socket.getaddrinfo, time.monotonic() + 1

    def dns_that_starts_again(*asked, **how):
        if time.monotonic() < forgotten:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return ask(*asked, **how)

    monkeypatch.setattr(socket, "getaddrinfo", dns_that_starts_again)
    assert read(address) == CONTENT
    assert "does not answer (unknown host name); retrying in " in capsys.readouterr().out


def test_a_certificate_that_is_not_trusted_is_not_waited_for(server, tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path / "certificate.pem"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    address = f"https://127.0.0.1:{server.server_port}"
    for uri in (f"{address}/1.jpg", f"s3://bucket/1.jpg?endpoint={address}"):
        line, seconds = refusal(lambda uri=uri: reading.describe(uri))
        assert seconds < BY_FAR and "waited" not in line
        assert "got an untrusted certificate (self-signed certificate) at " in line


def self_signed(file: Path) -> Path:
    """A certificate of this machine that nobody vouches for, with its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "nobody")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(key.private_bytes(*plain) + certificate.public_bytes(serialization.Encoding.PEM))
    return file


def test_the_clock_begins_anew_with_all_that_arrives(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.01)
    retry.wait_for_stores(0.5)
    arrived = 0

    def piece() -> str:
        nonlocal arrived
        if arrived < 6:
            time.sleep(0.2)
            arrived += 1
            raise Interrupted("cut off")
        return "whole"

    start = time.monotonic()
    assert retry.call_with_retries(piece, "s3://bucket/1.jpg", "http://host", lambda: arrived) == "whole"
    assert time.monotonic() - start > 1
    arrived = 0
    line, _ = refusal(lambda: retry.call_with_retries(piece, "s3://bucket/1.jpg", "http://host"))
    assert line.startswith("error: a transfer must complete; got cut off at s3://bucket/1.jpg, waited for ")


def test_pauses_grow_and_no_try_is_left_to_chance_alone(monkeypatch, capsys):
    """Of ten minutes, without waiting for them: the clock is moved by what is slept."""
    now, slept = 1000.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        slept.append(seconds)

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "sleep", sleep)

    def call() -> None:
        raise retry.ServerUnavailable("Connection refused")

    line, _ = refusal(lambda: retry.call_with_retries(call, "s3://bucket/1.jpg", "http://host"))
    assert sum(slept) == pytest.approx(600) and ", waited for 10m00s. " in line
    expected = [0.25 * 2**number for number in range(7)]  # then 20 to 25 s, the last one cut short
    assert all(least <= pause <= least * 1.25 for least, pause in zip(expected, slept, strict=False))
    assert all(20 <= pause <= 25 for pause in slept[7:-1]) and len(slept) < 40
    assert len(capsys.readouterr().out.splitlines()) == len(slept)


@pytest.mark.parametrize(
    ("wait", "environment", "expected"),
    [
        (None, "", 600),
        (None, "42", 42),
        (17, "42", 17),
        ({"store_wait_seconds": 0.0}, "42", 0),
        ({"store_wait_seconds": 600.0}, "42", 42),  # as not given
        ({"momentum": 0.5}, "", 600),
        ({"store_wait_seconds": 5}, "", 5),
        (advanced.Advanced.parse({"store_wait_seconds": 9}).for_data(), "42", 9),
        (advanced.Advanced.parse({}).for_data(), "42", 42),
    ],
)
def test_a_form_says_it_else_the_environment_else_ten_minutes(wait, environment, expected, monkeypatch):
    monkeypatch.setenv(base.WAIT_VARIABLE, environment)
    retry.wait_for_stores(wait)
    assert retry._process.seconds_for(answered=False) == expected


def test_a_check_waits_for_all_its_stores_together_for_no_longer_than_it_may(monkeypatch):
    asked: list[str] = []

    def never(server: str) -> None:
        asked.append(server)
        raise retry.ServerUnavailable("Connection refused")

    retry.wait_for_stores(BY_FAR, at_most=0.3)
    for server in ("http://one", "http://two", "http://three"):
        with pytest.raises(InputError, match=r"the server must answer; got Connection refused at s3://bucket"):
            retry.call_with_retries(lambda server=server: never(server), "s3://bucket", server)
    # The first one took all there was: the others are asked once.
    assert asked.count("http://one") > 1 and asked.count("http://two") == asked.count("http://three") == 1


def test_what_is_no_time_is_refused(monkeypatch):
    for wrong in (-1, {"store_wait_seconds": "long"}, {"store_wait_seconds": math.inf}):
        line, _ = refusal(lambda wrong=wrong: retry.wait_for_stores(wrong))
        assert line.startswith("error: store_wait_seconds of advanced must ")
    for wrong in ("long", "-1", "nan"):
        monkeypatch.setenv(base.WAIT_VARIABLE, wrong)
        line, _ = refusal(retry.wait_for_stores)
        assert line.startswith(f"error: {base.WAIT_VARIABLE} must be a number of seconds, or 0 for no waiting; got {wrong}. ")


def test_it_does_not_decide_the_model_and_reaches_the_stages_of_the_data():
    assert "store_wait_seconds" in checks.ADVANCED_NOT_IN_RECIPE
    assert advanced.Advanced.parse({"store_wait_seconds": 3}).for_data()["store_wait_seconds"] == 3.0


@pytest.mark.parametrize("command", [["rollback"], ["predict", "1.jpg", "--model"], ["serve"]])
def test_a_person_at_a_command_line_is_told_soon(command):
    start = time.monotonic()
    address = f"s3://bucket/models?endpoint={NOBODY}"
    program = [sys.executable, "-m", "kfp_vision.cli", *command, address]
    done = subprocess.run(program, check=False, capture_output=True, text=True, timeout=BY_FAR)
    assert time.monotonic() - start < BY_FAR
    assert (done.returncode, done.stdout) == (1, "")  # a program may read what comes there
    *tries, error = done.stderr.splitlines()
    assert tries and all(line.startswith("warning: s3://bucket at http://127.0.0.1:9 does not answer ") for line in tries)
    assert error.startswith("error: the server must answer; got Connection refused at s3://bucket, waited for ")
    assert error.endswith("Check the address and the network, or try again.")


def test_who_starts_a_run_is_told_soon(tmp_path):
    start = time.monotonic()
    fields = ["-p", f"images_uri=s3://bucket/photos?endpoint={NOBODY}", "--output", str(tmp_path)]
    program = [sys.executable, "-m", "kfp_vision.cli", "run", "prepare_records", *fields]
    done = subprocess.run(program, check=False, capture_output=True, text=True, timeout=2 * BY_FAR)
    assert time.monotonic() - start < 2 * BY_FAR
    assert (done.returncode, done.stdout) == (2, "prepare_records: checking the fields\n")
    assert done.stderr.startswith("error: the server must answer; got Connection refused at s3://bucket, waited for ")
