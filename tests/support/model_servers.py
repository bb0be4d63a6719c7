"""Servers that tests start, each on a free port of this machine."""

import contextlib
import gzip
import io
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from support.skip import leave_out

KEY, SECRET = "the-key-of-the-tests", "the-secret-of-the-tests"
SECONDS_TO_START = 300  # on a busy machine; usually one second
NUMBERS = count(1)  # of buckets


@dataclass
class Server:
    """A running server.

    Attributes:
        port: the port it listens on.
        folder: the root of its buckets, one folder each.
    """

    port: int
    folder: Path

    def bucket(self, name: str, files: dict[str, bytes]) -> str:
        """Creates a bucket with these files, and returns its name."""
        for key, content in files.items():
            (self.folder / name / key).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name / key).write_bytes(content)
        return name


@dataclass
class Stoppable(Server):
    """A server that tests can stop, and restart on the same port with the same buckets.

    Attributes:
        command: the command that starts it.
        log: the file for its output.
        process: the running process.
    """

    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the server; returns when it accepts connections."""
        self.process = started(self.command, self.port, self.log)

    def stop(self) -> None:
        """Kills the server."""
        assert self.process
        self.process.kill()
        self.process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def program(name: str) -> str:
    """Returns the path of a command, from this environment or PATH."""
    path = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    return path or leave_out(f"there is no {name}")


def until(condition: Callable[[], object], seconds: float = SECONDS_TO_START) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def started(command: list[str], port: int, log: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Starts a server, and returns when it accepts connections; the caller must end it."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | (environment or {}))
    until = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.05)
    process.kill()
    process.wait()
    raise AssertionError(f"{command[0]} did not start: {log.read_text()[-2000:]}")


@contextlib.contextmanager
def ended(process: subprocess.Popen[Any]) -> Iterator[subprocess.Popen[Any]]:
    """Kills a process at the end of the context."""
    with process:
        try:
            yield process
        finally:
            process.kill()


@dataclass(frozen=True)
class Emulated:
    """The Cloud Storage emulator, accessed with Google's client.

    Attributes:
        port: the port it listens on.
    """

    port: int

    def bucket(self, name: str, files: dict[str, bytes]) -> str:
        """Creates a bucket with these files, and returns its name."""
        from google.cloud import storage

        client = storage.Client.create_anonymous_client()
        client._connection.API_BASE_URL = f"http://127.0.0.1:{self.port}"
        new_bucket = client.create_bucket(name, project="tests")
        for key, content in files.items():
            new_bucket.blob(key).upload_from_string(content)
        return name


class Place:
    """A store and the way in which tests reach it.

    Attributes:
        scheme: the scheme of its URIs.
        port: the port of its server.
    """

    def __init__(self, scheme: str, server: Any, monkeypatch: Any):
        self.scheme, self.port, self._server, self._patch = scheme, server.port, server, monkeypatch

    def bucket(self, files: dict[str, bytes]) -> str:
        """Creates a bucket with these files, and returns its URI."""
        return f"{self.scheme}://{self._server.bucket(f'bucket-{next(NUMBERS)}', files)}"

    def put_packed(self, uri: str, content: bytes) -> None:
        """Creates an object as `gsutil cp -z` leaves it: compressed by gzip, and said to be so."""
        packed = gzip.compress(content)
        bucket, _, key = uri.partition("://")[2].partition("/")
        if self.scheme == "s3":
            from kfp_vision.storage import stores

            client = stores.store(uri)._client
            client.put_object(bucket, key, io.BytesIO(packed), len(packed), metadata={"Content-Encoding": "gzip"})
        else:
            from google.cloud import storage

            client = storage.Client.create_anonymous_client()
            client._connection.API_BASE_URL = f"http://127.0.0.1:{self.port}"
            blob = client.bucket(bucket).blob(key)
            blob.content_encoding = "gzip"
            blob.upload_from_string(packed)

    def lead_over(self, address: str = "") -> None:
        """Routes requests to the store through another address; without one, directly."""
        from kfp_vision.storage import gcs

        gcs._made.cache_clear()
        name = "AWS_ENDPOINT_URL" if self.scheme == "s3" else "STORAGE_EMULATOR_HOST"
        self._patch.setenv(name, f"http://{address or f'127.0.0.1:{self.port}'}")


@contextlib.contextmanager
def answering(arguments: list[str]) -> Iterator[str]:
    """Runs a serving command of `kfp-vision`, and yields its address."""
    command = [sys.executable, "-m", "kfp_vision.cli", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            output = []
            for line in process.stdout or ():
                output.append(line)
                if line.startswith("open http"):
                    yield line.split()[1].rstrip("/")
                    return
            raise AssertionError(f"it did not start: {''.join(output)}")
        finally:
            process.terminate()
