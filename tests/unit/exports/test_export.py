"""Exports an accepted model, keeps what passes the gate, and copies it to the repository."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support import colour_model, exported_colours

from kfp_vision.core.errors import InputError
from kfp_vision.engines import choice
from kfp_vision.engines.engine import OPENVINO_FLOAT32, OPENVINO_INT8
from kfp_vision.exports import convert, export
from kfp_vision.exports.classify import FileClassifier
from kfp_vision.prediction.classifier import Classifier
from kfp_vision.repository.version import VERSION_FILE, Version
from kfp_vision.serving.model import ServedClassifier

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Writes records and the model of the colours."""
    root = exported_colours.write_records(tmp_path_factory.mktemp("root"))
    exported_colours.write_verdict(root / "verdict", exported_colours.write_model(root / "model"))
    return root


def run(root, out, wanted, verdict="verdict", **options):
    records = export.Records(root / "train", root / "validation", root / "test")
    made = {"exports": out / "exports", "page": out / "page.html"}
    return export.export_model(root / "model", root / verdict, records, wanted, **made, **options)


def test_files_are_compared_with_the_model_and_copied_to_the_repository(root, tmp_path, capsys):
    (tmp_path / "models" / "exports" / "openvino").mkdir(parents=True)  # of an earlier model
    (tmp_path / "models" / "exports" / "openvino" / "classifier.xml").write_text("old")
    table = run(root, tmp_path, "onnx,litert_int8", deploy_to=str(tmp_path / "models"))
    assert (table["split"], table["images"], table["calibration_images"]) == ("validation", 12, 12)
    assert [(row["format"], row["accepted"], row["accuracy"]) for row in table["formats"]] == [
        ("onnx", True, 1.0),
        ("litert_int8", True, 1.0),
    ]
    onnx, int8 = table["formats"]
    assert onnx["largest_difference"] < 1e-5 < int8["largest_difference"] < 0.05
    assert min(row["milliseconds"] for row in table["formats"]) > 0
    assert onnx["bytes"] == (tmp_path / "exports" / "onnx" / "classifier.onnx").stat().st_size
    written = {
        "exports.json",
        *(f"onnx/{name}" for name in ("classifier.onnx", "labels.txt", "model.json")),
        *(f"litert_int8/{name}" for name in ("classifier.tflite", "labels.txt", "model.json")),
    }
    for folder in (tmp_path / "exports", tmp_path / "models" / "exports"):
        assert {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} == written
        assert json.loads((folder / "exports.json").read_text()) == json.loads(json.dumps(table))
    assert capsys.readouterr().out.splitlines()[-1] == "outcome: exported onnx, litert_int8"
    page = (tmp_path / "page.html").read_text()
    assert page.count("100.0 %") == 3 and "12 training images, none of them held out" in " ".join(page.split())

    blue, broken = FileClassifier(tmp_path / "exports" / "litert_int8" / "classifier.tflite").classify(
        [colour_model.picture("blue", "PNG"), b"no image"]
    )
    assert (blue.label, blue.number) == ("blue", 2) and np.isclose(sum(blue.probabilities), 1, atol=0.02)
    assert str(broken)


def test_the_engine_of_int8_answers_with_the_export_and_embeds_with_the_model(root, tmp_path):
    repository = tmp_path / "models"
    shutil.copytree(root / "model" / "serving", repository)
    (row,) = run(root, tmp_path, "openvino_int8", deploy_to=str(repository))["formats"]
    assert row["accepted"]
    version = Version(repository / "1")
    quantized, whole = (Classifier(version, engine=engine) for engine in (OPENVINO_INT8, OPENVINO_FLOAT32))
    images = [colour_model.picture(colour) for colour in colour_model.RGB] * 3
    assert quantized.engine.description.endswith(", int8, without known")
    assert [answer.label for answer in quantized.classify(images)] == list(colour_model.RGB) * 3
    scores = [classifier.probabilities(images) for classifier in (quantized, whole)]
    assert 1e-6 < np.abs(scores[0] - scores[1]).max() < 0.05
    embeddings = [engine.embeddings([engine.crop(images[0], 10**6)]) for engine in (quantized.engine, whole.engine)]
    assert np.abs(embeddings[0] - embeddings[1]).max() < 1e-2


