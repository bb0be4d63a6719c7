import json
from pathlib import Path

import pytest
from support import run_component

from kfp_vision import components
from kfp_vision.repository import papers
from kfp_vision.repository.version import exported_version, versions

pytestmark = pytest.mark.slow


def test_publishes_the_first_version(deployed, trained):
    endpoint = json.loads((deployed.folder / "endpoint").read_text())
    assert (endpoint["kind"], endpoint["version"], endpoint["model_name"]) == ("repository", 1, "flowers")
    (version,) = versions(Path(endpoint["repository"]))
    assert version.fingerprint == exported_version(trained.folder / "model").fingerprint
    assert deployed.metadata["endpoint"]["repository"] == endpoint["repository"]
    assert deployed.printed == [f"outcome: flowers deployed as version 1 in {endpoint['repository']}"]


def test_publishes_the_papers_beside_the_version_and_shows_the_card(deployed, trained):
    repository = json.loads((deployed.folder / "endpoint").read_text())["repository"]
    (version,) = versions(Path(repository))
    found = papers.read_papers(repository, version)
    assert found["fingerprint"] == exported_version(trained.folder / "model").fingerprint
    assert {name: found[name] for name in run_component.ORIGIN} == run_component.ORIGIN
    assert found["verdict"]["accepted"] is True
    assert papers.read_card(repository, version) == (deployed.folder / "card").read_text()


def write_changed(file: Path, target: Path, **changes: object) -> Path:
    target.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return target


def deploy_error(inputs: dict[str, Path], root: Path, deploy_to: Path) -> str:
    ended = run_component.run(
        components.deploy_model, root, inputs, deploy_to=str(deploy_to), advanced={}, **run_component.ORIGIN
    )
    return run_component.error_line(ended)


def test_rejects_a_model_that_was_not_accepted(deploy_inputs, tmp_path):
    document = {"accepted": False, "reasons": ["accuracy 0.5000 is below min_accuracy 0.9"]}
    verdict = write_changed(deploy_inputs["verdict"], tmp_path / "verdict", verdict=document)
    assert deploy_error(deploy_inputs | {"verdict": verdict}, tmp_path / "root", tmp_path / "repository") == (
        "error: a model must be accepted to be deployed; got accuracy 0.5000 is below min_accuracy 0.9. "
        "Train a better one, or ask for less."
    )
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize("document", ["verdict", "proof"])
def test_rejects_the_verdict_and_the_proof_of_another_model(deploy_inputs, tmp_path, document):
    changed = write_changed(deploy_inputs[document], tmp_path / "other", model_fingerprint="0123456789abcdef")
    line = deploy_error(deploy_inputs | {document: changed}, tmp_path / "root", tmp_path / "repository")
    assert f"the {document} must be of the model it is used for" in line
    assert not (tmp_path / "repository").exists()


def test_rejects_a_file_as_repository(deploy_inputs, tmp_path):
    (tmp_path / "file").write_text("no directory")
    line = deploy_error(deploy_inputs, tmp_path / "root", tmp_path / "file")
    assert line.startswith("error: deploy_to must be none, kserve, or a model repository; got ")
