"""Real servers of pictures: S3 (rclone), and Google Cloud Storage (an emulator), with the environment that leads to them."""

import os
from collections.abc import Iterator

import pytest
from support.model_servers import KEY, SECRET, Emulated, Place, Server, Stoppable, free_port, program, started

from kfp_vision.storage import base, retry

PATIENCE = 60  # seconds
CACHED = "1ms"  # how long rclone believes what it has listed; where that is no time at all, one who writes fast makes it hang


@pytest.fixture(scope="module")  # and no longer: uploads that were cut off keep rclone busy for good
def rclone(tmp_path_factory) -> Iterator[Server]:
    """An S3 server with one key."""
    root = tmp_path_factory.mktemp("s3")
    (root / "buckets").mkdir()
    port = free_port()
    options = ["--auth-key", f"{KEY},{SECRET}", "--addr", f"127.0.0.1:{port}", "--dir-cache-time", CACHED]
    process = started([program("rclone"), "serve", "s3", *options, str(root / "buckets")], port, root / "log")
    yield Server(port, root / "buckets")
    process.terminate()
    process.wait()


@pytest.fixture(scope="module")
def open_rclone(rclone, tmp_path_factory) -> Iterator[Server]:
    """The same buckets for everybody, as public ones are."""
    port = free_port()
    command = [program("rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--dir-cache-time", CACHED, str(rclone.folder)]
    process = started(command, port, tmp_path_factory.mktemp("open") / "log")
    yield Server(port, rclone.folder)
    process.terminate()
    process.wait()


@pytest.fixture
def stoppable(nobody, tmp_path, monkeypatch) -> Iterator[Stoppable]:
    """An S3 server to be stopped and started again, with the environment that leads to it."""
    folder, port = tmp_path / "stoppable", free_port()
    folder.mkdir()
    options = ["--auth-key", f"{KEY},{SECRET}", "--addr", f"127.0.0.1:{port}", "--dir-cache-time", CACHED]
    server = Stoppable(port, folder, [program("rclone"), "serve", "s3", *options, str(folder)], tmp_path / "stoppable.log")
    server.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def emulator(tmp_path_factory) -> Iterator[int]:
    """A Cloud Storage emulator; gives its port."""
    port = free_port()
    log = tmp_path_factory.mktemp("gcs") / "log"
    command = [program("gcp-storage-emulator"), "start", "--host", "127.0.0.1", "--port", str(port), "--in-memory", "--quiet"]
    process = started(command, port, log)
    yield port
    process.kill()
    process.wait()


@pytest.fixture
def nobody(monkeypatch, tmp_path) -> None:
    """An environment without any credentials, and a home without any."""
    for name in [*base.ENVIRONMENT_VARIABLES, *os.environ]:
        if name in base.ENVIRONMENT_VARIABLES or name.startswith(("AWS_", "MINIO_", "COS_", "GOOGLE_", "TENCENTCLOUD_")):
            monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.001)  # the same patience, in less time
    monkeypatch.setattr(retry, "LONGEST_PAUSE", 0.2)
    monkeypatch.setenv(base.WAIT_VARIABLE, str(PATIENCE))
    monkeypatch.setattr(retry, "_process", retry.RetryPolicy())
    retry.forget_servers()


@pytest.fixture
def s3(nobody, rclone, monkeypatch) -> Server:
    """The S3 server, with the environment that leads to it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{rclone.port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    return rclone


@pytest.fixture
def gcs(nobody, emulator, monkeypatch) -> Emulated:
    """The emulator, with the environment that leads to it."""
    from kfp_vision.storage.gcs import _made

    _made.cache_clear()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{emulator}")
    return Emulated(emulator)


@pytest.fixture(params=["s3", "gcs"])
def place(request, monkeypatch) -> Place:
    """Each of the two stores."""
    return Place({"s3": "s3", "gcs": "gs"}[request.param], request.getfixturevalue(request.param), monkeypatch)
