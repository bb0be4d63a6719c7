"""End to end on one machine through the command line: from images to a deployed model."""

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
import yaml
from kfp.local.graph_utils import topological_sort_tasks
from support import local_outputs, run_component, sample_images, small_network

from kfp_vision import components
from kfp_vision.cli.run import make_sequential
from kfp_vision.dataset import image_files
from kfp_vision.pipelines import PIPELINES
from kfp_vision.repository import papers
from kfp_vision.repository.version import exported_version, versions
from kfp_vision.serving import server

pytestmark = pytest.mark.usefixtures("small_network_registered")

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
IN_ANY_ORDER = ["call_endpoint", "deploy_model", "predict_images"]  # these branches are independent
NOT_ASKED = ["export_model", "register_model"]  # formats and register_in are empty
LAST = "report_outcome"
RATIOS = {"validation_ratio": 0.2, "test_ratio": 0.1}
SPLITS = {"train": 42, "validation": 12, "test": 6}
SMALL = {
    "network": small_network.NAME,
    "fine_tune": "false",
    "image_size": "64",
    "train_steps": "12",
    "batch_size": "8",
    "gpu_count": "0",
    "model_name": "two-flowers",
    # So few steps teach the model nothing, but the stages after the verdict must run.
    "advanced": '{"batch_norm_decay": 0.9, "beat_largest_class": false}',
}


