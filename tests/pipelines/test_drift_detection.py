"""The check for drift through the command line, of answers that the logger of KServe holds: first none, then a new colour."""

import base64
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import colour_model, known_colours

from kfp_vision.prediction.classifier import Classifier
from kfp_vision.prediction.held_out import HELD_OUT_FILE, keep_held_out

pytestmark = pytest.mark.slow


def shades(count: int, seed: int) -> list[bytes]:
    """Encodes images in shades of red, green and blue."""

    generator, images = np.random.default_rng(seed), []
    for number in range(count):
        colour = np.array(list(colour_model.RGB.values()))[number % 3] + generator.normal(0, 12, 3)
        file = io.BytesIO()
        Image.new("RGB", (40, 30), tuple(colour.clip(0, 255).astype(int).tolist())).save(file, "PNG")
        images.append(file.getvalue())
    return images


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Returns a folder with a model repository whose version keeps validation images."""
    folder = tmp_path_factory.mktemp("drift")
    version = known_colours.write_version(folder / "models" / "1")
    answers = Classifier(version, keep_embeddings=True).classify(shades(90, seed=1))
    kept = [np.array([getattr(answer, part) for answer in answers]) for part in ("embedding", "probabilities")]
    keep_held_out(*kept).save(version.folder / HELD_OUT_FILE)
    return folder


def write_log(folder: Path, name: str, images: list[bytes]) -> None:
    """Writes a file of KServe's logger with a request of these images."""
    body = json.dumps({"instances": [{"b64": base64.b64encode(image).decode()} for image in images]}).encode()
    event = {"Bytes": base64.b64encode(body).decode(), "ReqType": "org.kubeflow.serving.inference.request"}
    folder.mkdir(exist_ok=True)
    (folder / f"{name}-request.json").write_text(json.dumps(event | {"Id": name, "InferenceService": "colours"}))


def run_cli(root: Path, *, json: bool = True, **form: object) -> subprocess.CompletedProcess:
    options = [part for name, value in form.items() for part in ("-p", f"{name}={value}")]
    line = [sys.executable, "-m", "kfp_vision.cli", "run", "drift_detection", *options, *(["--json"] if json else [])]
    return subprocess.run(line, cwd=root, capture_output=True, text=True, check=False)


def read_result(root: Path) -> dict[str, Any]:
    return json.loads((root / "collected" / "colours" / "drift.json").read_text())


def test_a_drift_in_a_log_is_found(root):
    form = {"model_uri": "models", "collected_uri": "collected", "logged_uri": "logs", "days": 3}
    write_log(root / "logs", "usual", shades(60, seed=2))
    done = run_cli(root, **form)
    assert done.returncode == 0, done.stdout + done.stderr
    found = read_result(root)
    assert (found["images"], found["reference"], found["drifted"]) == (60, 90, False)
    write_log(root / "logs", "new", [known_colours.yellow()] * 30)
    done = run_cli(root, **form)
    assert done.returncode == 0, done.stdout + done.stderr
    found = read_result(root)
    assert (found["images"], found["drifted"]) == (90, True) and found["unknown_share"] > 0.3
    assert json.loads(done.stdout.splitlines()[-1])["drifted"] is True
    done = run_cli(root, json=False, **form | {"logged_uri": ""})  # what was collected before
    assert "\ndrift     yes, of 90 answers of colours\np value   0.00" in done.stdout


def test_a_collection_that_does_not_exist_is_one_line(root):
    done = run_cli(root, model_uri="models", collected_uri="nowhere", days=3)
    assert done.returncode != 0
    assert "error: collected_uri must hold batches of answers; got none below " in done.stderr
