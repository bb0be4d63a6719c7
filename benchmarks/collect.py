"""Measures what collecting costs a server: its processor time for a photograph, with and without, in one run.

Inception v1 at 224 pixels, one request after another. Every tenth answer is collected, as by default, or every one with its
image.
"""

import contextlib
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import explain, peers, photographs, serve
from benchmarks.measure import Figure, report, rounds

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
        urls = [plain, *collecting.values()]
        measured = [[explain.cost(url, "predict", images) for url in urls] for _ in range(1 + rounds())][1:]
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


@contextlib.contextmanager
def started_server(place: Path, *options: str) -> Iterator[str]:
    """Runs `kfp-vision serve` with options.

    Args:
        place: model repository.
        *options: of the command.

    Yields:
        Its address, once it is ready.
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
            yield url
        finally:
            process.terminate()
