"""What follows the verdict, on models that were made before: which stages run, and how the run ends."""

import contextlib
import io
import json
import re
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest
from kfp import dsl, local
from support import colour_model

from kfp_vision import components
from kfp_vision.cli.run import make_sequential
from kfp_vision.dataset.images import validate_image
from kfp_vision.dataset.table import ImageRow
from kfp_vision.pipelines.release import release as released_by
from kfp_vision.records.convert import write_shards
from kfp_vision.repository.version import exported_version, versions

STARTED = re.compile(r"Executing task \S*?'([\w-]+)'")


class Ended(NamedTuple):
    """A run: the stages in the order in which they started, whether it ended green, and what was printed."""

    stages: list[str]
    green: bool
    printed: str


def make(root: Path, labels: tuple[str, ...] = tuple(colour_model.RGB), times: int = 1) -> Path:
    """Writes what a training leaves: model and records, the `labels` being those of a red, a green and a blue picture."""
    colour_model.write_version(root / "model" / "serving" / "1")
    (root / "model" / "training.json").write_text("[]")
    pictures = [
        (label, validate_image(colour_model.picture(colour))) for label, colour in zip(labels, colour_model.RGB, strict=True)
    ]
    rows = [
        (ImageRow("", label, 1, "", f"{label}/{n}.jpg"), picture) for n in range(1, times + 1) for label, picture in pictures
    ]
    write_shards(root / "validation_records", "validation", iter(rows), list(colour_model.RGB), 100)
    write_shards(root / "test_records", "test", iter(()), list(colour_model.RGB), 10)
    return root


def release(
    made: Path,
    root: Path,
    *,
    min_accuracy: float = 0.0,
    deploy_to: str = "none",
    predict_uri: str = "",
    advanced: dict | None = None,
) -> Ended:
    """Judges the model in `made`, unless a verdict lies beside it, and releases it, with the stages of the pipelines."""

    def artifact(name: str, kind: type[dsl.Artifact]) -> dsl.Artifact:
        return dsl.importer(artifact_uri=str(made / name), artifact_class=kind).output

    @dsl.pipeline(name="release")
    def released(accepted: bool, min_accuracy: float, deploy_to: str, advanced: dict, test_image_uri: str, predict_uri: str):
        with dsl.ExitHandler(components.report_outcome(run_name="a run", run_id="1")):
            inputs = {name: artifact(name, dsl.Dataset) for name in ("validation_records", "test_records")}
            inputs["model"] = artifact("model", dsl.Model)
            if (made / "verdict").exists():
                judgement, verdict = accepted, artifact("verdict", dsl.Artifact)
            else:
                asked = {"min_accuracy": min_accuracy, "test_image_uri": test_image_uri, "deploy_to": deploy_to}
                asked |= {"unchanged": False}
                evaluated = components.evaluate_classifier(**inputs, **asked, advanced=advanced)
                judgement, verdict = evaluated.outputs["Output"], evaluated.outputs["verdict"]
            wishes = {"test_image_uri": test_image_uri, "predict_uri": predict_uri}
            released_by(judgement, verdict=verdict, deploy_to=deploy_to, advanced=advanced, **inputs, **wishes)

    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root))
    shown, green = io.StringIO(), True
    with warnings.catch_warnings(), contextlib.redirect_stdout(shown):
        warnings.filterwarnings("ignore", "You may be attemping to run a task that uses custom", RuntimeWarning)
        wishes = {"min_accuracy": min_accuracy, "deploy_to": deploy_to, "predict_uri": predict_uri}
        try:
            make_sequential(released)(accepted=True, test_image_uri="", advanced=advanced or {}, **wishes)
        except RuntimeError:
            green = False
    printed = re.sub(r"\x1b\[\d+m", "", shown.getvalue())
    return Ended([stage for stage in STARTED.findall(printed) if "importer" not in stage], green, printed)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("made"))


def test_a_good_model_is_proven_and_deployed_nowhere_by_default(made, tmp_path):
    done = release(made, tmp_path / "run", min_accuracy=0.99)
    assert done.stages == ["evaluate-classifier", "check-serving", "report-outcome"]
    assert done.green and "the run succeeded" in done.printed


