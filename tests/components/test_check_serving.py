import json
import shutil
from pathlib import Path

import pytest
from support import run_component

from kfp_vision import components
from kfp_vision.repository.version import exported_version

WISHES = {"deploy_to": "here", "accepted": True}


def test_proves_that_the_server_answers_as_the_evaluation_did(proven, trained):
    proof = json.loads((proven.folder / "proof").read_text())
    assert proof["model_fingerprint"] == exported_version(trained.folder / "model").fingerprint
    assert proof["pictures"] == 2
    assert 0 <= proof["largest_difference"] <= 1e-3
    assert 0 < proof["median_seconds"] < 10
    assert proven.metadata["proof"]["pictures"] == 2
    assert proven.output is True


@pytest.fixture
def copy(judged, tmp_path):
    """The artifacts, the model and the verdict to be changed."""
    model = shutil.copytree(judged["model"], tmp_path / "model")
    verdict = shutil.copyfile(judged["verdict"], tmp_path / "verdict")
    return judged | {"model": model, "verdict": verdict}


def change(verdict: Path, /, **changes: object) -> None:
    verdict.write_text(json.dumps(json.loads(verdict.read_text()) | changes))


def test_refuses_a_model_that_the_server_cannot_load(copy, tmp_path):
    version = exported_version(copy["model"])
    (version.folder / "variables" / "variables.index").write_bytes(b"torn")
    change(copy["verdict"], model_fingerprint=version.fingerprint)
    ended = run_component.run(components.check_serving, tmp_path / "root", copy, **WISHES)
    assert run_component.refusal(ended).startswith("error: a model must load and answer; got ")


def test_refuses_answers_that_are_not_the_evaluations(copy, tmp_path):
    answers = json.loads(copy["verdict"].read_text())["answers"]
    answers[0]["probabilities"] = [0.002 + score for score in answers[0]["probabilities"]]
    change(copy["verdict"], answers=answers)
    ended = run_component.run(components.check_serving, tmp_path / "root", copy, **WISHES)
    assert run_component.refusal(ended) == (
        "error: a server must answer as the evaluation did, to 0.001; got a difference of 0.002. "
        "Train or export the model again."
    )


def test_refuses_the_verdict_of_another_model(copy, tmp_path):
    change(copy["verdict"], model_fingerprint="0123456789abcdef")
    ended = run_component.run(components.check_serving, tmp_path / "root", copy, **WISHES)
    assert "the verdict must be of the model it is used for; got one of 0123456789ab for" in run_component.refusal(ended)


def test_a_model_is_proven_also_where_it_is_to_be_deployed_nowhere(judged, tmp_path):
    ended = run_component.run(components.check_serving, tmp_path, judged, deploy_to="none", accepted=True)
    assert ended.output is False
    assert ended.metadata["proof"]["pictures"] == 2


@pytest.mark.parametrize(
    ("good_enough", "said"), [(False, "the model is not accepted"), (True, "the deployed model is the same")]
)
def test_of_what_is_not_to_be_deployed_nothing_is_proven(copy, tmp_path, good_enough, said):
    change(copy["verdict"], verdict={"accepted": good_enough, "reasons": []})
    ended = run_component.run(components.check_serving, tmp_path / "root", copy, deploy_to="here", accepted=False)
    assert ended.output is False
    assert ended.printed == [f"serving is not checked: {said}"]
    inputs = {name: copy[name] for name in ("model", "verdict")} | {"proof": ended.folder / "proof"}
    change(copy["verdict"], verdict={"accepted": True, "reasons": []})
    where = {"deploy_to": str(tmp_path / "repository"), "advanced": {}}
    refused = run_component.run(components.deploy_model, tmp_path / "deploy", inputs, **where)
    assert run_component.refusal(refused).startswith("error: the proof must be of the model it is used for; got one of ")
