"""The whole way with records written in partitions: what comes out is what one stage would have written."""

import csv
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import run_component, sample_images

from kfp_vision import components

PARTITIONS, PER_SHARD = 3, 7
BROKEN = ("bellcup/0003.jpg", "globelet/0011.jpg", "globelet/0025.jpg")
# So few steps teach nothing, and the stages behind the verdict are to run.
ADVANCED = {"depth_multiplier": 0.1, "batch_norm_decay": 0.9, "beat_largest_class": False}
FORM = {
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
    """A command that ended well: what it printed, its last line parsed, and where the stages' outputs lie."""

    lines: list[str]
    result: dict[str, Any]
    artifacts: Path


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    root = tmp_path_factory.mktemp("run")
    pictures = sample_images.pictures(root / "pictures", each=30)
    for name in BROKEN:
        (pictures / name).write_bytes((pictures / name).read_bytes()[:3000])
    options = [part for name, value in (FORM | {"images_uri": pictures}).items() for part in ("-p", f"{name}={value}")]
    command = [sys.executable, "-m", "kfp_vision.cli", "run", "image_classification_partitioned", *options, "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    (folder,) = Path(result["run_dir"]).glob("*/evaluate-classifier")
    return Run(done.stdout.splitlines(), result, folder.parent)


@pytest.fixture(scope="module")
def at_once(run, tmp_path_factory) -> run_component.Result:
    """The same tables written by one stage."""
    tables = {name: run.artifacts / "split-images" / name for name in ("tables", "label_map")}
    limits = {"images_per_shard": PER_SHARD, "advanced": ADVANCED}
    return run_component.run(components.write_tfrecords, tmp_path_factory.mktemp("once"), tables, **limits)


@pytest.mark.parametrize("split", SPLITS)
def test_the_records_are_those_of_one_stage_byte_for_byte(run, at_once, split):
    folders = (run.artifacts / "join-records", at_once.folder)
    contents = [{file.name: file.read_bytes() for file in (folder / f"{split}_records").iterdir()} for folder in folders]
    assert contents[0] == contents[1]


def test_what_was_refused_in_any_partition_stands_on_one_list(run, at_once):
    listed = run.artifacts / "join-records" / "refused"
    assert listed.read_bytes() == (at_once.folder / "refused").read_bytes()
    with listed.open(newline="") as file:
        assert sorted("/".join(row["uri"].split("/")[-2:]) for row in csv.DictReader(file)) == sorted(BROKEN)
    assert len(list(run.artifacts.glob("*/write-partition/part/refused"))) == PARTITIONS


def test_the_page_is_of_all_partitions_together(run, at_once):
    assert (run.artifacts / "join-records" / "summary").read_text() == (at_once.folder / "summary").read_text()


def test_a_stage_in_a_loop_keeps_its_number(run):
    named = [line for line in run.lines if line.startswith("[")]
    writers = [line.split("] ")[1] for line in named if "write_partition" in line]
    assert writers == ["write_partition", "write_partition (2)", "write_partition (3)"]
    numbers = [int(line[1:].partition("/")[0]) for line in named]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(1, 12))
    assert {line.partition("/")[2].partition("]")[0] for line in named} == {"14"}  # three of them wait for a wish
    assert sorted(run.result["skipped"]) == ["call_endpoint", "deploy_model", "predict_images"]


def test_every_stage_is_timed_once_and_every_turn_says_how_long_it_took(run):
    assert len(run.result["seconds"]) == 11 + 1
    ended = [line for line in run.lines if line.startswith("      done in ")]
    assert len(ended) == 11 + PARTITIONS - 1
    assert run.result["seconds"]["write_partition"] <= run.result["seconds"]["total"]


def test_the_model_is_measured_on_what_all_partitions_wrote(run):
    verdict = json.loads((run.artifacts / "evaluate-classifier" / "metrics").read_text())
    written = json.loads((run.artifacts / "join-records" / "test_records" / "records.json").read_text())
    assert (verdict["split"], verdict["images"]) == ("test", written["images"])
    assert (Path(run.result["model_dir"]) / "labels.txt").read_text() == "0:bellcup\n1:globelet\n"
