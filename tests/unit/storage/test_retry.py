"""Retries of store requests: which errors are retried, for how long, and what is logged."""

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
BY_FAR = 60.0  # seconds; far more than any step here takes
NOBODY = "http://127.0.0.1:9"  # nothing listens on this port
UNREACHED = f"error: the server must answer; got Connection refused at s3://bucket ({NOBODY}), waited for "


@pytest.fixture(autouse=True)
def clean_process(tmp_path, monkeypatch) -> None:
    """Resets the servers known to this process, and all settings of how long to wait."""
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
    """A web server with the same file at every address.

    Attributes:
        refusals: status codes of the first answers, in order.
        after: value of the Retry-After header; empty for none.
    """

    def __init__(self, port: int = 0):
        super().__init__(("127.0.0.1", port), Answer)
        self.refusals: list[int] = []
        self.after = ""
        self.requests = 0


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.server.requests += 1
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
    """Returns the line of the error that a call raises, and the seconds it took."""
    start = time.monotonic()
    with pytest.raises(InputError) as refused:
        call()
    assert "\n" not in str(refused.value)
    return str(refused.value), time.monotonic() - start


def test_waits_for_an_unreached_server_and_logs_each_attempt(monkeypatch, capsys):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
    contents: list[bytes] = []
    reader = threading.Thread(target=lambda: contents.append(read(f"http://127.0.0.1:{port}")))
    reader.start()
    lines: list[str] = []
    until(lambda: lines.extend(capsys.readouterr().out.splitlines()) or len(lines) >= 2)
    for _ in serving(Server(port)):
        reader.join(BY_FAR)
    assert contents == [CONTENT]
    first, second, *_ = lines
    assert first.startswith(f"warning: http://127.0.0.1:{port} does not answer (Connection refused); retrying in 0.")
    assert first.endswith(" s, for 10m00s more") and re.search(r" s, for 9m5\ds more$", second)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_retries_transient_http_errors(server, status, capsys):
    server.refusals = [status, status]
    assert read(f"http://127.0.0.1:{server.server_port}") == CONTENT
    assert capsys.readouterr().out.count(f"does not answer (HTTP {status}); retrying in ") == 2


def test_honours_retry_after(server):
    server.refusals, server.after = [503], "1"
    start = time.monotonic()
    assert read(f"http://127.0.0.1:{server.server_port}") == CONTENT
    assert time.monotonic() - start >= 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_permanent_http_errors_are_not_retried(server, status):
    server.refusals = [status] * 9
    with pytest.raises((InputError, FileNotFoundError)):
        read(f"http://127.0.0.1:{server.server_port}")
    assert server.requests == 1


def test_with_no_wait_fails_immediately(server, capsys):
    retry.wait_for_stores(0)
    server.refusals = [503, 503]
    line, _ = refusal(lambda: read(f"http://127.0.0.1:{server.server_port}"))
    assert server.requests == 1 and capsys.readouterr().out == ""
    assert line == (
        f"error: the server must answer; got HTTP 503 at http://127.0.0.1:{server.server_port}/1.jpg. "
        "Check the address and the network, or set store_wait_seconds of advanced to wait longer."
    )


@pytest.mark.parametrize("uri", [f"{NOBODY}/1.jpg", f"s3://bucket/1.jpg?endpoint={NOBODY}"])
def test_the_error_has_the_time_waited_and_later_requests_do_not_wait_again(uri, capsys):
    retry.wait_for_stores({"store_wait_seconds": 1})
    line, seconds = refusal(lambda: reading.describe(uri))
    assert 1 <= seconds < BY_FAR
    where = f"s3://bucket/1.jpg ({NOBODY})" if uri.startswith("s3:") else uri
    assert line.startswith(f"error: the server must answer; got Connection refused at {where}, waited for 1 s. ")
    assert line.endswith("or set store_wait_seconds of advanced to wait longer.")
    assert len(capsys.readouterr().out.splitlines()) >= 3
    line, _ = refusal(lambda: reading.describe(uri))  # as in a cleanup
    assert "waited" not in line and capsys.readouterr().out == ""


def test_an_unknown_host_name_fails_soon(monkeypatch):
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


def test_waits_for_a_host_name_that_was_resolved_before(server, monkeypatch, capsys):
    address = f"http://localhost:{server.server_port}"
    assert read(address) == CONTENT
    stores._web_store.cache_clear()  # drops its connections
    monkeypatch.setattr(retry, "SOON", 0.0)
    ask, forgotten = socket.getaddrinfo, time.monotonic() + 1

    def dns_that_starts_again(*requests, **how):
        if time.monotonic() < forgotten:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return ask(*requests, **how)

    monkeypatch.setattr(socket, "getaddrinfo", dns_that_starts_again)
    assert read(address) == CONTENT
    assert "does not answer (unknown host name); retrying in " in capsys.readouterr().out


