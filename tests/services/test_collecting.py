"""A server that collects its answers: what clients got is what is read, after a drain, a kill, and from a bucket."""

import base64
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from support import colour_model, known_colours, model_servers

from kfp_vision.collection import collected
from kfp_vision.prediction.classifier import Classifier

SECONDS = 300  # enough on a busy machine
PREDICT, INFER = "/v1/models/colours:predict", "/v2/models/colours/infer"
IMAGES = [colour_model.picture("red", "PNG"), known_colours.yellow(), b"no image", colour_model.picture("blue")]
ENCODED = [base64.b64encode(image).decode() for image in IMAGES]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def version(tmp_path_factory) -> known_colours.Version:
    return known_colours.write_version(tmp_path_factory.mktemp("repository") / "1")


@contextlib.contextmanager
def collecting_server(version: known_colours.Version, place: str, *options: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """Runs `kfp-vision serve --collect`; yields its address and its process."""
    port = model_servers.free_port()
    command = [sys.executable, "-m", "kfp_vision.cli", "serve", str(version.folder.parent), "--port", str(port)]
    options = ("--collect", place, "--collect-share", "1", *options)
    with model_servers.ended(subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)) as process:
        url = f"http://127.0.0.1:{port}"
        model_servers.until(lambda: process.poll() is not None or answers(url))
        assert process.poll() is None
        yield url, process


def answers(url: str) -> bool:
    with contextlib.suppress(requests.ConnectionError):
        return requests.get(f"{url}/v2/health/ready", timeout=SECONDS).ok
    return False


def drain(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(SECONDS) in (0, -signal.SIGTERM)


def predict(url: str, images: list[str] = ENCODED) -> list[dict]:
    response = requests.post(url + PREDICT, json={"instances": [{"b64": one} for one in images]}, timeout=SECONDS)
    assert response.status_code == 200, response.text
    return response.json()["predictions"]


def test_a_drained_server_has_written_every_answer(version, tmp_path):
    place = tmp_path / "collected"
    with collecting_server(version, str(place), "--collect-images") as (url, process):
        red, yellow, _, blue = predict(url)
        tensor = {"name": "image_bytes", "shape": [1], "datatype": "BYTES", "data": ENCODED[:1]}
        assert requests.post(url + INFER, json={"inputs": [tensor]}, timeout=SECONDS).ok
        drain(process)
    found = list(collected.read_collected(str(place), model="colours", fingerprint=version.fingerprint))
    assert [one.labels for one in found] == [[one["classes"]] for one in (red, yellow, blue, red)]  # the broken one has none
    assert [one.known for one in found] == [True, False, True, True]
    np.testing.assert_allclose(
        [list(one.scores.values()) for one in found[:3]], [one["probabilities"] for one in (red, yellow, blue)], atol=1e-6
    )
    assert [Path(one.image_uri).read_bytes() for one in found] == [IMAGES[0], IMAGES[1], IMAGES[3], IMAGES[0]]
    engine = Classifier(version).engine
    expected = engine.embeddings([engine.crop(IMAGES[number], 10**6) for number in (0, 1, 3)])
    cosines = [
        np.dot(one.embedding, row) / np.linalg.norm(one.embedding) / np.linalg.norm(row)
        for one, row in zip(found, expected, strict=False)
    ]
    assert min(cosines) > 0.999


def test_a_kill_loses_only_what_was_answered_since_the_last_batch(version, tmp_path):
    place = tmp_path / "collected"
    with collecting_server(version, str(place)) as (url, process):
        predict(url)
        model_servers.until(lambda: collected.list_batches(str(place)))
        predict(url)
        process.send_signal(signal.SIGKILL)
        process.wait()
    (batch,) = collected.list_batches(str(place))
    left = Path(batch.uri).with_name(f".20260504T100000.000000-00000000.jsonl.gz.{os.uname().nodename}.{process.pid}.partial")
    left.write_bytes(b"half a batch")
    assert len(list(collected.read_collected(str(place)))) == 3
    with collecting_server(version, str(place)) as (url, process):
        predict(url)
        metrics = requests.get(f"{url}/metrics", timeout=SECONDS).text
        drain(process)
    assert 'outcome="dropped"' not in metrics and not left.exists()
    assert len(list(collected.read_collected(str(place)))) == 6


def test_collects_in_a_bucket_and_deletes_there(version, s3, monkeypatch):
    old = "colours/2020-01-01/20200101T000000.000000-00000000.jsonl.gz"
    bucket = s3.bucket(f"collected{next(model_servers.NUMBERS)}", {f"here/{old}": collected.pack_batch([]), "here/x.txt": b"x"})
    with collecting_server(version, f"s3://{bucket}/here", "--collect-images") as (url, process):
        predict(url)
        drain(process)
    found = list(collected.read_collected(f"s3://{bucket}/here"))
    assert len(found) == 3 and not (s3.folder / bucket / "here" / old).exists() and (s3.folder / bucket / "here/x.txt").exists()
    assert (s3.folder / bucket / "here/colours" / found[1].day / found[1].image).read_bytes() == IMAGES[1]


def test_counts_what_it_collects_and_keeps_no_image_unasked(version, tmp_path):
    with collecting_server(version, str(tmp_path / "collected")) as (url, process):
        predict(url)
        model_servers.until(lambda: collected.list_batches(str(tmp_path / "collected")))
        counted = 'kfp_vision_collected_total{model="colours",outcome="collected"} 3.0'
        model_servers.until(lambda: counted in requests.get(f"{url}/metrics", timeout=SECONDS).text)
        drain(process)
    (only, *_) = collected.read_collected(str(tmp_path / "collected"))
    assert only.image == ""  # images only where asked


def test_a_wrong_option_is_one_line(version, tmp_path):
    command = [sys.executable, "-m", "kfp_vision.cli", "serve", str(version.folder.parent), "--collect", str(tmp_path)]
    done = subprocess.run([*command, "--collect-share", "5"], check=False, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == (
        "error: --collect-share must be a number above 0 and at most 1; got 5.0. Set it to 0.1, say.\n"
    )
