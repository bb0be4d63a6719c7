"""Measures reading images from a remote S3 server: many concurrent requests against one at a time."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import urllib3
from minio import Minio

from benchmarks.measure import Figure, compare
from kfp_vision.storage import reading, sample

LATENCY = 0.025  # seconds per request
PICTURES_A_CLASS, ONE_BY_ONE = 120, 60
TIMES = 4  # copies of each image, under different names
KEY, SECRET = "benchmark-key", "benchmark-secret"


def run() -> list[Figure]:
    """Runs this benchmark.

    Returns:
        Its figures.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "pictures"
        for name in sample.image_names():
            encoded = sample.draw(name)
            for copy in range(TIMES):
                (folder / f"{copy}" / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / f"{copy}" / name).write_bytes(encoded)
        with remote_server(Path(scratch)) as address:
            os.environ |= {"AWS_ENDPOINT_URL": f"http://{address}", "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
            items = list(reading.walk("s3://pictures"))
            name = f"minio, one request after another, {1000 * LATENCY:.0f} ms each"
            return [compare("s3_read", name, "img/s", lambda: measure_ours(items), lambda: measure_peer(address, items))]


def measure_ours(items: list[reading.Item]) -> float:
    """Measures `reading.read_all`.

    Args:
        items: objects to read.

    Returns:
        Images per second.
    """
    start = time.perf_counter()
    count = sum(isinstance(encoded, bytes) for _, encoded in reading.read_all(items))
    assert count == len(items)
    return count / (time.perf_counter() - start)


def measure_peer(address: str, items: list[reading.Item]) -> float:
    """Measures a plain loop over the MinIO client.

    Args:
        address: `host:port` of the server.
        items: objects, of which the first `ONE_BY_ONE` are read.

    Returns:
        Images per second.
    """
    client = Minio(address, KEY, SECRET, secure=False, region="us-east-1", http_client=urllib3.PoolManager())
    start = time.perf_counter()
    for item in items[:ONE_BY_ONE]:
        response = client.get_object("pictures", item.name)
        response.read()
        response.release_conn()
    return ONE_BY_ONE / (time.perf_counter() - start)


@contextlib.contextmanager
def remote_server(folder: Path) -> Iterator[str]:
    """Starts an S3 server behind a delayed connection.

    Args:
        folder: folder whose subfolders are the buckets.

    Yields:
        The server's `host:port`.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    rclone = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") or "rclone"
    serve = [rclone, "serve", "s3", "--auth-key", f"{KEY},{SECRET}", "--addr", f"127.0.0.1:{port}", str(folder)]
    delay = [sys.executable, "-m", "benchmarks.delayed", str(port), str(LATENCY)]
    with (
        subprocess.Popen(serve, stderr=subprocess.DEVNULL) as server,
        subprocess.Popen(delay, stdout=subprocess.PIPE, text=True) as line,
    ):
        try:
            assert line.stdout
            address = f"127.0.0.1:{line.stdout.readline().strip()}"
            _wait_for(port)
            yield address
        finally:
            line.terminate()
            server.terminate()


def _wait_for(port: int) -> None:
    for _ in range(600):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"no server answers on port {port}")