def test_an_untrusted_certificate_is_not_retried(server, tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path / "certificate.pem"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    address = f"https://127.0.0.1:{server.server_port}"
    for uri in (f"{address}/1.jpg", f"s3://bucket/1.jpg?endpoint={address}"):
        line, seconds = refusal(lambda uri=uri: reading.describe(uri))
        assert seconds < BY_FAR and "waited" not in line
        assert "got an untrusted certificate (self-signed certificate) at " in line


def self_signed(file: Path) -> Path:
    """Writes a self-signed certificate of this machine with its key."""
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


@pytest.mark.slow
def test_progress_restarts_the_deadline(monkeypatch):
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


def test_pauses_grow_exponentially_with_bounded_jitter(monkeypatch, capsys):
    """Simulates ten minutes: sleeping advances a fake clock."""
    now, pauses = 1000.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        pauses.append(seconds)

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "sleep", sleep)

    def call() -> None:
        raise retry.ServerUnavailable("Connection refused")

    line, _ = refusal(lambda: retry.call_with_retries(call, "s3://bucket/1.jpg", "http://host"))
    assert sum(pauses) == pytest.approx(600) and ", waited for 10m00s. " in line
    expected = [0.25 * 2**number for number in range(7)]  # then 20 to 25 s; the last one is shortened
    assert all(least <= pause <= least * 1.25 for least, pause in zip(expected, pauses, strict=False))
    assert all(20 <= pause <= 25 for pause in pauses[7:-1]) and len(pauses) < 40
    assert len(capsys.readouterr().out.splitlines()) == len(pauses)


@pytest.mark.parametrize(
    ("wait", "environment", "expected"),
    [
        (None, "", 600),
        (None, "42", 42),
        (17, "42", 17),
        ({"store_wait_seconds": 0.0}, "42", 0),
        ({"store_wait_seconds": 600.0}, "42", 42),  # the default counts as not given
        ({"momentum": 0.5}, "", 600),
        ({"store_wait_seconds": 5}, "", 5),
        (advanced.Advanced.parse({"store_wait_seconds": 9}).for_data(), "42", 9),
        (advanced.Advanced.parse({}).for_data(), "42", 42),
    ],
)
def test_the_wait_is_set_by_the_form_then_the_environment_then_the_default(wait, environment, expected, monkeypatch):
    monkeypatch.setenv(base.WAIT_VARIABLE, environment)
    retry.wait_for_stores(wait)
    assert retry._process.seconds_for(answered=False) == expected


def test_a_check_has_one_time_limit_for_all_its_stores(monkeypatch):
    requests: list[str] = []

    def refuse(server: str) -> None:
        requests.append(server)
        raise retry.ServerUnavailable("Connection refused")

    retry.wait_for_stores(BY_FAR, at_most=0.3)
    for server in ("http://one", "http://two", "http://three"):
        with pytest.raises(InputError, match=r"the server must answer; got Connection refused at s3://bucket"):
            retry.call_with_retries(lambda server=server: refuse(server), "s3://bucket", server)
    # The first server uses up the time, so the others get one attempt each.
    assert requests.count("http://one") > 1 and requests.count("http://two") == requests.count("http://three") == 1


def test_an_invalid_wait_is_rejected(monkeypatch):
    for invalid in (-1, {"store_wait_seconds": "long"}, {"store_wait_seconds": math.inf}):
        line, _ = refusal(lambda invalid=invalid: retry.wait_for_stores(invalid))
        assert line.startswith("error: store_wait_seconds of advanced must ")
    for invalid in ("long", "-1", "nan"):
        monkeypatch.setenv(base.WAIT_VARIABLE, invalid)
        line, _ = refusal(retry.wait_for_stores)
        assert line.startswith(f"error: {base.WAIT_VARIABLE} must be a number of seconds, or 0 for no waiting; got {invalid}. ")


def test_the_wait_is_not_part_of_the_recipe_and_is_passed_to_data_stages():
    assert "store_wait_seconds" in checks.ADVANCED_NOT_IN_RECIPE
    assert advanced.Advanced.parse({"store_wait_seconds": 3}).for_data()["store_wait_seconds"] == 3.0


@pytest.mark.slow
@pytest.mark.parametrize("command", [["rollback"], ["predict", "1.jpg", "--model"], ["serve"]])
def test_commands_report_an_unreachable_store_soon(command):
    start = time.monotonic()
    address = f"s3://bucket/models?endpoint={NOBODY}"
    program = [sys.executable, "-m", "kfp_vision.cli", *command, address]
    process = subprocess.run(program, check=False, capture_output=True, text=True, timeout=BY_FAR)
    assert time.monotonic() - start < BY_FAR
    assert (process.returncode, process.stdout) == (1, "")  # stdout is for results only
    *tries, error = process.stderr.splitlines()
    assert tries and all(line.startswith("warning: s3://bucket at http://127.0.0.1:9 does not answer ") for line in tries)
    assert error.startswith(UNREACHED)
    assert error.endswith("Check the address and the network, or try again.")


@pytest.mark.slow
def test_starting_a_run_reports_an_unreachable_store_soon(tmp_path):
    start = time.monotonic()
    fields = ["-p", f"images_uri=s3://bucket/photos?endpoint={NOBODY}", "--output", str(tmp_path)]
    program = [sys.executable, "-m", "kfp_vision.cli", "run", "prepare_records", *fields]
    process = subprocess.run(program, check=False, capture_output=True, text=True, timeout=2 * BY_FAR)
    assert time.monotonic() - start < 2 * BY_FAR
    assert (process.returncode, process.stdout) == (2, "prepare_records: checking the fields\n")
    assert process.stderr.startswith(UNREACHED)
