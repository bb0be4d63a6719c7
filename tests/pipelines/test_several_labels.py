"""End to end on one machine: from an export of Label Studio to a deployed model that names all labels of an image."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import several_labels

from kfp_vision.repository.version import exported_version, versions

pytestmark = pytest.mark.slow

IMAGES = 160  # of squares in up to three colours; one image in eight has none
LEAST = 0.9  # mean average precision; scores that know nothing of the image reach about 0.5
FORM = {
    "labels": "several",
    "recipe": "quick",
    "train_steps": "300",
    "image_size": "64",
    "gpu_count": "0",
    "validation_ratio": "0.25",
    "test_ratio": "0.25",
    "min_accuracy": str(LEAST),
    "model_name": "squares",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """Runs image_classification; returns its folder and the last line, parsed."""
    root = tmp_path_factory.mktemp("run")
    export = several_labels.write_label_studio(root / "images", IMAGES, "/data/upload/1/0f9e8d7c-{}")  # as uploads are called
    form = FORM | {"images_uri": export, "deploy_to": root / "repository"}
    options = [part for name, value in form.items() for part in ("-p", f"{name}={value}")]
    command = [sys.executable, "-m", "kfp_vision.cli", "run", *options, "--json", "--output", str(root / "out")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return root, json.loads(done.stdout.splitlines()[-1])


def figures(result: dict[str, Any]) -> dict[str, Any]:
    (file,) = Path(result["run_dir"]).glob("*/evaluate-classifier/metrics")
    return json.loads(file.read_text())


def test_a_model_of_several_labels_is_learned_accepted_and_deployed(run):
    root, result = run
    found = figures(result)
    assert result["mean_average_precision"] == found["mean_average_precision"] >= LEAST
    assert found["chance"]["mean_average_precision"] < 0.7
    assert result["accepted"] is True
    assert "accuracy" not in result
    (version,) = versions(root / "repository")
    assert version.fingerprint == exported_version(Path(result["model_dir"])).fingerprint
    assert version.several
    assert len(version.thresholds) == len(version.labels) == 3


def test_the_deployed_model_answers_with_the_labels_of_the_evaluation(run):
    _, result = run
    assert isinstance(result["answer"]["labels"], list)
    assert set(result["answer"]["labels"]) <= set(several_labels.LABELS)


def test_the_report_has_a_curve_for_each_label(run):
    page = Path(run[1]["report"]).read_text()
    assert "is the mean average precision on" in page
    assert page.count("Precision by recall of") == 3
