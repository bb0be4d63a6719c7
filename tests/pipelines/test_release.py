"""The stages after the verdict, on prepared models: which of them run, and how the run ends."""

import contextlib
import io
import json
import re
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest
from kfp import dsl, local
from support import colour_model, exported_model

from kfp_vision import components
from kfp_vision.cli.run import make_sequential
from kfp_vision.dataset.images import validate_image
from kfp_vision.dataset.table import ImageRow
from kfp_vision.pipelines.release import release as add_release_stages
from kfp_vision.records.convert import write_shards
from kfp_vision.repository.version import exported_version, versions

pytestmark = pytest.mark.slow

STARTED = re.compile(r"Executing task \S*?'([\w-]+)'")


class Ended(NamedTuple):
    """A finished run: the stages in the order they started, whether it succeeded, and its output."""

    stages: list[str]
    green: bool
    printed: str


def write_training_outputs(root: Path, labels: tuple[str, ...] = tuple(colour_model.RGB), times: int = 1) -> Path:
    """Writes model and records as a training does; `labels` are those of a red, a green and a blue image."""
    colour_model.write_version(root / "model" / "serving" / "1")
    (root / "model" / "training.json").write_text("[]")
    images = [
        (label, validate_image(colour_model.picture(colour))) for label, colour in zip(labels, colour_model.RGB, strict=True)
    ]
    rows = [(ImageRow("", label, 1, "", f"{label}/{n}.jpg"), image) for n in range(1, times + 1) for label, image in images]
    write_shards(root / "validation_records", "validation", iter(rows), list(colour_model.RGB), 100)
    write_shards(root / "test_records", "test", iter(()), list(colour_model.RGB), 10)
    return root


def run_release(
    outputs: Path,
    root: Path,
    *,
    min_accuracy: float = 0.0,
    deploy_to: str = "none",
    predict_uri: str = "",
    advanced: dict | None = None,
) -> Ended:
    """Runs the release stages on the model in `outputs`, after an evaluation unless a verdict is there already."""

    def artifact(name: str, kind: type[dsl.Artifact]) -> dsl.Artifact:
        return dsl.importer(artifact_uri=str(outputs / name), artifact_class=kind).output

    @dsl.pipeline(name="release")
    def release_pipeline(
        accepted: bool, min_accuracy: float, deploy_to: str, advanced: dict, test_image_uri: str, predict_uri: str
    ):
        with dsl.ExitHandler(components.report_outcome(run_name="a run", run_id="1")):
            inputs = {name: artifact(name, dsl.Dataset) for name in ("validation_records", "test_records")}
            inputs["model"] = artifact("model", dsl.Model)
            if (outputs / "verdict").exists():
                decision, verdict = accepted, artifact("verdict", dsl.Artifact)
                metrics, report = artifact("metrics", dsl.Metrics), artifact("report", dsl.HTML)
            else:
                settings = {"min_accuracy": min_accuracy, "test_image_uri": test_image_uri, "deploy_to": deploy_to}
                settings |= {"unchanged": False}
                evaluated = components.evaluate_classifier(**inputs, **settings, advanced=advanced)
                decision, verdict = evaluated.outputs["Output"], evaluated.outputs["verdict"]
                metrics, report = evaluated.outputs["metrics"], evaluated.outputs["report"]
            options = {"test_image_uri": test_image_uri, "predict_uri": predict_uri, "formats": "", "register_in": ""}
            options |= {"metrics": metrics, "report": report, "origin": {"form": {}, "data_fingerprint": ""}}
            inputs["train_records"] = inputs["validation_records"]  # only exports read it
            add_release_stages(decision, verdict=verdict, deploy_to=deploy_to, advanced=advanced, **inputs, **options)

    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root))
    stdout, green = io.StringIO(), True
    with warnings.catch_warnings(), contextlib.redirect_stdout(stdout):
        warnings.filterwarnings("ignore", "You may be attemping to run a task that uses custom", RuntimeWarning)
        options = {"min_accuracy": min_accuracy, "deploy_to": deploy_to, "predict_uri": predict_uri}
        try:
            make_sequential(release_pipeline)(accepted=True, test_image_uri="", advanced=advanced or {}, **options)
        except RuntimeError:
            green = False
    printed = re.sub(r"\x1b\[\d+m", "", stdout.getvalue())
    return Ended([stage for stage in STARTED.findall(printed) if "importer" not in stage], green, printed)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> Path:
    return write_training_outputs(tmp_path_factory.mktemp("made"))


