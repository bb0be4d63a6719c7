"""Imports of a run's model, of another repository's and of a bare model folder."""

import json
import shutil
from pathlib import Path

import pytest
from support.exported_model import version

from kfp_vision.core.errors import InputError
from kfp_vision.deployment import model_card
from kfp_vision.deployment.import_model import import_model
from kfp_vision.repository import papers, publish
from kfp_vision.repository.version import Version, versions


def write_run(folder: Path, accepted: bool = True) -> Version:
    """Lays out the folder of a local run as KFP and `kfp-vision run` do."""
    stages = folder / "image-classification-partitioned-2026-11-29"
    model = version(stages / "train-classifier" / "model" / "serving" / "1")
    (folder / "model").symlink_to((stages / "train-classifier" / "model").relative_to(folder))
    verdict = {"accepted": accepted, "reasons": ["accuracy 0.4 is below min_accuracy 0.5"]}
    evaluation = {"model_fingerprint": model.fingerprint, "images": 9, "accuracy": 0.4, "verdict": verdict}
    outputs = {"check-run": {"form": {"images_uri": "sample"}, "gpus": "0"}, "decide-training": {"fingerprint": "0ca8"}}
    for stage, values in outputs.items():
        (stages / stage).mkdir()
        (stages / stage / "executor_output.json").write_text(json.dumps({"parameterValues": values}))
    (stages / "evaluate-classifier").mkdir()
    (stages / "evaluate-classifier" / "metrics").write_text(json.dumps(evaluation))
    return model


@pytest.fixture
def place(tmp_path) -> str:
    return str(tmp_path / "repository")


def test_the_model_of_a_run_is_imported_with_its_papers(tmp_path, place):
    model = write_run(tmp_path / "run")
    assert import_model(str(tmp_path / "run"), place) == ("flowers", 1)
    (imported,) = versions(Path(place))
    assert imported.fingerprint == model.fingerprint
    found = papers.read_papers(place, imported)
    assert (found["form"], found["data_fingerprint"]) == ({"images_uri": "sample"}, "0ca8")
    assert (found["pipeline"], found["figures"]) == ("image-classification-partitioned", {"accuracy": 0.4})
    assert import_model(str(tmp_path / "run"), place) == ("flowers", 1)


def test_the_newest_version_of_another_repository_is_imported_with_its_papers(tmp_path, place):
    one = version(tmp_path / "model" / "1")
    other = str(tmp_path / "other")
    publish.publish(one, other)
    model_card.write_papers(one, {"verdict": {"accepted": True, "reasons": []}}, model_card.Origin(), tmp_path / "papers")
    papers.publish_papers(tmp_path / "papers", other, 1)
    publish.publish(version(tmp_path / "before" / "1", weights=b"before"), place)
    assert import_model(other, place) == ("flowers", 2)
    assert papers.read_card(place, versions(Path(place))[-1]) == papers.read_card(other, versions(Path(other))[-1])


def test_a_model_without_papers_is_imported_with_force_only(tmp_path, place):
    version(tmp_path / "model" / "serving" / "1")
    with pytest.raises(InputError, match=r"must have papers to be imported; got none with .*/model\. Name the folder of a run"):
        import_model(str(tmp_path / "model"), place)
    assert not Path(place).exists()
    assert import_model(str(tmp_path / "model"), place, force=True) == ("flowers", 1)
    assert papers.read_papers(place, versions(Path(place))[0]) is None


def test_a_rejected_model_is_imported_with_force_only(tmp_path, place):
    write_run(tmp_path / "run", accepted=False)
    with pytest.raises(InputError, match=r"must be accepted to be imported; got accuracy 0\.4 is below min_accuracy 0\.5\."):
        import_model(str(tmp_path / "run"), place)
    assert import_model(str(tmp_path / "run"), place, force=True) == ("flowers", 1)
    assert papers.read_papers(place, versions(Path(place))[0])["verdict"]["accepted"] is False


def test_a_run_whose_model_was_exchanged_is_refused(tmp_path, place):
    model = write_run(tmp_path / "run")
    (model.folder / "saved_model.pb").write_bytes(b"another")
    with pytest.raises(InputError, match="the evaluation of a run must be of its model"):
        import_model(str(tmp_path / "run"), place)


def test_a_place_without_a_model_is_refused(tmp_path, place):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="there must be a model; got none at"):
        import_model(str(tmp_path / "empty"), place, force=True)
    shutil.rmtree(tmp_path / "empty")
    assert not Path(place).exists()
