"""Deployment targets, the checks before a deployment, and the decision whether to train."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from support import colour_model, damaged_records, place_model
from support.exported_model import version

from kfp_vision.core import advanced
from kfp_vision.core.errors import InputError
from kfp_vision.dataset import scan
from kfp_vision.dataset.images import validate_image
from kfp_vision.dataset.table import ImageRow
from kfp_vision.deployment import call, decide_training, deploy, serving_check
from kfp_vision.engines.choice import choose_serving_engine
from kfp_vision.engines.engine import OPENVINO_FLOAT32
from kfp_vision.networks import orientation
from kfp_vision.prediction.classifier import Classifier
from kfp_vision.records import convert
from kfp_vision.repository.version import exported_version

SETTINGS = advanced.deployment_settings({})


def test_accepts_no_target():
    deploy.check_target("none", "flowers", SETTINGS)


def test_accepts_a_missing_directory_without_creating_it(tmp_path):
    deploy.check_target(str(tmp_path / "deep" / "down"), "flowers", SETTINGS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["", "http://host/models", "ftp://host/models", "{file}"])
def test_an_invalid_target_is_rejected(tmp_path, target):
    (tmp_path / "file").write_text("no repository")
    with pytest.raises(InputError, match=r"deploy_to must be none, kserve, or a model repository; got .*\. Name a folder, or"):
        deploy.check_target(target.format(file=tmp_path / "file"), "flowers", SETTINGS)


def test_a_repository_of_another_model_is_rejected(tmp_path):
    about = tmp_path / "3" / "assets.extra" / "model.json"
    about.parent.mkdir(parents=True)
    about.write_text(json.dumps({"model_name": "dogs", "labels": [], "image_size": 1}))
    deploy.check_target(str(tmp_path), "dogs", SETTINGS)
    with pytest.raises(InputError, match=r"versions of one model; got dogs in .*, and now flowers\. Set deploy_to"):
        deploy.check_target(str(tmp_path), "flowers", SETTINGS)


@pytest.fixture
def held_out(tmp_path):
    """Writes nine validation images in shards of three, and an empty test split."""
    rows = [
        (ImageRow("", c, 1, "", f"{c}/{n}.jpg"), validate_image(colour_model.picture(c)))
        for n in range(3)
        for c in colour_model.RGB
    ]
    convert.write_shards(tmp_path / "validation", "validation", iter(rows), list(colour_model.RGB), 3)
    convert.write_shards(tmp_path / "test", "test", iter(()), list(colour_model.RGB), 3)
    return tmp_path / "validation", tmp_path / "test"


@pytest.mark.parametrize("fault", damaged_records.FAULTS)
def test_the_serving_check_rejects_damaged_records(tmp_path, held_out, fault):
    colour_model.write_version(tmp_path / "model" / "serving" / "1")
    about = {
        "model_fingerprint": exported_version(tmp_path / "model").fingerprint,
        "answers": [],
        "verdict": {"accepted": True},
    }
    (tmp_path / "verdict").write_text(json.dumps(about))
    damaged_records.FAULTS[fault][0](held_out[0])
    with pytest.raises(InputError, match=r"(records|a TFRecord file) must be intact|must list every shard"):
        serving_check.check_serving(tmp_path / "model", tmp_path / "verdict", *held_out, tmp_path / "proof")
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("fault", ["cut in the middle", "cut between two records", "lost", "added"])
def test_the_endpoint_call_rejects_damaged_records(tmp_path, held_out, fault):
    change, line = damaged_records.FAULTS[fault]
    change(held_out[0])
    with pytest.raises(InputError, match=line):
        call.call_endpoint(tmp_path / "endpoint", *held_out, "", tmp_path / "answer")


def decide(recipe: str, repository: object, *, skip_unchanged: bool = True) -> decide_training.TrainingDecision:
    return decide_training.decide_training("sample", "", recipe, skip_unchanged, str(repository), "flowers", SETTINGS)


def test_trains_if_no_model_is_deployed(tmp_path, capsys):
    fingerprint, trained_from, unchanged = decide("fields", tmp_path / "nowhere")
    assert (fingerprint, len(trained_from), unchanged) == (scan.fingerprint_images("sample"), 64, False)
    assert capsys.readouterr().out == "images or fields have changed since flowers was deployed, or it was never deployed\n"


def test_skips_training_if_the_newest_version_has_the_same_images_and_fields(tmp_path, capsys):
    version(tmp_path / "1", trained_from=decide("fields", tmp_path).trained_from)
    capsys.readouterr()
    assert decide("fields", tmp_path).unchanged
    assert capsys.readouterr().out == (
        "outcome: nothing new: neither the images nor the fields have changed since flowers was deployed\n"
    )
    assert not decide("other fields", tmp_path).unchanged
    assert not decide("fields", tmp_path, skip_unchanged=False).unchanged
    version(tmp_path / "2", trained_from=decide("other fields", tmp_path).trained_from)
    assert not decide("fields", tmp_path).unchanged


def test_trains_if_the_deployed_version_does_not_record_its_source(tmp_path):
    version(tmp_path / "1")
    assert not decide("fields", tmp_path).unchanged


def corners() -> bytes:
    """A photograph that its model tells from the same one turned."""
    noise = np.random.default_rng(3).integers(0, 256, (3, 4, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((60, 44), Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture
def judged(tmp_path):
    """Lets a model be checked that was trained for a runtime: gives the check, which writes the proof."""

    def check(runtime: str) -> serving_check.ServingCheck:
        place_model.write_version(tmp_path / "model" / "serving" / "1", advanced={"service_runtime": runtime})
        version = exported_version(tmp_path / "model")
        rows = [(ImageRow("", "above", 1, "", "above/1.jpg"), validate_image(corners()))]
        convert.write_shards(tmp_path / "validation", "validation", iter(rows), list(place_model.LABELS), 1)
        convert.write_shards(tmp_path / "test", "test", iter(()), list(place_model.LABELS), 1)
        engine = choose_serving_engine(version) or OPENVINO_FLOAT32
        (row,) = Classifier(version, engine=engine).probabilities([corners()]).tolist()
        answers = [{"name": "above/1.jpg", "probabilities": row}]
        about = {"model_fingerprint": version.fingerprint, "answers": answers, "verdict": {"accepted": True}}
        (tmp_path / "verdict").write_text(json.dumps(about))
        records = (tmp_path / "validation", tmp_path / "test")
        return serving_check.check_serving(tmp_path / "model", tmp_path / "verdict", *records, tmp_path / "proof")

    return check


@pytest.mark.slow
def test_for_the_stock_runtime_the_export_is_proven_too(judged, tmp_path, capsys):
    assert judged("tensorflow").figures["pictures"] == 1
    assert "the SavedModel alone classified them to " in capsys.readouterr().out
    assert json.loads((tmp_path / "proof").read_text())["largest_difference"] <= 1e-3


@pytest.mark.slow
def test_an_export_that_ignores_the_orientation_is_no_model_for_the_stock_runtime(judged, tmp_path, monkeypatch):
    monkeypatch.setattr(orientation, "jpeg_orientation", lambda encoded: 1)
    line = r"answer for a turned photograph as for an upright one, to 0\.001; got a difference of 0\.\d+ for EXIF orientation 6"
    with pytest.raises(InputError, match=line):
        judged("tensorflow")
    assert not (tmp_path / "proof").exists()


@pytest.mark.slow
def test_our_server_turns_photographs_itself(judged, monkeypatch):
    monkeypatch.setattr(orientation, "jpeg_orientation", lambda encoded: 1)
    assert judged("kfp-vision").figures["pictures"] == 1
