"""Pictures from an S3 server that is far away, many at a time, against one request after another."""

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
from kfp_vision import sample, storage

LATENCY = 0.025  # seconds a request
PICTURES_A_CLASS, ONE_BY_ONE = 120, 60
TIMES = 4  # each picture, under names of its own
KEY, SECRET = "benchmark-key", "benchmark-secret"


def run() -> list[Figure]:
    """The rows of this benchmark."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "pictures"
        for name in sample.names():
            encoded = sample.draw(name)
            for copy in range(TIMES):
                (folder / f"{copy}" / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / f"{copy}" / name).write_bytes(encoded)
        with far_away(Path(scratch)) as address:
            os.environ |= {"AWS_ENDPOINT_URL": f"http://{address}", "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
            items = list(storage.walk("s3://pictures"))
            name = f"minio, one request after another, {1000 * LATENCY:.0f} ms each"
            return [compare("s3_read", name, "img/s", lambda: ours(items), lambda: peer(address, items))]


def ours(items: list[storage.Item]) -> float:
    """Pictures a second of `storage.read_all`."""
    start = time.perf_counter()
    read = sum(isinstance(encoded, bytes) for _, encoded in storage.read_all(items))
    assert read == len(items)
    return read / (time.perf_counter() - start)


def peer(address: str, items: list[storage.Item]) -> float:
    """Pictures a second of a loop over the client that people would write."""
    client = Minio(address, KEY, SECRET, secure=False, region="us-east-1", http_client=urllib3.PoolManager())
    start = time.perf_counter()
    for item in items[:ONE_BY_ONE]:
        response = client.get_object("pictures", item.name)
        response.read()
        response.release_conn()
    return ONE_BY_ONE / (time.perf_counter() - start)


@contextlib.contextmanager
def far_away(folder: Path) -> Iterator[str]:
    """An S3 server of a folder of buckets behind a slow line; gives `host:port`."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    rclone = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") or "rclone"
    serving = [rclone, "serve", "s3", "--auth-key", f"{KEY},{SECRET}", "--addr", f"127.0.0.1:{port}", str(folder)]
    delaying = [sys.executable, "-m", "benchmarks.delayed", str(port), str(LATENCY)]
    with (
        subprocess.Popen(serving, stderr=subprocess.DEVNULL) as server,
        subprocess.Popen(delaying, stdout=subprocess.PIPE, text=True) as line,
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
        with socket.socket() as asking:
            if asking.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"nothing answers at port {port}")
