"""Measures the engines against an earlier build, which computed with TensorFlow in float32: in process, served, started."""

import base64
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from benchmarks import earlier_build, photographs, serve
from benchmarks.measure import Figure, report, rounds
from kfp_vision.engines.choice import ENGINE_VARIABLE, INT8_EXPORT
from kfp_vision.engines.engine import OPENVINO_FLOAT32, OPENVINO_INT8
from kfp_vision.exports import convert
from kfp_vision.exports.crops import crop_image
from kfp_vision.exports.formats import FORMATS
from kfp_vision.repository.version import EXPORTS_FILE, EXPORTS_FOLDER, versions

NETWORKS = ("googlenet", "inception_v1", "mobilenet_v3_large")  # the last one has depthwise convolutions
SERVED = NETWORKS[0]
ALONE, TOGETHER = 1, 32
CLIENTS = 32
SECONDS = 6.0  # per measurement
REQUESTS = 100  # before the memory of a server is read
URL_LINE = re.compile(r"^open (http\S+)/ ", re.MULTILINE)
# A processor without bfloat16 and AVX-512, for TensorFlow's and OpenVINO's oneDNN alike.
PLAIN_PROCESSOR = {"ONEDNN_MAX_CPU_ISA": "AVX2", ENGINE_VARIABLE: OPENVINO_FLOAT32}


def run() -> list[Figure]:
    """Runs this benchmark.

    Returns:
        Its figures.
    """
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as scratch:
        images = photographs.write_copies(Path(scratch) / "images", 1)
        for name in NETWORKS:
            ours, earlier = Path(scratch) / name / "ours", Path(scratch) / name / "earlier"
            serve.write_model_apart(ours, name)
            quantize(ours, images, Path(scratch) / name / "crops.npy")
            earlier_build.run(earlier_build.WRITE_MODEL, name, earlier)
            figures += _in_process(name, ours, earlier, images)
            if name == SERVED:
                figures += _served(ours, earlier, images)
                figures += _stage(ours, earlier, photographs.write_copies(Path(scratch) / "many", 5))
    return figures


def quantize(repository: Path, images: Path, crops: Path) -> None:
    """Writes the int8 export of a repository's newest version, as `export_model` does, which would also score it.

    Args:
        repository: model repository.
        images: folder of class folders with JPEGs, of which every third is calibrated on.
        crops: `.npy` file to write these to.
    """
    version = versions(repository)[-1]
    np.save(crops, np.stack([crop_image(version, file.read_bytes()) for file in sorted(images.glob("*/*.jpg"))[::3]]))
    exports = repository / EXPORTS_FOLDER
    convert.convert(version, FORMATS[INT8_EXPORT], exports / INT8_EXPORT, crops)
    (exports / EXPORTS_FILE).write_text(json.dumps({"model_fingerprint": version.fingerprint}))


def _in_process(name: str, ours: Path, earlier: Path, images: Path) -> list[Figure]:
    def measure(size: int) -> tuple[float, float]:
        peer = float(earlier_build.run(earlier_build.IN_PROCESS, earlier, images, SECONDS, size))
        return serve.measure_in_process(ours, images, SECONDS, size), peer

    figures = []
    for label, size, settings in (
        ("batches", TOGETHER, {}),
        ("alone", ALONE, {}),
        ("plain_batches", TOGETHER, PLAIN_PROCESSOR),
        ("int8_batches", TOGETHER, {ENGINE_VARIABLE: OPENVINO_INT8}),
        ("int8_alone", ALONE, {ENGINE_VARIABLE: OPENVINO_INT8}),
    ):
        with _environment(settings):
            pairs = [measure(size) for _ in range(rounds())]
        figures.append(report(f"engines_{name}_{label}", earlier_build.NAME, "img/s", pairs))
    return figures


def _served(ours: Path, earlier: Path, images: Path) -> list[Figure]:
    image = sorted(images.glob("*/*.jpg"))[0].read_bytes()
    our_server = [sys.executable, "-m", "kfp_vision.serving", str(ours), "--port", "0"]
    peer_server = earlier_build.command(earlier_build.SERVE, "serve", earlier, "--port", "0")
    loads, starts = [], []
    for _ in range(rounds()):
        with _started(our_server, None, image) as (url, *mine), _started(peer_server, earlier_build.folder(), image) as peer:
            starts.append((mine, list(peer[1:])))
            loads.append(
                (
                    serve.measure_load(url, images, CLIENTS, SECONDS),
                    serve.measure_load(peer[0], images, CLIENTS, SECONDS),
                )
            )
    peer_name = earlier_build.NAME
    return [
        report("engines_http_rate", peer_name, "req/s", [(mine.rate, its.rate) for mine, its in loads]),
        report("engines_http_p99", peer_name, "ms", [(mine.p99, its.p99) for mine, its in loads], less=True),
        report("engines_first_answer", peer_name, "s", [(mine[0], its[0]) for mine, its in starts], less=True),
        report("engines_memory", peer_name, "MiB", [(mine[1], its[1]) for mine, its in starts], less=True),
    ]


def _stage(ours: Path, earlier: Path, images: Path) -> list[Figure]:
    """Measures the whole stage: start, load, classify, write the table."""
    program = "import sys, time; start = time.perf_counter(); from pathlib import Path\n"
    program += "from kfp_vision.prediction import batch, classifier\nfrom kfp_vision.repository.version import versions\n"
    program += "version = versions(Path(sys.argv[1]))[-1]\n"
    program += "batch.predict_images(classifier.Classifier(version), version.labels, sys.argv[2], Path(sys.argv[3]))\n"
    program += "print(time.perf_counter() - start)"
    pairs = []
    for _ in range(rounds()):
        with tempfile.TemporaryDirectory() as scratch:
            command = [sys.executable, "-c", program, str(ours), str(images), f"{scratch}/table"]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            peer = float(earlier_build.run(earlier_build.PREDICT, earlier, images, f"{scratch}/peer"))
            pairs.append((float(done.stdout.splitlines()[-1]), peer))
    return [report("engines_batch_prediction", earlier_build.NAME, "s", pairs, less=True)]


@contextlib.contextmanager
def _started(command: list[str], folder: Path | None, image: bytes) -> Iterator[tuple[str, float, float]]:
    """Starts a server.

    Args:
        command: that starts it on a free port.
        folder: of the earlier build; None for this one.
        image: to send.

    Yields:
        Its address, seconds from the start to the first answer, and MiB resident after some requests.
    """
    environment = earlier_build.environment() if folder else dict(os.environ)
    start = time.perf_counter()
    with (
        tempfile.NamedTemporaryFile() as output,  # a pipe that nobody empties would stop it
        subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.DEVNULL) as process,
    ):
        try:
            while not (found := URL_LINE.search(Path(output.name).read_text())):
                if process.poll() is not None:
                    raise RuntimeError(f"{' '.join(command)} has ended with {process.returncode}")
                time.sleep(0.02)
            url = found[1]
            body = json.dumps({"instances": [{"b64": base64.b64encode(image).decode()}]}).encode()
            _ask(url, body)
            first = time.perf_counter() - start
            for _ in range(REQUESTS):
                _ask(url, body)
            yield url, first, _resident(process.pid)
        finally:
            process.terminate()


def _ask(url: str, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/models/benchmark:predict", body, headers)) as response:
        response.read()


def _resident(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextlib.contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
