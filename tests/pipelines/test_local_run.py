"""The whole way on this machine: pictures in, a deployed model out, through the command line as a person types it."""

import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import local_outputs, run_component, sample_images

from kfp_vision import components
from kfp_vision.repository.version import exported_version, versions
from kfp_vision.serving import server

STAGES = [
    "check_run",
    "decide_training",
    "ingest_images",
    "split_images",
    "write_tfrecords",
    "train_classifier",
    "evaluate_classifier",
    "check_serving",
]
IN_ANY_ORDER = ["call_endpoint", "deploy_model", "predict_images"]  # the one side waits for nothing of the other
LAST = "report_outcome"
RATIOS = {"validation_ratio": 0.2, "test_ratio": 0.1}
SPLITS = {"train": 42, "validation": 12, "test": 6}
SMALL = {
    "fine_tune": "false",
    "image_size": "64",
    "train_steps": "12",
    "batch_size": "8",
    "gpu_count": "0",
    "model_name": "two-flowers",
    # So few steps teach nothing, and the stages behind the verdict are to run.
    "advanced": '{"depth_multiplier": 0.1, "batch_norm_decay": 0.9, "beat_largest_class": false}',
}


@dataclass(frozen=True)
class Run:
    """A command that ended well.

    Attributes:
        pictures: the folder it read.
        output: the folder it wrote to.
        lines: what it printed to stdout.
        stderr: and to stderr.
        result: the last line, parsed.
    """

    pictures: Path
    output: Path
    lines: list[str]
    stderr: str
    result: dict[str, Any]

    @property
    def artifacts(self) -> Path:
        """Where the stages' outputs lie."""
        (folder,) = Path(self.result["run_dir"]).glob("*/evaluate-classifier")
        return folder.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    root = tmp_path_factory.mktemp("run")
    pictures = sample_images.pictures(root / "pictures", each=30)
    form = SMALL | RATIOS | {"images_uri": pictures, "test_image_uri": pictures / "globelet" / "0007.jpg"}
    form |= {"deploy_to": root / "a repository", "predict_uri": pictures / "bellcup"}
    form |= {"log_uri": root / "logs"}
    options = [part for name, value in form.items() for part in ("-p", f"{name}={value}")]
    command = [sys.executable, "-m", "kfp_vision.cli", "run", *options, "--json", "--output", str(root / "out")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    return Run(pictures, root / "out", lines, done.stderr, json.loads(lines[-1]))


def test_names_each_stage_in_order_and_how_long_it_took(run):
    named = [line for line in run.lines if line.startswith("[")]
    stages = [line.split()[1] for line in named]
    assert stages[: len(STAGES)] == STAGES
    assert sorted(stages[len(STAGES) : -1]) == IN_ANY_ORDER
    assert stages[-1] == LAST
    assert named == [f"[{number}/{len(stages)}] {stage}" for number, stage in enumerate(stages, start=1)]
    assert sum(bool(re.fullmatch(r" +done in \d+\.\d s", line)) for line in run.lines) == len(stages)
    assert list(run.result["seconds"]) == [*stages, "total"]
    parts = [run.result["seconds"][stage] for stage in stages]
    assert 0 < sum(parts) <= run.result["seconds"]["total"] + 0.5


def test_passes_on_what_the_stages_say_and_nothing_else(run):
    said = "\n".join(run.lines)
    assert "60 images in 2 classes, 0 files skipped" in said
    assert "step 12/12  loss " in said
    assert "on 6 test images" in said
    assert "KFP Executor" not in said and "Traceback" not in said and "\x1b" not in said
    assert run.stderr == ""


def test_makes_one_folder_with_all_that_came_out(run):
    (run_dir,) = run.output.iterdir()
    assert run.result["run_dir"] == str(run_dir)
    model = Path(run.result["model_dir"])
    assert model == run_dir / "model"
    assert {path.name for path in model.iterdir()} >= {"classifier.keras", "labels.txt", "serving"}
    assert (model / "serving" / "1" / "saved_model.pb").is_file()
    assert (model / "labels.txt").read_text() == "0:bellcup\n1:globelet\n"
    assert Path(run.result["report"]) == run_dir / "report.html"
    assert "two-flowers: evaluation" in (run_dir / "report.html").read_text()
    assert "Executing task" in (run_dir / "run.log").read_text()
    assert not list(run_dir.rglob("*.partial"))


def test_reports_the_accuracy_on_the_test_split(run):
    verdict = json.loads((run.artifacts / "evaluate-classifier" / "metrics").read_text())
    assert verdict["split"] == "test"
    assert verdict["images"] == SPLITS["test"]
    assert run.result["accuracy"] == verdict["accuracy"]
    assert run.result["accepted"] is True
    assert f"accuracy  {verdict['accuracy']:.4f} on held-out images" in run.lines
    assert verdict["test_picture"]["uri"] == str(run.pictures / "globelet" / "0007.jpg")


def test_deploys_the_model_and_asks_it_over_http(run):
    (version,) = versions(run.pictures.parent / "a repository")
    assert version.fingerprint == exported_version(Path(run.result["model_dir"])).fingerprint
    assert run.result["endpoint"]["version"] == version.number == 1
    answer, verdict = run.result["answer"], json.loads((run.artifacts / "evaluate-classifier" / "metrics").read_text())
    assert answer["picture"] == verdict["test_picture"]["uri"]
    assert answer["prediction"] == verdict["test_picture"]["prediction"]
    assert answer["score"] == pytest.approx(verdict["test_picture"]["score"], abs=1e-3)
    assert (
        f"answer    {answer['picture']} is classified over HTTP as {answer['prediction']} ({answer['score']:.0%})" in run.lines
    )
    assert "      the run succeeded" in run.lines
    assert run.result["skipped"] == []


def test_every_artifact_has_a_file(run):
    assert local_outputs.unwritten(run.artifacts) == []


def test_names_the_pictures_that_it_was_asked_to(run):
    with Path(run.result["predictions"]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [str(file) for file in sorted((run.pictures / "bellcup").iterdir())]
    assert {row["prediction"] for row in rows} <= {"bellcup", "globelet"}


def predicted(*arguments: object) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "kfp_vision.cli", "predict", "--json", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_predict_gives_the_same_answers_with_and_without_a_server(run):
    folder = run.pictures / "globelet"
    directly = predicted("--model", run.result["model_dir"], folder)
    assert [list(one) for one in directly] == [["path", "prediction", "score"]] * 30
    with server.run_server(run.pictures.parent / "a repository") as url:
        over_http = predicted("--url", url, folder)
    for one, other in zip(directly, over_http, strict=True):
        assert (one["path"], one["prediction"]) == (other["path"], other["prediction"])
        assert one["score"] == pytest.approx(other["score"], abs=1e-3)


def test_predict_names_what_it_can_and_fails_for_the_rest(run, tmp_path):
    (tmp_path / "notes.jpg").write_text("no picture")
    picture = run.pictures / "globelet" / "0001.jpg"
    command = [sys.executable, "-m", "kfp_vision.cli", "predict", "--model", run.result["model_dir"]]
    command += [str(tmp_path / "notes.jpg"), str(picture), str(tmp_path / "nothing.jpg")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(rf"(bellcup|globelet)  [01]\.\d{{4}}  {picture}\n", done.stdout)
    wrong = {"notes.jpg": "not an image in a known format", "nothing.jpg": "No such file or directory"}
    assert done.stderr == "".join(
        f"error: an image must be readable; got {tmp_path / name} ({reason}). Give a JPEG or a PNG.\n"
        for name, reason in wrong.items()
    )


def test_brings_the_events_to_a_folder_of_their_own(run):
    (events,) = (run.artifacts / "train-classifier" / "events").glob("events.out.tfevents.*")
    (folder,) = (run.pictures.parent / "logs").iterdir()
    assert folder.name.startswith("two-flowers-")
    assert (folder / events.name).read_bytes() == events.read_bytes()


def test_takes_the_form_as_it_was_filled_in(run):
    settings = json.loads((Path(run.result["model_dir"]) / "model.json").read_text())
    assert settings["train_steps"] == 12
    assert settings["image_size"] == 64
    assert settings["advanced"]["depth_multiplier"] == 0.1
    assert settings["network"] == "inception_v1"


def test_run_again_with_skip_unchanged_it_ends_before_any_work(run, tmp_path):
    form = SMALL | RATIOS | {"images_uri": run.pictures, "deploy_to": run.pictures.parent / "a repository"}
    form |= {"test_image_uri": "", "skip_unchanged": "true", "min_accuracy": "0.9"}
    options = [part for name, value in form.items() for part in ("-p", f"{name}={value}")]
    command = [sys.executable, "-m", "kfp_vision.cli", "run", *options, "--json", "--output", str(tmp_path / "again")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("[")] == []
    assert "images and fields unchanged: keeping the deployed model" in done.stdout.splitlines()
    result = json.loads(done.stdout.splitlines()[-1])
    assert result == {"unchanged": True, "skipped": sorted([*STAGES, *IN_ANY_ORDER, LAST])}
    assert not (tmp_path / "again").exists()
    assert len(versions(run.pictures.parent / "a repository")) == 1


@pytest.fixture(scope="module")
def elsewhere(run, tmp_path_factory) -> dict[str, run_component.Result]:
    """The first stages again, on a copy of the pictures in another place; stage to what it made."""
    root = tmp_path_factory.mktemp("elsewhere")
    copy = shutil.copytree(run.pictures, root / "a" / "deeper place")
    values = run_component.ingest_arguments(copy, fingerprint="another") | RATIOS
    ingested = run_component.run(components.ingest_images, root / "ingest", **values)
    split = run_component.run(
        components.split_images, root / "split", {"images": ingested.folder / "images"}, advanced={}, **RATIOS
    )
    tables = {name: split.folder / name for name in ("tables", "label_map")}
    written = run_component.run(components.write_tfrecords, root / "write", tables, images_per_shard=1000, advanced={})
    return {"ingest_images": ingested, "split_images": split, "write_tfrecords": written}


@pytest.mark.parametrize("part", SPLITS)
def test_the_same_pictures_elsewhere_are_split_the_same(run, elsewhere, part):
    names = []
    for folder in (run.artifacts / "split-images", elsewhere["split_images"].folder):
        with (folder / "tables" / f"{part}.csv").open(newline="") as file:
            names.append([row["name"] for row in csv.DictReader(file)])
    assert names[0] == names[1]
    assert len(names[0]) == SPLITS[part]


@pytest.mark.parametrize("part", SPLITS)
def test_the_same_pictures_elsewhere_give_the_same_records_byte_for_byte(run, elsewhere, part):
    folders = (run.artifacts / "write-tfrecords", elsewhere["write_tfrecords"].folder)
    contents = [{file.name: file.read_bytes() for file in (folder / f"{part}_records").iterdir()} for folder in folders]
    assert contents[0].keys() == {f"{part}-00000-of-00001.tfrecord", "records.json"}
    assert contents[0] == contents[1]


def test_the_same_pictures_elsewhere_have_the_same_fingerprint(run, elsewhere):
    there = json.loads((run.artifacts / "ingest-images" / "executor_output.json").read_text())
    assert there["parameterValues"]["Output"] == elsewhere["ingest_images"].output
