import json
import re
import shutil
from pathlib import Path

import pytest
from support import exported_model, run_component

from kfp_vision import components
from kfp_vision.repository.version import exported_version

pytestmark = pytest.mark.slow

DEPLOYMENT = {"deploy_to": "here", "accepted": True}


def test_served_answers_equal_those_of_the_evaluation(serving_check, trained):
    proof = json.loads((serving_check.folder / "proof").read_text())
    assert proof["model_fingerprint"] == exported_version(trained.folder / "model").fingerprint
    assert proof["pictures"] == 2
    assert 0 <= proof["largest_difference"] <= 1e-2  # of a processor that computes in bfloat16
    assert 0 < proof["median_seconds"] < 10
    assert serving_check.metadata["proof"]["pictures"] == 2
    assert serving_check.output is True


@pytest.fixture
def copied_inputs(serving_check_inputs, tmp_path):
    """Returns the input artifacts with copies of the model and the verdict, which tests change."""
    model = shutil.copytree(serving_check_inputs["model"], tmp_path / "model")
    verdict = shutil.copyfile(serving_check_inputs["verdict"], tmp_path / "verdict")
    return serving_check_inputs | {"model": model, "verdict": verdict}


def update_json(verdict: Path, /, **changes: object) -> None:
    verdict.write_text(json.dumps(json.loads(verdict.read_text()) | changes))


def test_rejects_a_model_that_the_server_cannot_load(copied_inputs, tmp_path):
    version = exported_version(copied_inputs["model"])
    exported_model.break_version(version.folder)
    update_json(copied_inputs["verdict"], model_fingerprint=version.fingerprint)
    ended = run_component.run(components.check_serving, tmp_path / "root", copied_inputs, **DEPLOYMENT)
    assert run_component.error_line(ended).startswith("error: a model must load and answer; got ")


def test_rejects_answers_that_differ_from_the_evaluation(copied_inputs, tmp_path):
    answers = json.loads(copied_inputs["verdict"].read_text())["answers"]
    answers[0]["probabilities"] = [0.2 + score for score in answers[0]["probabilities"]]
    update_json(copied_inputs["verdict"], answers=answers)
    ended = run_component.run(components.check_serving, tmp_path / "root", copied_inputs, **DEPLOYMENT)
    found = r"error: a server must answer as the evaluation did in float32, to {}; got a difference of 0\.2\d*\. "
    in_float32 = found.format(r"0\.001") + r"Train or export the model again\."
    in_bfloat16 = found.format(r"0\.1") + r'Set advanced to \{{"engine": "{}"\}}, or train or export the model again\.'
    line = run_component.error_line(ended)
    assert re.fullmatch(f"{in_float32}|{in_bfloat16.format('(openvino-float32|tensorflow)')}", line), line


def test_rejects_the_verdict_of_another_model(copied_inputs, tmp_path):
    update_json(copied_inputs["verdict"], model_fingerprint="0123456789abcdef")
    ended = run_component.run(components.check_serving, tmp_path / "root", copied_inputs, **DEPLOYMENT)
    assert "the verdict must be of the model it is used for; got one of 0123456789ab for" in run_component.error_line(ended)


def test_serving_is_checked_without_a_deployment_target(serving_check_inputs, tmp_path):
    ended = run_component.run(components.check_serving, tmp_path, serving_check_inputs, deploy_to="none", accepted=True)
    assert ended.output is False
    assert ended.metadata["proof"]["pictures"] == 2


@pytest.mark.parametrize(
    ("accepted", "reason"), [(False, "the model is not accepted"), (True, "the deployed model is the same")]
)
def test_serving_is_not_checked_for_a_model_that_will_not_be_deployed(copied_inputs, tmp_path, accepted, reason):
    update_json(copied_inputs["verdict"], verdict={"accepted": accepted, "reasons": []})
    ended = run_component.run(components.check_serving, tmp_path / "root", copied_inputs, deploy_to="here", accepted=False)
    assert ended.output is False
    assert ended.printed == [f"serving is not checked: {reason}"]
    inputs = {name: copied_inputs[name] for name in ("model", "verdict")} | {"proof": ended.folder / "proof"}
    inputs |= {"metrics": copied_inputs["verdict"]}
    update_json(copied_inputs["verdict"], verdict={"accepted": True, "reasons": []})
    target = {"deploy_to": str(tmp_path / "repository"), "advanced": {}, **run_component.ORIGIN}
    refused = run_component.run(components.deploy_model, tmp_path / "deploy", inputs, **target)
    assert run_component.error_line(refused).startswith("error: the proof must be of the model it is used for; got one of ")