def test_a_server_that_computes_in_int8_takes_a_new_version_once_its_export_is_there(root, tmp_path, monkeypatch):
    repository = tmp_path / "models"
    shutil.copytree(root / "model" / "serving", repository)
    run(root, tmp_path, "openvino_int8", deploy_to=str(repository))
    monkeypatch.setenv(choice.ENGINE_VARIABLE, OPENVINO_INT8)
    served = ServedClassifier("colours", repository)
    assert served.refresh()[0].endswith(", int8, without known")
    shutil.copytree(repository / "1", repository / "2")
    about = repository / "2" / VERSION_FILE
    about.write_text(json.dumps(json.loads(about.read_text()) | {"trained_from": "other images"}))
    (message,) = served.refresh()
    assert "got one of another model in" in message and message.endswith("Version 1 goes on answering.")
    assert served.refresh() == [] and served.version.number == 1
    table = json.loads((repository / "exports" / "exports.json").read_text())
    changed = table | {"model_fingerprint": Version(repository / "2").fingerprint}
    (repository / "exports" / "exports.json").write_text(json.dumps(changed))  # its files fit, as only the description differs
    (message,) = served.refresh()
    assert message.startswith("colours, version 2: ") and message.endswith(", int8, without known")


def test_a_file_that_loses_is_refused_by_name_and_not_kept(root, tmp_path, monkeypatch, capsys):
    other = exported_colours.write_model(tmp_path / "other", scale=-1 / 20)  # names the darkest colour: always wrong
    convert_other = convert.convert
    monkeypatch.setattr(convert, "convert", lambda _, *rest: convert_other(other, *rest))
    table = run(root, tmp_path, "onnx", deploy_to="none")
    (row,) = table["formats"]
    assert (row["accepted"], row["accuracy"], row["better"], row["worse"]) == (False, 0.0, 0, 12)
    assert {file.name for file in (tmp_path / "exports").iterdir()} == {"exports.json"}
    outcome = capsys.readouterr().out.splitlines()[-1]
    assert outcome.startswith(
        "outcome: exported no format; refused onnx: accuracy 0.0000 loses beyond chance against the model's 1"
    )
    assert "<code>onnx</code> is refused:" in (tmp_path / "page.html").read_text()


def test_a_format_that_cannot_be_made_is_refused_and_the_others_are_kept(root, tmp_path, monkeypatch):
    monkeypatch.setitem(convert.CONVERTER_MODULES, "litert", "kfp_vision.exports.no_such_converter")
    broken, kept = run(root, tmp_path, "litert,onnx")["formats"]
    assert broken["reason"].startswith("cannot be made or run: ") and broken["reason"].endswith("no_such_converter")
    assert (broken["accepted"], kept["accepted"]) == (False, True)
    assert {file.name for file in (tmp_path / "exports").iterdir()} == {"exports.json", "onnx"}


def test_a_model_that_is_not_accepted_is_not_exported(root, tmp_path):
    version = export.exported_version(root / "model")
    exported_colours.write_verdict(root / "rejects", version, ("accuracy 0.2 is below min_accuracy 0.9",), accepted=False)
    with pytest.raises(InputError, match=r"must be accepted to be exported; got accuracy 0.2 is below min_accuracy 0.9. Train"):
        run(root, tmp_path, "onnx", verdict="rejects")
    assert not (tmp_path / "exports").exists()


def test_a_verdict_on_another_model_is_refused(root, tmp_path):
    other = exported_colours.write_model(tmp_path / "other", name="other")
    exported_colours.write_verdict(root / "of another", other)
    with pytest.raises(InputError, match="the verdict must be of the model it is used for; got one of "):
        run(root, tmp_path, "onnx", verdict="of another")
