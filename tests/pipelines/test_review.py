"""Choosing images to label, through the command line, with a real model."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from support import known_colours

from kfp_vision.core.errors import InputError
from kfp_vision.preflight import checks

pytestmark = pytest.mark.slow

COLOURS = {"sure.png": (205, 28, 32), "between.png": (120, 118, 20), "grey.png": (100, 101, 99)}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with a model repository, and images without labels."""
    root = tmp_path_factory.mktemp("run")
    known_colours.write_version(root / "repository" / "1")
    (root / "new").mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (40, 30), colour).save(root / "new" / name)
    return root


def test_the_images_most_worth_a_label_are_chosen(root):
    form = {"model_uri": "repository", "images_uri": "new", "review_images": 2}
    options = [part for name, value in form.items() for part in ("-p", f"{name}={value}")]
    command = [sys.executable, "-m", "kfp_vision.cli", "run", "review", *options, "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("[")] == [
        *("check_review", "fetch_model", "review_images"),
        "report_outcome",
    ]
    result = json.loads(lines[-1])
    with Path(result["chosen"]).open(newline="") as file:
        chosen = [Path(row["path"]) for row in csv.DictReader(file)]
    assert sorted(chosen) == [root / "new" / "between.png", root / "new" / "grey.png"]
    assert f"label     kfp-vision review {result['chosen']}" in lines
    assert len(json.loads(Path(result["tasks"]).read_text())) == 2
    assert "Images worth a label" in Path(result["report"]).read_text()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"images_uri": ""}, "either images_uri or collected_uri must be set; got neither."),
        ({"collected_uri": "collected"}, "either images_uri or collected_uri must be set; got both."),
        ({"model_uri": ""}, "model_uri must be set"),
        (
            {"advanced": {"class_folder": "highest"}},
            "advanced of review must hold known names only (name_encoding, store_wait_seconds); got class_folder.",
        ),
        ({"review_images": 0}, "review_images must be a whole number above 0; got 0."),
        ({"images_uri": "/no/such/folder"}, "images_uri must name something that exists; got /no/such/folder."),
        ({"labels_uri": "/no/labels.csv"}, "labels_uri must name something that exists; got /no/labels.csv."),
    ],
)
def test_a_form_that_cannot_run_is_rejected(root, changes, line):
    form = {"model_uri": str(root / "repository"), "images_uri": str(root / "new"), "collected_uri": ""}
    with pytest.raises(InputError) as refusal:
        checks.check_review(form | {"labels_uri": "", "review_images": 2, "advanced": {}} | changes)
    assert str(refusal.value).startswith(f"error: {line}")
