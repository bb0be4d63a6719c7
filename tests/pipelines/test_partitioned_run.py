"""End to end with records written in partitions: the result equals that of a single stage."""

import csv
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import run_component, sample_images, small_network

from kfp_vision import components

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_network_registered")]

PARTITIONS, PER_SHARD = 3, 7
BROKEN = ("bellcup/0003.jpg", "globelet/0011.jpg", "globelet/0025.jpg")
# So few steps teach the model nothing, but the stages after the verdict must run.
ADVANCED = {"batch_norm_decay": 0.9, "beat_largest_class": False}
FORM = {
    "network": small_network.NAME,
    "fine_tune": "false",
    "image_size": "64",
    "train_steps": "4",
    "batch_size": "8",
    "gpu_count": "0",
    "test_ratio": "0.1",
    "images_per_shard": PER_SHARD,
    "partitions": PARTITIONS,
    "advanced": json.dumps(ADVANCED),
}
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Run:
    """A successful command: the lines it printed, the last one parsed, and the folder of the stages' outputs."""

    lines: list[str]
    result: dict[str, Any]
    artifacts: Path


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    root = tmp_path_factory.mktemp("run")
    images = sample_images.pictures(root / "pictures", each=30)
    for name in BROKEN:
        (images / name).write_bytes((images / name).read_bytes()[:3000])
    options = [part for name, value in (FORM | {"images_uri": images}).items() for part in ("-p", f"{name}={value}")]
    command = [sys.executable, "-m", "kfp_vision.cli", "run", "image_classification_partitioned", *options, "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    (folder,) = Path(result["run_dir"]).glob("*/evaluate-classifier")
    return Run(done.stdout.splitlines(), result, folder.parent)


@pytest.fixture(scope="module")
def unpartitioned(run, tmp_path_factory) -> run_component.Result:
    """Writes the same tables in one stage."""
    tables = {name: run.artifacts / "split-images" / name for name in ("tables", "label_map")}
    limits = {"images_per_shard": PER_SHARD, "advanced": ADVANCED}
    return run_component.run(components.write_tfrecords, tmp_path_factory.mktemp("once"), tables, **limits)


@pytest.mark.parametrize("split", SPLITS)
def test_the_records_equal_the_unpartitioned_ones_byte_for_byte(run, unpartitioned, split):
    folders = (run.artifacts / "join-records", unpartitioned.folder)
    contents = [{file.name: file.read_bytes() for file in (folder / f"{split}_records").iterdir()} for folder in folders]
    assert contents[0] == contents[1]


def test_the_rejected_images_of_all_partitions_are_in_one_list(run, unpartitioned):
    rejected_list = run.artifacts / "join-records" / "refused"
    assert rejected_list.read_bytes() == (unpartitioned.folder / "refused").read_bytes()
    with rejected_list.open(newline="") as file:
        assert sorted("/".join(row["uri"].split("/")[-2:]) for row in csv.DictReader(file)) == sorted(BROKEN)
    assert len(list(run.artifacts.glob("*/write-partition/part/refused"))) == PARTITIONS


def test_the_summary_page_covers_all_partitions(run, unpartitioned):
    assert (run.artifacts / "join-records" / "summary").read_text() == (unpartitioned.folder / "summary").read_text()


def test_all_iterations_of_a_stage_have_one_number(run):
    headings = [line for line in run.lines if line.startswith("[")]
    writers = [line.split("] ")[1] for line in headings if "write_partition" in line]
    assert writers == ["write_partition", "write_partition (2)", "write_partition (3)"]
    numbers = [int(line[1:].partition("/")[0]) for line in headings]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(1, 12))
    assert {line.partition("/")[2].partition("]")[0] for line in headings} == {"16"}  # five of them are skipped
    assert sorted(run.result["skipped"]) == [
        "call_endpoint",
        "deploy_model",
        "export_model",
        "predict_images",
        "register_model",
    ]


def test_times_every_stage_and_prints_the_duration_of_every_iteration(run):
    assert len(run.result["seconds"]) == 11 + 1
    durations = [line for line in run.lines if line.startswith("      done in ")]
    assert len(durations) == 11 + PARTITIONS - 1
    assert run.result["seconds"]["write_partition"] <= run.result["seconds"]["total"]


def test_evaluates_on_the_records_of_all_partitions(run):
    verdict = json.loads((run.artifacts / "evaluate-classifier" / "metrics").read_text())
    written = json.loads((run.artifacts / "join-records" / "test_records" / "records.json").read_text())
    assert (verdict["split"], verdict["images"]) == ("test", written["images"])
    assert (Path(run.result["model_dir"]) / "labels.txt").read_text() == "0:bellcup\n1:globelet\n"
