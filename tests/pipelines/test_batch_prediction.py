"""Batch prediction with an existing model through the command line, in one partition and in several."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import colour_model

from kfp_vision.repository import version

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Returns a folder with a model repository and images, one of them broken and one in the wrong class folder."""
    folder = tmp_path_factory.mktemp("batch")
    colour_model.write_version(folder / "models" / "1", ("blue", "red", "green"))
    colour_model.write_version(folder / "models" / "2")
    for colour in colour_model.RGB:
        (folder / "pictures" / colour).mkdir(parents=True)
        for number in range(3):
            (folder / "pictures" / colour / f"{number}.jpg").write_bytes(colour_model.picture(colour))
    (folder / "pictures" / "blue" / "wrong.jpg").write_bytes(colour_model.picture("red"))
    (folder / "pictures" / "blue" / "broken.jpg").write_bytes(b"no picture")
    return folder


def run_cli(root: Path, **form: object) -> subprocess.CompletedProcess:
    options = [part for name, value in form.items() for part in ("-p", f"{name}={value}")]
    line = [sys.executable, "-m", "kfp_vision.cli", "run", "batch_prediction", *options, "--json"]
    return subprocess.run(line, cwd=root, capture_output=True, text=True, check=False)


def predict(root: Path, **form: object) -> tuple[list[str], dict[str, Any]]:
    """Returns the lines that a successful run printed, and the last of them parsed."""
    done = run_cli(root, model_uri="models", predict_uri="pictures", **form)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout.splitlines(), json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def unpartitioned(root) -> tuple[list[str], dict[str, Any]]:
    return predict(root, all_scores="true")


def test_the_newest_version_classifies_every_image(root, unpartitioned):
    _, result = unpartitioned
    with Path(result["predictions"]).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = ["path", "label", "prediction", "score", "known", "known_score", "score:red", "score:green", "score:blue"]
    assert list(rows[0]) == columns
    predictions = {Path(row["path"]).relative_to(root / "pictures").as_posix(): row["prediction"] for row in rows}
    assert (
        predictions["green/1.jpg"] == "green"
        and predictions["blue/wrong.jpg"] == "red"
        and predictions["blue/broken.jpg"] == ""
    )
    assert len(rows) == 11


def test_reports_the_counts_and_the_accuracy(unpartitioned):
    lines, result = unpartitioned
    assert (result["pictures"], result["unreadable"]) == (11, 1)
    assert result["accuracy"] == pytest.approx(9 / 11)
    closing = lines[next(number for number, line in enumerate(lines) if line.startswith("predicted ")) :]
    assert closing[0] == f"predicted 11 images, 1 unreadable: {result['predictions']}"
    assert closing[1] == "accuracy  0.8182 on images in folders named after their labels"
    assert closing[2].startswith("done in ")
    assert result["skipped"] == []


def test_partitions_give_the_same_table(root, unpartitioned):
    _, result = predict(root, all_scores="true", partitions=3)
    assert Path(result["predictions"]).read_text() == Path(unpartitioned[1]["predictions"]).read_text()
    fetched = list(Path(result["run_dir"]).glob("*/fetch-model/model"))
    assert [version.exported_version(folder).fingerprint for folder in fetched] == [
        version.Version(root / "models" / "2").fingerprint
    ]


@pytest.mark.parametrize(
    ("form", "refusal"),
    [
        ({"model_uri": "", "predict_uri": "pictures"}, "model_uri must be set"),
        ({"model_uri": "pictures", "predict_uri": "pictures"}, "model_uri must name a model; got none at"),
        ({"model_uri": "models", "predict_uri": "nowhere"}, "predict_uri must name something that exists"),
        (
            {"model_uri": "models", "predict_uri": "pictures", "partitions": 0},
            "partitions must be a whole number from 1 to 100",
        ),
    ],
)
def test_rejects_wrong_fields_before_any_stage_runs(root, form, refusal):
    done = run_cli(root, **form)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {refusal}") and done.stderr.count("\n") == 1
