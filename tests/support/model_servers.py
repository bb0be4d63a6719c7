"""Servers of pictures that tests start for themselves, each on a free port of this machine."""

import contextlib
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
SECONDS_TO_START = 300  # of a machine that has much else to do; most take one
NUMBERS = count(1)  # of buckets


@dataclass
class Server:
    """A running server.

    Attributes:
        port: where it listens.
        folder: what it shows: a bucket is a folder in it.
    """

    port: int
    folder: Path

    def bucket(self, name: str, files: dict[str, bytes]) -> str:
        """A bucket of these files; gives its name."""
        for key, content in files.items():
            (self.folder / name / key).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name / key).write_bytes(content)
        return name


@dataclass
class Stoppable(Server):
    """A server that tests stop, and start again on the same port with the same buckets.

    Attributes:
        command: which starts it.
        log: the file that it writes to.
        process: the running one.
    """

    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it takes connections."""
        self.process = started(self.command, self.port, self.log)

    def stop(self) -> None:
        """Ends it in the middle of whatever it does."""
        assert self.process
        self.process.kill()
        self.process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def program(name: str) -> str:
    """A command of this environment."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    return found or leave_out(f"there is no {name}")


def until(condition: Callable[[], object], seconds: float = SECONDS_TO_START) -> None:
    """Waits until something is so, which it must be soon."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def started(command: list[str], port: int, log: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """A server of which this has waited until it listens; whoever asks for it is to end it."""
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=os.environ | (environment or {}))
    until = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as asking:
            if asking.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.05)
    process.kill()
    process.wait()
    raise AssertionError(f"{command[0]} did not start: {log.read_text()[-2000:]}")


@contextlib.contextmanager
def ended(process: subprocess.Popen[Any]) -> Iterator[subprocess.Popen[Any]]:
    """A process that does not outlive the body, however that ends."""
    with process:
        try:
            yield process
        finally:
            process.kill()


@dataclass(frozen=True)
class Emulated:
    """The Cloud Storage emulator, asked as Google's client asks Google.

    Attributes:
        port: where it listens.
    """

    port: int

    def bucket(self, name: str, files: dict[str, bytes]) -> str:
        """A bucket of these files; gives its name."""
        from google.cloud import storage

        client = storage.Client.create_anonymous_client()
        client._connection.API_BASE_URL = f"http://127.0.0.1:{self.port}"
        made = client.create_bucket(name, project="tests")
        for key, content in files.items():
            made.blob(key).upload_from_string(content)
        return name


class Place:
    """A store, and how tests reach it.

    Attributes:
        scheme: of its URIs.
        port: where its server listens.
    """

    def __init__(self, scheme: str, server: Any, monkeypatch: Any):
        self.scheme, self.port, self._server, self._patch = scheme, server.port, server, monkeypatch

    def bucket(self, files: dict[str, bytes]) -> str:
        """The URI of a new bucket of these files."""
        return f"{self.scheme}://{self._server.bucket(f'bucket-{next(NUMBERS)}', files)}"

    def lead_over(self, address: str = "") -> None:
        """From now on the store is asked over another line; without an address, over none."""
        from kfp_vision.storage import gcs

        gcs._made.cache_clear()
        name = "AWS_ENDPOINT_URL" if self.scheme == "s3" else "STORAGE_EMULATOR_HOST"
        self._patch.setenv(name, f"http://{address or f'127.0.0.1:{self.port}'}")


@contextlib.contextmanager
def answering(arguments: list[str]) -> Iterator[str]:
    """The address of `kfp-vision` with arguments that make it serve, as long as the body lasts."""
    command = [sys.executable, "-m", "kfp_vision.cli", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            said = []
            for line in process.stdout or ():
                said.append(line)
                if line.startswith("open http"):
                    yield line.split()[1].rstrip("/")
                    return
            raise AssertionError(f"it did not start: {''.join(said)}")
        finally:
            process.terminate()
