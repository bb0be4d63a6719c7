"""Measures what collecting costs a server: its processor time for a photograph, with and without, in one run.

Inception v1 at 224 pixels, one request after another, which go to each of the servers in turn, so that other work on the
machine slows all of them. Every tenth answer is collected, as by default, or every one with its image. A round ends when its
answers are written.
"""

import contextlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import requests

from benchmarks import explain, peers, photographs, serve
from benchmarks.measure import Figure, report, rounds
from kfp_vision.collection.collect import BATCH_SECONDS

WITHOUT = "the same server without collecting"
IMAGES = 200  # of a round
SHARES = {"collect_tenth": ("--collect-share", "0.1"), "collect_all_images": ("--collect-share", "1", "--collect-images")}


def run() -> list[Figure]:
    """Runs this benchmark.

    Returns:
        Its figures.
    """
    images = [encoded for _, encoded in photographs.read_images()][:IMAGES]
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as servers:
        place = serve.write_model_apart(Path(scratch) / "model", serve.NETWORK)
        plain = servers.enter_context(started_server(place))
        collecting = {
            name: servers.enter_context(started_server(place, "--collect", str(Path(scratch) / name), *options))
            for name, options in SHARES.items()
        }
        urls = [server.url for server in (plain, *collecting.values())]
        measured = [costs(urls, images) for _ in range(1 + rounds())][1:]
    return [
        report(
            name,
            WITHOUT,
            "ms",
            [(row[at], row[0]) for row in measured],
            less=True,
            digits=2,
            middle=statistics.mean,
        )
        for at, name in enumerate(collecting, 1)
    ]


def costs(urls: Sequence[str], images: Sequence[bytes]) -> list[float]:
    """Sends each image to each server, and waits until what was collected is written.

    Args:
        urls: addresses of the servers.
        images: encoded; each request has one.

    Returns:
        Milliseconds of processors that each server took for an image.
    """
    with requests.Session() as session:
        before = [explain.processor_seconds(session, url) for url in urls]
        for image in images:
            for url in urls:
                session.post(f"{url}/v1/models/benchmark:predict", data=image).raise_for_status()
        time.sleep(1.5 * BATCH_SECONDS)
        after = [explain.processor_seconds(session, url) for url in urls]
    return [1000 * (end - start) / len(images) for start, end in zip(before, after, strict=True)]


@dataclass(frozen=True)
class RunningServer:
    """A server that runs.

    Attributes:
        url: its address.
        process: its process.
    """

    url: str
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def started_server(place: Path, *options: str) -> Iterator[RunningServer]:
    """Runs `kfp-vision serve` with options.

    Args:
        place: model repository.
        *options: of the command.

    Yields:
        The server, once it is ready; it is told to stop in the end.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "kfp_vision.cli",
        "serve",
        str(place),
        "--name",
        "benchmark",
        "--port",
        str(port),
        *options,
    ]
    with subprocess.Popen(command, cwd=peers.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            serve.wait_for(url)
            yield RunningServer(url, process)
        finally:
            process.terminate()
