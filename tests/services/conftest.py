"""Real object stores for the tests: S3 (rclone) and a Google Cloud Storage emulator, with the environment to use them."""

import os
from collections.abc import Iterator

import pytest
from support.model_servers import KEY, SECRET, Emulated, Place, Server, Stoppable, free_port, program, started

from kfp_vision.storage import base, retry

PATIENCE = 60  # seconds
LISTING_CACHE = "1ms"  # how long rclone caches listings; at zero, fast writes make it hang


@pytest.fixture(scope="module")  # no longer: interrupted uploads keep rclone busy forever
def rclone(tmp_path_factory) -> Iterator[Server]:
    """Starts an S3 server with one key."""
    root = tmp_path_factory.mktemp("s3")
    (root / "buckets").mkdir()
    port = free_port()
    options = ["--auth-key", f"{KEY},{SECRET}", "--addr", f"127.0.0.1:{port}", "--dir-cache-time", LISTING_CACHE]
    process = started([program("rclone"), "serve", "s3", *options, str(root / "buckets")], port, root / "log")
    yield Server(port, root / "buckets")
    process.terminate()
    process.wait()


@pytest.fixture(scope="module")
def open_rclone(rclone, tmp_path_factory) -> Iterator[Server]:
    """Starts a server that makes the same buckets public."""
    port = free_port()
    command = [
        program("rclone"),
        "serve",
        "s3",
        "--addr",
        f"127.0.0.1:{port}",
        "--dir-cache-time",
        LISTING_CACHE,
        str(rclone.folder),
    ]
    process = started(command, port, tmp_path_factory.mktemp("open") / "log")
    yield Server(port, rclone.folder)
    process.terminate()
    process.wait()


@pytest.fixture
def stoppable(no_credentials, tmp_path, monkeypatch) -> Iterator[Stoppable]:
    """Starts an S3 server that can be stopped and restarted, and sets the environment to use it."""
    folder, port = tmp_path / "stoppable", free_port()
    folder.mkdir()
    options = ["--auth-key", f"{KEY},{SECRET}", "--addr", f"127.0.0.1:{port}", "--dir-cache-time", LISTING_CACHE]
    server = Stoppable(port, folder, [program("rclone"), "serve", "s3", *options, str(folder)], tmp_path / "stoppable.log")
    server.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def emulator(tmp_path_factory) -> Iterator[int]:
    """Starts a Cloud Storage emulator, and yields its port."""
    port = free_port()
    log = tmp_path_factory.mktemp("gcs") / "log"
    command = [program("gcp-storage-emulator"), "start", "--host", "127.0.0.1", "--port", str(port), "--in-memory", "--quiet"]
    process = started(command, port, log)
    yield port
    process.kill()
    process.wait()


@pytest.fixture
def no_credentials(monkeypatch, tmp_path) -> None:
    """Removes all credentials from the environment and the home folder, and shortens the pauses between tries."""
    for name in [*base.ENVIRONMENT_VARIABLES, *os.environ]:
        if name in base.ENVIRONMENT_VARIABLES or name.startswith(("AWS_", "MINIO_", "COS_", "GOOGLE_", "TENCENTCLOUD_")):
            monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.001)  # the same number of tries, in less time
    monkeypatch.setattr(retry, "LONGEST_PAUSE", 0.2)
    monkeypatch.setenv(base.WAIT_VARIABLE, str(PATIENCE))
    monkeypatch.setattr(retry, "_process", retry.RetryPolicy())
    retry.forget_servers()


@pytest.fixture
def s3(no_credentials, rclone, monkeypatch) -> Server:
    """Returns the S3 server, and sets the environment to use it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{rclone.port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    return rclone


@pytest.fixture
def gcs(no_credentials, emulator, monkeypatch) -> Emulated:
    """Returns the emulator, and sets the environment to use it."""
    from kfp_vision.storage.gcs import _made

    _made.cache_clear()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{emulator}")
    return Emulated(emulator)


@pytest.fixture(params=["s3", "gcs"])
def place(request, monkeypatch) -> Place:
    """Returns each of the two stores in turn."""
    return Place({"s3": "s3", "gcs": "gs"}[request.param], request.getfixturevalue(request.param), monkeypatch)
