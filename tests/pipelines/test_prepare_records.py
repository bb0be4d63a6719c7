"""Preparing records through the command line: from annotated images to a label map and TFRecord files."""

import csv
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from support import boxed_images, sample_images, several_labels

from kfp_vision.records.records_folder import read_examples, read_fields


@dataclass(frozen=True)
class Run:
    """A successful command: the lines it printed, and the last one parsed."""

    lines: list[str]
    result: dict[str, Any]


def prepare(root: Path, **form: object) -> Run:
    options = [part for name, value in form.items() for part in ("-p", f"{name}={value}")]
    command = [sys.executable, "-m", "kfp_vision.cli", "run", "prepare_records", *options, "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return Run(done.stdout.splitlines(), json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    root = tmp_path_factory.mktemp("detection")
    boxed_images.data(root / "data", pictures=60)
    (root / "data" / "some" / "001.xml").write_text("<annotation>")
    form = {"task": "detection", "images_uri": "data", "test_ratio": 0.1, "images_per_shard": 10, "partitions": 3}
    return prepare(root, **form)


def test_prints_the_folder_of_the_records_and_their_counts(run):
    folder = run.result["records"]
    assert run.result["pictures"] == {"train": 42, "validation": 11, "test": 6}
    assert run.result["refused"] == 1
    closing = run.lines[run.lines.index("records   42 train, 11 validation, 6 test images") :]
    assert closing[1:3] == [f"rejected  1, listed in {folder}/refused.csv", f"folder    {folder}"]
    assert closing[3] == f"report    {run.result['report']}"
    assert "<h1>The records</h1>" in Path(run.result["report"]).read_text()
    assert closing[4].startswith("done in ")
    assert run.result["skipped"] == []


def test_the_folder_holds_records_label_map_and_rejected_files(run):
    folder = Path(run.result["records"])
    assert sorted(path.name for path in folder.iterdir()) == [
        "label_map.pbtxt",
        "refused.csv",
        "test",
        "train",
        "validation",
    ]
    assert (folder / "label_map.pbtxt").read_text().count("item {") == 3
    assert "an annotation that is not XML" in (folder / "refused.csv").read_text()
    shards = sorted(str(path) for path in (folder / "train").glob("*.tfrecord"))
    assert [Path(shard).name for shard in shards] == [f"train-{number:05}-of-00005.tfrecord" for number in range(5)]
    schema = {"image/object/class/label": tf.io.VarLenFeature(tf.int64)}
    found = [tf.io.parse_single_example(record, schema) for record in tf.data.TFRecordDataset(shards)]
    labels = {int(label) for example in found for label in example["image/object/class/label"].values}
    assert (len(found), labels) == (42, {1, 2, 3})


@pytest.mark.slow
def test_prepares_classification_records_without_the_excluded_images(tmp_path):
    images = sample_images.pictures(tmp_path / "pictures")
    (tmp_path / "list.csv").write_text("path\nbellcup/0001.jpg\nglobelet/0001.jpg\n")
    done = prepare(tmp_path, images_uri=images, leave_out_uri="list.csv", advanced='{"max_side": 64}')
    folder = Path(done.result["records"])
    assert done.result["pictures"] == {"train": 14, "validation": 4, "test": 0}
    assert (folder / "labels.txt").read_text() == "0:bellcup\n1:globelet\n"
    written = [(name, label) for split in ("train", "validation") for name, _, label in read_examples(folder / split)]
    assert {label for _, label in written} == {"bellcup", "globelet"}
    assert len(written) == 18 and not [name for name, _ in written if name.endswith("0001.jpg")]


@pytest.mark.slow
def test_prepares_records_of_several_labels_from_coco_on_several_machines(tmp_path):
    listed = several_labels.write_folder(tmp_path / "photos", 60)
    with listed.open(newline="") as file:
        labels_of = {row["uri"]: row["label"].replace("[]", "").split("|") for row in csv.DictReader(file)}
    images = [{"id": number, "file_name": name} for number, name in enumerate(labels_of)]
    numbers = {label: number for number, label in enumerate(several_labels.LABELS)}
    marks = [
        {"image_id": image, "category_id": numbers[label], "bbox": [0, 0, 9, 9], "iscrowd": 0}
        for image, labels in enumerate(labels_of.values())
        for label in filter(None, labels)
    ]
    categories = [{"id": number, "name": label} for label, number in numbers.items()]
    content = {"images": images, "annotations": marks, "categories": categories}
    (tmp_path / "photos" / "coco.json").write_text(json.dumps(content))
    done = prepare(tmp_path, images_uri="photos/coco.json", labels="several", test_ratio=0.1, images_per_shard=8, partitions=2)
    folder = Path(done.result["records"])
    assert sorted(path.name for path in folder.iterdir()) == [
        "labels.txt",
        "refused.csv",
        "several_labels",
        "test",
        "train",
        "validation",
    ]
    written = {one.name: one.label for split in ("train", "validation", "test") for one in read_fields(folder / split)}
    assert {Path(name).name: label for name, label in written.items()} == {
        name: "\t".join(filter(None, labels)) for name, labels in labels_of.items()
    }
    assert json.loads((folder / "train" / "records.json").read_text())["labels_per_image"] == "several"