def test_a_good_model_is_deployed_and_answers(made, tmp_path):
    done = release(made, tmp_path / "run", min_accuracy=0.99, deploy_to=str(tmp_path / "repository"))
    assert done.stages == ["evaluate-classifier", "check-serving", "deploy-model", "call-endpoint", "report-outcome"]
    assert done.green
    assert [version.number for version in versions(tmp_path / "repository")] == [1]
    assert "red/1.jpg is classified as red (100%); its label is red" in done.printed


def test_a_model_below_min_accuracy_is_not_deployed_and_the_run_says_why_and_ends_green(tmp_path):
    always_wrong = make(tmp_path / "made", labels=("green", "blue", "red"))
    wishes = {"deploy_to": str(tmp_path / "repository"), "predict_uri": "sample"}
    done = release(always_wrong, tmp_path / "run", min_accuracy=0.5, **wishes)
    assert done.stages == ["evaluate-classifier", "check-serving", "report-outcome"]
    assert done.green and "the run succeeded" in done.printed
    assert "serving is not checked: the model is not accepted" in done.printed
    assert "outcome: not accepted, accuracy 0.0000 on " in done.printed
    assert "images: accuracy 0.0000 is below min_accuracy 0.5" in done.printed
    assert not (tmp_path / "repository").exists()


def test_a_model_that_is_no_better_than_naming_the_largest_class_is_deployed_only_where_that_is_wanted(tmp_path):
    labels = ("red", "blue", "green")  # right of a third of the images, and each class is a third of them
    made = make(tmp_path / "made", labels, times=4)
    done = release(made, tmp_path / "run", deploy_to=str(tmp_path / "repository"))
    assert done.stages == ["evaluate-classifier", "check-serving", "report-outcome"]
    assert done.green and "the run succeeded" in done.printed
    assert "images: accuracy 0.3333 is not significantly better than always predicting red, the largest class" in done.printed
    assert not (tmp_path / "repository").exists()
    wishes = {"deploy_to": str(tmp_path / "repository"), "advanced": {"beat_largest_class": False}}
    done = release(made, tmp_path / "again", **wishes)
    assert done.stages == ["evaluate-classifier", "check-serving", "deploy-model", "call-endpoint", "report-outcome"]
    assert done.green and [version.number for version in versions(tmp_path / "repository")] == [1]


def test_a_model_that_is_worse_than_the_deployed_one_is_kept_and_not_deployed(tmp_path):
    labels = ("green", "blue", "red")
    made = make(tmp_path / "made", labels, times=4)  # of one picture a class, chance could explain it
    colour_model.write_version(tmp_path / "repository" / "1", labels)  # right of every one of them
    wishes = {"deploy_to": str(tmp_path / "repository"), "advanced": {"beat_largest_class": False}}
    done = release(made, tmp_path / "run", **wishes)
    assert done.stages == ["evaluate-classifier", "check-serving", "report-outcome"]
    assert done.green and "outcome: not accepted, accuracy 0.0000 on " in done.printed
    assert "images: it is significantly worse than the deployed version 1, accuracy 1.0000" in done.printed
    assert [version.number for version in versions(tmp_path / "repository")] == [1]


def test_a_model_that_the_server_cannot_load_is_not_deployed_and_the_run_is_red(tmp_path):
    broken = make(tmp_path / "made")
    version = exported_version(broken / "model")
    (version.folder / "saved_model.pb").write_bytes(b"no graph")
    verdict = {"model_fingerprint": version.fingerprint, "verdict": {"accepted": True, "reasons": []}, "answers": []}
    (broken / "verdict").write_text(json.dumps(verdict))
    done = release(broken, tmp_path / "run", deploy_to=str(tmp_path / "repository"), predict_uri="sample")
    assert done.stages == ["check-serving", "report-outcome"]
    assert not done.green and "the run failed" in done.printed
    assert "error: a model must load and answer" in done.printed
    assert not (tmp_path / "repository").exists()
