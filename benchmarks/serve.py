"""Measures the server over HTTP against the same model in process, and against a stock KServe predictor without batching."""

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import requests

from benchmarks import peers, photographs
from benchmarks.measure import Figure, report, rounds
from kfp_vision.networks import NETWORKS
from kfp_vision.prediction import export
from kfp_vision.repository.version import FIRST_VERSION, VERSION_FILE
from kfp_vision.serving import server

NETWORK, LABELS = "inception_v1", ["a", "b", "c", "d", "e"]
CLIENTS = (1, 8, 32)
SECONDS = 6.0  # per measurement
SECONDS_TO_START = 120
IN_PROCESS = "the same export in process, batches of 32"
STOCK = "a stock KServe predictor, without batching"


@dataclass(frozen=True)
class Load:
    """Rate and latency of clients that send one request at a time, an image each.

    Attributes:
        rate: requests per second of all clients.
        p50: median latency in milliseconds.
        p99: 99th percentile of the latency in milliseconds.
    """

    rate: float
    p50: float
    p99: float


def run() -> list[Figure]:
    """Runs this benchmark.

    Returns:
        Its figures.
    """
    with tempfile.TemporaryDirectory() as scratch:
        place, pictures = write_model(Path(scratch) / "model"), photographs.write_copies(Path(scratch) / "pictures", 1)
        with server.run_server(place) as ours, stock_predictor(place) as peer:
            measured = [
                (measure_in_process(place, pictures), *measure_both(ours, peer, pictures)) for _ in range(1 + rounds())
            ][1:]
    most = CLIENTS[-1]
    figures = [
        report("http_vs_in_process", IN_PROCESS, "img/s", [(mine[most].rate, alone) for alone, mine, _ in measured]),
        report("http_vs_stock_kserve", STOCK, "req/s", [(mine[most].rate, its[most].rate) for _, mine, its in measured]),
    ]
    for clients in CLIENTS:
        for name in ("p50", "p99"):
            pairs = [(getattr(mine[clients], name), getattr(its[clients], name)) for _, mine, its in measured]
            figures.append(report(f"http_{name}_{clients}_clients", STOCK, "ms", pairs, less=True))
    return figures


def write_model(place: Path, name: str = NETWORK) -> Path:
    """Writes a model repository with one version, with random weights.

    Args:
        place: folder of the repository.
        name: of the network.

    Returns:
        The folder.
    """
    network, version = NETWORKS[name], place / FIRST_VERSION
    export.write_saved_model(version, network.build(len(LABELS), fast=False), LABELS, network.image_size, network.crop)
    about = version / VERSION_FILE
    about.parent.mkdir()
    metadata = {"model_name": "benchmark", "labels": LABELS, "image_size": network.image_size, "crop": network.crop}
    about.write_text(json.dumps(metadata))
    return place


def write_model_apart(place: Path, name: str) -> Path:
    """Writes a model repository in a process of its own, which takes its memory and threads with it.

    Args:
        place: folder of the repository.
        name: of the network.

    Returns:
        The folder.
    """
    program = "import sys; from pathlib import Path; from benchmarks import serve\n"
    program += "serve.write_model(Path(sys.argv[2]), sys.argv[1])"
    command = [sys.executable, "-c", program, name, str(place)]
    subprocess.run(command, cwd=peers.ROOT, check=True, stderr=subprocess.DEVNULL)
    return place


def measure_both(ours: str, peer: str, pictures: Path) -> tuple[dict[int, Load], dict[int, Load]]:
    """Measures both servers with each number of clients.

    The most clients come first, right after the in-process measurement that they are compared with.

    Args:
        ours: address of our server.
        peer: address of the peer.
        pictures: folder of class folders.

    Returns:
        The loads of ours and of the peer, by number of clients.
    """
    loads = {
        clients: (measure_load(ours, pictures, clients), measure_load(peer, pictures, clients)) for clients in reversed(CLIENTS)
    }
    return {clients: mine for clients, (mine, _) in loads.items()}, {clients: its for clients, (_, its) in loads.items()}


def measure_load(url: str, pictures: Path, clients: int, seconds: float = SECONDS, verb: str = "predict") -> Load:
    """Measures a server with clients in their own process.

    Args:
        url: address of the server.
        pictures: folder of class folders.
        clients: number of concurrent clients.
        seconds: duration.
        verb: `predict` or `search`.

    Returns:
        Rate and latencies.
    """
    return Load(**json.loads(_output("load", url, pictures, clients, seconds, verb)))


def measure_in_process(place: Path, pictures: Path, seconds: float = SECONDS, size: int = 32) -> float:
    """Measures the export in its own process, without a server.

    Args:
        place: model repository.
        pictures: folder of class folders.
        seconds: duration.
        size: images of a batch.

    Returns:
        Images per second.
    """
    return float(_output("in_process", place, pictures, seconds, size))


@contextlib.contextmanager
def stock_predictor(place: Path) -> Iterator[str]:
    """Starts a stock KServe predictor of a model.

    Args:
        place: model repository.

    Yields:
        Its address.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = _command("stock_kserve", place, port)
    with subprocess.Popen(command, cwd=peers.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(url)
            yield url
        finally:
            process.terminate()


def wait_for(url: str) -> None:
    """Waits until a server is ready.

    Args:
        url: its address.

    Raises:
        TimeoutError: it is not after `SECONDS_TO_START`.
    """
    until = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < until:
        with contextlib.suppress(requests.ConnectionError):
            requests.get(f"{url}/v2/health/ready", timeout=SECONDS_TO_START).raise_for_status()
            return
        time.sleep(0.1)
    raise TimeoutError(f"no server answers at {url}")


def _command(program: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.{program}", *map(str, arguments)]


def _output(program: str, *arguments: object) -> str:
    done = subprocess.run(_command(program, *arguments), cwd=peers.ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.splitlines()[-1]
