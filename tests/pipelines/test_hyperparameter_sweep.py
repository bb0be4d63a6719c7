"""A hyperparameter sweep through the command line, in which one trial fails."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support import sample_images, small_network

from kfp_vision.repository.version import exported_version, versions

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_network_registered")]

FORM = {
    "networks": f'["{small_network.NAME}"]',
    "fine_tune": "false",
    "image_size": "64",
    "train_steps": "4",
    "test_ratio": "0.1",
    "optimizers": '["sgd"]',
    "batch_sizes": "[8]",
    "learning_rates": "[0.01, 1e30]",
    "gpu_count": "0",
    # So few steps teach the model nothing, but the stages after the verdict must run.
    "advanced": '{"batch_norm_decay": 0.9, "beat_largest_class": false}',
}


class Run(NamedTuple):
    """A successful command: the lines it printed, and the last one parsed."""

    lines: list[str]
    result: dict[str, Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    root = tmp_path_factory.mktemp("run")
    form = FORM | {"images_uri": sample_images.pictures(root / "pictures", each=30), "deploy_to": root / "repository"}
    options = [part for name, value in form.items() for part in ("-p", f"{name}={value}")]
    command = [sys.executable, "-m", "kfp_vision.cli", "run", "hyperparameter_sweep", *options, "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return Run(done.stdout.splitlines(), json.loads(done.stdout.splitlines()[-1]))


def test_every_trial_is_an_iteration_of_the_loop(run):
    stages = [line.split("] ")[1] for line in run.lines if line.startswith("[")]
    assert [stage for stage in stages if stage.startswith("train_trial")] == ["train_trial", "train_trial (2)"]
    assert stages.index("choose_trials") < stages.index("train_trial")
    assert stages[-6:-2] == ["compare_trials", "evaluate_classifier", "check_serving", "deploy_model"]


def test_a_trial_that_fails_does_not_fail_the_run(run):
    with (Path(run.result["run_dir"]) / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["number"], row["learning_rate"], bool(row["failed"])) for row in rows] == [
        ("1", "0.01", False),
        ("2", "1e+30", True),
    ]
    assert f"trials    {run.result['trials']}" in run.lines
    assert "the thick one is trial 1, the best" in Path(run.result["trials"]).read_text()


def test_the_best_trial_is_evaluated_on_the_test_split_and_deployed(run):
    assert "on 6 test images" in "\n".join(run.lines)
    (version,) = versions(Path(run.result["endpoint"]["repository"]))
    assert version.fingerprint == exported_version(Path(run.result["model_dir"])).fingerprint
    assert version.about["learning_rate"] == 0.01
