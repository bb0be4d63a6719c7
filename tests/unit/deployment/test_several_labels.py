"""The proof before a deployment and the call after it, where images have several labels."""

import json
import shutil
from pathlib import Path

import pytest
from support import mixed_colours

from kfp_vision.core.errors import InputError
from kfp_vision.deployment.call import call_endpoint
from kfp_vision.deployment.serving_check import check_serving
from kfp_vision.engines import choice
from kfp_vision.repository.version import VERSION_FILE, Version, exported_version

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("several")
    mixed_colours.write_version(root / "model" / "serving" / "1")
    return mixed_colours.write_records(root)


def write_verdict(model: Path, file: Path) -> Path:
    """Writes the verdict of an evaluation whose answers are those that the definition of the model gives."""
    answers = [{"name": f"{name}.png", "probabilities": mixed_colours.probabilities(name)} for name in mixed_colours.IMAGES]
    verdict = {"accepted": True, "reasons": []}
    about = {"model_fingerprint": exported_version(model).fingerprint, "verdict": verdict, "answers": answers}
    file.write_text(json.dumps(about))
    return file


def prove(root: Path, model: Path, folder: Path):
    records = (root / "validation", root / "test")
    return check_serving(model, write_verdict(model, folder / "verdict"), *records, folder / "proof", deploy_to="there")


def test_the_labels_of_the_server_are_those_of_the_evaluation(root, tmp_path, capsys):
    proven = prove(root, root / "model", tmp_path)
    assert (proven.figures["pictures"], proven.to_be_deployed) == (5, True)
    assert ", with the same labels for each, in " in capsys.readouterr().out


def test_the_saved_model_that_the_stock_runtime_serves_is_proved_too(root, tmp_path, capsys):
    model = shutil.copytree(root / "model", tmp_path / "model")
    file = exported_version(model).folder / VERSION_FILE
    about = json.loads(file.read_text()) | {"advanced": {"service_runtime": "tensorflow"}}
    file.write_text(json.dumps(about))
    assert choice.choose_serving_engine(exported_version(model)) == "tensorflow"
    assert prove(root, model, tmp_path).to_be_deployed
    assert "the SavedModel alone classified them" in capsys.readouterr().out
    # Thresholds that the SavedModel does not know: our server goes by them, the stock one cannot.
    file.write_text(json.dumps(about | {"thresholds": [0.5, 0.01, 0.97]}))
    with pytest.raises(InputError) as refusal:
        prove(root, model, tmp_path)
    assert str(refusal.value) == (
        "error: the SavedModel must give an image the labels whose score is at least their threshold; "
        "got red, with 0.0293 for green and the threshold 0.0100. Train or export the model again."
    )


def test_the_deployed_model_names_all_labels_of_an_image(root, tmp_path, capsys):
    shutil.copytree(root / "model" / "serving", tmp_path / "repository")
    assert Version(tmp_path / "repository" / "1").several
    endpoint = {"kind": "repository", "repository": str(tmp_path / "repository"), "version": 1, "model_name": "colours"}
    (tmp_path / "endpoint").write_text(json.dumps(endpoint))
    given = (tmp_path / "endpoint", root / "validation", root / "test")
    (tmp_path / "black.png").write_bytes(mixed_colours.picture("black"))
    (tmp_path / "violet.png").write_bytes(mixed_colours.picture("violet"))
    answer = call_endpoint(*given, str(tmp_path / "violet.png"), tmp_path / "answer")
    assert (answer["prediction"], answer["labels"], len(answer["scores"])) == ("blue", ["blue", "red"], 2)
    assert "violet.png is classified as blue 99%, red 95%" in capsys.readouterr().out
    assert call_endpoint(*given, str(tmp_path / "black.png"), tmp_path / "answer")["labels"] == []
    assert "black.png is classified as none of the labels (most probable: " in capsys.readouterr().out
    assert call_endpoint(*given, "", tmp_path / "answer")["label"] == "red"
