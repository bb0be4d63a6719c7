"""Training on existing records through the command line, with two workers: prepare_records, then train_only."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support import sample_images, small_network

from kfp_vision.repository.version import exported_version, versions

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_network_registered")]

STAGES = ["check_training", "fetch_records", "train_classifier", "evaluate_classifier", "check_serving", "deploy_model"]
FORM = {
    "network": small_network.NAME,
    "fine_tune": "false",
    "image_size": "64",
    "train_steps": "4",
    "batch_size": "8",
    "gpu_count": "0",
    "workers": "2",
    "model_name": "two-flowers",
    # So few steps teach the model nothing, but the stages after the verdict must run.
    "advanced": '{"batch_norm_decay": 0.9, "beat_largest_class": false}',
}


class Run(NamedTuple):
    """A successful command: the lines it printed, and the last one parsed."""

    lines: list[str]
    result: dict[str, Any]


def run_pipeline(root: Path, pipeline: str, **form: object) -> Run:
    options = [part for name, value in form.items() for part in ("-p", f"{name}={value}")]
    command = [sys.executable, "-m", "kfp_vision.cli", "run", pipeline, *options, "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return Run(done.stdout.splitlines(), json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Run:
    root = tmp_path_factory.mktemp("prepare")
    sample_images.pictures(root / "pictures", each=30)
    return run_pipeline(root, "prepare_records", images_uri="pictures", test_ratio=0.1, images_per_shard=20, partitions=2)


@pytest.fixture(scope="module")
def run(prepared, tmp_path_factory) -> Run:
    root = tmp_path_factory.mktemp("train")
    return run_pipeline(root, "train_only", records_uri=prepared.result["records"], deploy_to="repository", **FORM)


def test_trains_from_records_to_a_deployed_model(run):
    stages = [line.split()[1] for line in run.lines if line.startswith("[")]
    assert stages == [*STAGES, "call_endpoint", "report_outcome"]
    assert sorted(run.result["skipped"]) == ["export_model", "predict_images", "register_model"]
    (version,) = versions(Path(run.result["endpoint"]["repository"]))
    assert version.fingerprint == exported_version(Path(run.result["model_dir"])).fingerprint
    assert version.labels == ["bellcup", "globelet"]


def test_two_workers_train_and_the_run_says_so(run):
    log = (Path(run.result["run_dir"]) / "run.log").read_text(encoding="utf-8")
    assert "on the CPU of each of 2 workers" in log and "step 4/4" in log


def test_evaluates_on_the_test_split_of_the_records(run, prepared):
    assert prepared.result["pictures"]["test"] == 6
    assert f"on {prepared.result['pictures']['test']} test images" in "\n".join(run.lines)


def test_fetches_the_records_unchanged(run, prepared):
    (fetched,) = Path(run.result["run_dir"]).glob("*/fetch-records")
    for split in prepared.result["pictures"]:
        folders = (fetched / f"{split}_records", Path(prepared.result["records"]) / split)
        fetched_files, prepared_files = ({file.name: file.read_bytes() for file in folder.iterdir()} for folder in folders)
        assert fetched_files == prepared_files


def test_the_folder_of_records_holds_no_links(prepared):
    files = list(Path(prepared.result["records"]).rglob("*"))
    assert len(files) > 6 and not [file for file in files if file.is_symlink()]