def test_a_good_model_is_checked_but_not_deployed_by_default(outputs, tmp_path):
    done = run_release(outputs, tmp_path / "run", min_accuracy=0.99)
    assert done.stages == ["evaluate-classifier", "check-serving", "report-outcome"]
    assert done.green and "the run succeeded" in done.printed


def test_a_good_model_is_deployed_and_answers_a_request(outputs, tmp_path):
    done = run_release(outputs, tmp_path / "run", min_accuracy=0.99, deploy_to=str(tmp_path / "repository"))
    assert done.stages == ["evaluate-classifier", "check-serving", "deploy-model", "call-endpoint", "report-outcome"]
    assert done.green
    assert [version.number for version in versions(tmp_path / "repository")] == [1]
    assert "red/1.jpg is classified as red (100%); its label is red" in done.printed


def test_a_model_below_min_accuracy_is_rejected_and_the_run_succeeds(tmp_path):
    always_wrong = write_training_outputs(tmp_path / "made", labels=("green", "blue", "red"))
    options = {"deploy_to": str(tmp_path / "repository"), "predict_uri": "sample"}
    done = run_release(always_wrong, tmp_path / "run", min_accuracy=0.5, **options)
    assert done.stages == ["evaluate-classifier", "check-serving", "report-outcome"]
    assert done.green and "the run succeeded" in done.printed
    assert "serving is not checked: the model is not accepted" in done.printed
    assert "outcome: not accepted, accuracy 0.0000 on " in done.printed
    assert "images: accuracy 0.0000 is below min_accuracy 0.5" in done.printed
    assert not (tmp_path / "repository").exists()


def test_a_model_no_better_than_the_largest_class_is_deployed_only_with_beat_largest_class_off(tmp_path):
    labels = ("red", "blue", "green")  # right for a third of the images; each class is a third of them
    outputs = write_training_outputs(tmp_path / "made", labels, times=4)
    done = run_release(outputs, tmp_path / "run", deploy_to=str(tmp_path / "repository"))
    assert done.stages == ["evaluate-classifier", "check-serving", "report-outcome"]
    assert done.green and "the run succeeded" in done.printed
    assert "images: accuracy 0.3333 is not significantly better than always predicting red, the largest class" in done.printed
    assert not (tmp_path / "repository").exists()
    options = {"deploy_to": str(tmp_path / "repository"), "advanced": {"beat_largest_class": False}}
    done = run_release(outputs, tmp_path / "again", **options)
    assert done.stages == ["evaluate-classifier", "check-serving", "deploy-model", "call-endpoint", "report-outcome"]
    assert done.green and [version.number for version in versions(tmp_path / "repository")] == [1]


def test_a_model_worse_than_the_deployed_one_is_rejected(tmp_path):
    labels = ("green", "blue", "red")
    # With one image per class, chance could explain the difference.
    outputs = write_training_outputs(tmp_path / "made", labels, times=4)
    colour_model.write_version(tmp_path / "repository" / "1", labels)  # right for every image
    options = {"deploy_to": str(tmp_path / "repository"), "advanced": {"beat_largest_class": False}}
    done = run_release(outputs, tmp_path / "run", **options)
    assert done.stages == ["evaluate-classifier", "check-serving", "report-outcome"]
    assert done.green and "outcome: not accepted, accuracy 0.0000 on " in done.printed
    assert "images: it is significantly worse than the deployed version 1, accuracy 1.0000" in done.printed
    assert [version.number for version in versions(tmp_path / "repository")] == [1]


def test_a_model_that_does_not_load_is_not_deployed_and_the_run_fails(tmp_path):
    broken = write_training_outputs(tmp_path / "made")
    version = exported_version(broken / "model")
    exported_model.break_version(version.folder)
    verdict = {"model_fingerprint": version.fingerprint, "verdict": {"accepted": True, "reasons": []}, "answers": []}
    for name in ("verdict", "metrics", "report"):
        (broken / name).write_text(json.dumps(verdict))
    done = run_release(broken, tmp_path / "run", deploy_to=str(tmp_path / "repository"), predict_uri="sample")
    assert done.stages == ["check-serving", "report-outcome"]
    assert not done.green and "the run failed" in done.printed
    assert "error: a model must load and answer" in done.printed
    assert not (tmp_path / "repository").exists()