@dataclass(frozen=True)
class Run:
    """A successful command.

    Attributes:
        images: the folder it read.
        output: the folder it wrote to.
        lines: its lines on stdout.
        stderr: its output on stderr.
        result: the last line, parsed.
    """

    images: Path
    output: Path
    lines: list[str]
    stderr: str
    result: dict[str, Any]

    @property
    def artifacts(self) -> Path:
        """Returns the folder of the stages' outputs."""
        (folder,) = Path(self.result["run_dir"]).glob("*/evaluate-classifier")
        return folder.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    root = tmp_path_factory.mktemp("run")
    images = sample_images.pictures(root / "pictures", each=30)
    form = SMALL | RATIOS | {"images_uri": images, "test_image_uri": images / "globelet" / "0007.jpg"}
    form |= {"deploy_to": root / "a repository", "predict_uri": images / "bellcup"}
    form |= {"log_uri": root / "logs"}
    options = [part for name, value in form.items() for part in ("-p", f"{name}={value}")]
    command = [sys.executable, "-m", "kfp_vision.cli", "run", *options, "--json", "--output", str(root / "out")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    return Run(images, root / "out", lines, done.stderr, json.loads(lines[-1]))


@pytest.mark.parametrize(
    "name", ["image_classification", "image_classification_partitioned", "train_only", "hyperparameter_sweep"]
)
def test_a_model_is_registered_after_it_is_published(name):
    components = make_sequential(PIPELINES[name]).pipeline_spec.components.values()
    (graph,) = [one.dag for one in components if "registries" in one.dag.tasks]
    order = topological_sort_tasks(graph.tasks)  # popped from its end
    assert "publish" in graph.tasks["registries"].dependent_tasks
    assert order.index("publish") > order.index("registries")


def test_prints_each_stage_in_order_with_its_duration(run):
    headings = [line for line in run.lines if line.startswith("[")]
    stages = [line.split()[1] for line in headings]
    assert stages[: len(STAGES)] == STAGES
    assert sorted(stages[len(STAGES) : -1]) == IN_ANY_ORDER
    assert stages[-1] == LAST
    of = len(stages) + len(NOT_ASKED)
    assert headings == [f"[{number}/{of}] {stage}" for number, stage in enumerate(stages, start=1)]
    assert sum(bool(re.fullmatch(r" +done in \d+\.\d s", line)) for line in run.lines) == len(stages)
    assert list(run.result["seconds"]) == [*stages, "total"]
    durations = [run.result["seconds"][stage] for stage in stages]
    assert 0 < sum(durations) <= run.result["seconds"]["total"] + 0.5


def test_prints_the_stages_messages_without_kfps_own(run):
    printed = "\n".join(run.lines)
    assert "60 images in 2 classes, 0 files skipped" in printed
    assert "step 12/12  loss " in printed
    assert "on 6 test images" in printed
    assert "KFP Executor" not in printed and "Traceback" not in printed and "\x1b" not in printed
    assert run.stderr == ""


def test_collects_the_results_in_one_folder(run):
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
    assert verdict["test_picture"]["uri"] == str(run.images / "globelet" / "0007.jpg")


def test_deploys_the_model_and_sends_it_a_request(run):
    (version,) = versions(run.images.parent / "a repository")
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
    assert run.result["skipped"] == NOT_ASKED


def test_the_deployed_version_has_its_papers(run):
    repository = run.images.parent / "a repository"
    (version,) = versions(repository)
    found = papers.read_papers(str(repository), version)
    assert found["fingerprint"] == version.fingerprint
    assert (found["pipeline"], found["figures"]["accuracy"]) == ("image-classification", run.result["accuracy"])
    given = {"images_uri": str(run.images), "train_steps": 12, "advanced": json.loads(SMALL["advanced"]), "tolerations": []}
    assert {name: found["form"][name] for name in given} == given
    fingerprint = json.loads((run.artifacts / "decide-training" / "executor_output.json").read_text())["parameterValues"]
    assert found["data_fingerprint"] == fingerprint["fingerprint"]
    assert found["run_name"] == run.artifacts.name
    pipeline, _ = yaml.safe_load_all((repository / "papers" / "1" / "pipeline.yaml").read_text())
    assert pipeline["root"]["inputDefinitions"]["parameters"]["train_steps"]["defaultValue"] == 12


def test_every_artifact_has_a_file(run):
    assert local_outputs.unwritten(run.artifacts) == []


def test_classifies_the_images_at_predict_uri(run):
    with Path(run.result["predictions"]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [str(file) for file in sorted((run.images / "bellcup").iterdir())]
    assert {row["prediction"] for row in rows} <= {"bellcup", "globelet"}


def predict(*arguments: object) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "kfp_vision.cli", "predict", "--json", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_predict_gives_the_same_answers_with_and_without_a_server(run):
    folder = run.images / "globelet"
    directly = predict("--model", run.result["model_dir"], folder)
    assert [list(one) for one in directly] == [["path", "prediction", "score"]] * 30
    with server.run_server(run.images.parent / "a repository") as url:
        over_http = predict("--url", url, folder)
    for one, other in zip(directly, over_http, strict=True):
        assert (one["path"], one["prediction"]) == (other["path"], other["prediction"])
        assert one["score"] == pytest.approx(other["score"], abs=1e-3)


@pytest.mark.slow
def test_predict_classifies_the_readable_images_and_reports_the_others(run, tmp_path):
    (tmp_path / "notes.jpg").write_text("no picture")
    image = run.images / "globelet" / "0001.jpg"
    command = [sys.executable, "-m", "kfp_vision.cli", "predict", "--model", run.result["model_dir"]]
    command += [str(tmp_path / "notes.jpg"), str(image), str(tmp_path / "nothing.jpg")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(rf"(bellcup|globelet)  [01]\.\d{{4}}  {image}\n", done.stdout)
    reasons = {"notes.jpg": "not an image in a known format", "nothing.jpg": "No such file or directory"}
    remedy = f"Check the path; images may be {image_files.FORMATS}."
    assert done.stderr == "".join(
        f"error: an image must be readable; got {tmp_path / name} ({reason}). {remedy}\n" for name, reason in reasons.items()
    )


def test_copies_the_event_file_to_a_folder_below_log_uri(run):
    (events,) = (run.artifacts / "train-classifier" / "events").glob("events.out.tfevents.*")
    (folder,) = (run.images.parent / "logs").iterdir()
    assert folder.name.startswith("two-flowers-")
    assert (folder / events.name).read_bytes() == events.read_bytes()


def test_records_the_fields_of_the_form_with_the_model(run):
    settings = json.loads((Path(run.result["model_dir"]) / "model.json").read_text())
    assert settings["train_steps"] == 12
    assert settings["image_size"] == 64
    assert settings["advanced"]["batch_norm_decay"] == 0.9
    assert settings["network"] == small_network.NAME


@pytest.mark.slow
def test_skip_unchanged_ends_a_second_run_before_any_stage(run, tmp_path):
    form = SMALL | RATIOS | {"images_uri": run.images, "deploy_to": run.images.parent / "a repository"}
    form |= {"test_image_uri": "", "skip_unchanged": "true", "min_accuracy": "0.9"}
    options = [part for name, value in form.items() for part in ("-p", f"{name}={value}")]
    command = [sys.executable, "-m", "kfp_vision.cli", "run", *options, "--json", "--output", str(tmp_path / "again")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("[")] == []
    assert "images and fields unchanged: keeping the deployed model" in done.stdout.splitlines()
    result = json.loads(done.stdout.splitlines()[-1])
    assert result == {"unchanged": True, "skipped": sorted([*STAGES, *IN_ANY_ORDER, *NOT_ASKED, LAST])}
    assert not (tmp_path / "again").exists()
    assert len(versions(run.images.parent / "a repository")) == 1


@pytest.fixture(scope="module")
def moved(run, tmp_path_factory) -> dict[str, run_component.Result]:
    """Runs the first stages on a copy of the images in another folder, and returns their results by stage."""
    root = tmp_path_factory.mktemp("elsewhere")
    copy = shutil.copytree(run.images, root / "a" / "deeper place")
    values = run_component.ingest_arguments(copy, fingerprint="another") | RATIOS
    ingested = run_component.run(components.ingest_images, root / "ingest", **values)
    split = run_component.run(
        components.split_images, root / "split", {"images": ingested.folder / "images"}, labels="one", advanced={}, **RATIOS
    )
    tables = {name: split.folder / name for name in ("tables", "label_map")}
    written = run_component.run(components.write_tfrecords, root / "write", tables, images_per_shard=1000, advanced={})
    return {"ingest_images": ingested, "split_images": split, "write_tfrecords": written}


@pytest.mark.parametrize("part", SPLITS)
def test_a_moved_copy_of_the_images_is_split_the_same(run, moved, part):
    names = []
    for folder in (run.artifacts / "split-images", moved["split_images"].folder):
        with (folder / "tables" / f"{part}.csv").open(newline="") as file:
            names.append([row["name"] for row in csv.DictReader(file)])
    assert names[0] == names[1]
    assert len(names[0]) == SPLITS[part]


@pytest.mark.parametrize("part", SPLITS)
def test_a_moved_copy_of_the_images_gives_the_same_records_byte_for_byte(run, moved, part):
    folders = (run.artifacts / "write-tfrecords", moved["write_tfrecords"].folder)
    contents = [{file.name: file.read_bytes() for file in (folder / f"{part}_records").iterdir()} for folder in folders]
    assert contents[0].keys() == {f"{part}-00000-of-00001.tfrecord", "records.json"}
    assert contents[0] == contents[1]


def test_a_moved_copy_of_the_images_has_the_same_fingerprint(run, moved):
    recorded = json.loads((run.artifacts / "ingest-images" / "executor_output.json").read_text())
    assert recorded["parameterValues"]["Output"] == moved["ingest_images"].output
