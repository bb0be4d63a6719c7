"""Exported files where images have several labels: comparison with the model, metadata, and what they answer."""

import json

import numpy as np
import pytest
from support import exported_colours, mixed_colours

from kfp_vision.cli import main
from kfp_vision.evaluation.multilabel_metrics import MultilabelPredictions
from kfp_vision.exports import compare, export
from kfp_vision.exports.classify import FileClassifier
from kfp_vision.exports.formats import FORMATS
from kfp_vision.repository.version import exported_version

IMAGES = 60
TRUTH = np.array([[number % 2 == 0, number % 3 == 0] for number in range(IMAGES)])


def held_out():
    """The model ranks the images of both labels before all others."""
    own = np.where(TRUTH, 0.8, 0.2).astype(np.float32)
    names, sides = [f"{number}.jpg" for number in range(IMAGES)], np.full(IMAGES, 100)
    return compare.HeldOut(MultilabelPredictions(names, TRUTH, own, np.full(2, 0.5), sides), None, own, 12.0)


def judge(probabilities, form="litert_int8"):
    scores = compare.Scores(np.asarray(probabilities, np.float32), 3.5, ["SQUARE"])
    return compare.judge(FORMATS[form], 1000, scores, held_out())


def test_a_file_that_ranks_alike_is_kept():
    row = judge(np.where(TRUTH, 0.7, 0.3))
    assert (row.accepted, row.mean_average_precision, row.difference, row.interval) == (True, 1.0, 0.0, [0.0, 0.0])
    assert row.largest_difference == pytest.approx(0.1)
    assert row.reason == (
        "mean average precision 1.0000 does not differ significantly from the model's 1.0000: "
        "difference +0.0000, 95 % of resamples from +0.0000 to +0.0000"
    )


def test_a_file_that_loses_beyond_chance_is_refused():
    row = judge(np.random.default_rng(0).random((IMAGES, 2)))  # knows nothing: the share of each label, a half and a third
    assert not row.accepted and row.mean_average_precision == pytest.approx(5 / 12, abs=0.15)
    assert "loses beyond chance against the model's 1.0000" in row.reason and row.interval[1] < 0


def test_a_file_that_loses_by_chance_is_kept():
    probabilities = np.where(TRUTH, 0.8, 0.2)
    probabilities[0, 0], probabilities[1, 0] = 0.3, 0.4  # one image of sixty is ranked behind one that lacks the label
    row = judge(probabilities)
    assert row.accepted and -0.01 < row.difference < 0


def test_a_file_that_gives_no_probabilities_is_refused():
    row = judge(np.full((IMAGES, 2), np.nan))
    assert row == compare.MultilabelComparison("litert_int8", False, "does not give finite probabilities (60x2 for 60x2)", 1000)


@pytest.mark.slow
def test_files_hold_the_thresholds_and_name_all_labels(tmp_path, capsys):
    root = mixed_colours.write_records(tmp_path)
    version = mixed_colours.write_version(tmp_path / "model" / "serving" / "1")
    assert exported_version(tmp_path / "model") == version
    verdict = exported_colours.write_verdict(tmp_path / "verdict", version)
    records = export.Records(root / "train", root / "validation", root / "test")
    made = {"exports": tmp_path / "exports", "page": tmp_path / "page.html"}
    table = export.export_model(tmp_path / "model", verdict, records, "litert,onnx,openvino,litert_int8", **made)
    assert table["model"]["mean_average_precision"] == 1.0
    assert [(row["format"], row["accepted"], row["difference"]) for row in table["formats"]] == [
        (name, True, 0.0) for name in ("litert", "onnx", "openvino", "litert_int8")
    ]
    assert "mean average precision" in made["page"].read_text()
    for name, file in (("litert", "classifier.tflite"), ("onnx", "classifier.onnx"), ("openvino", "classifier.xml")):
        about = json.loads((made["exports"] / name / "model.json").read_text())
        assert (about["labels_per_image"], about["thresholds"]) == ("several", list(mixed_colours.THRESHOLDS))
        exported = FileClassifier(made["exports"] / name / file)
        assert exported.thresholds == list(mixed_colours.THRESHOLDS)
        answers = exported.classify([mixed_colours.picture(one) for one in mixed_colours.IMAGES])
        assert [answer.labels for answer in answers] == [labels for _, labels in mixed_colours.IMAGES.values()]
    (tmp_path / "violet.png").write_bytes(mixed_colours.picture("violet"))
    capsys.readouterr()
    assert main(["predict", "--model", str(made["exports"] / "onnx" / "classifier.onnx"), str(tmp_path / "violet.png")]) == 0
    assert capsys.readouterr().out.startswith("blue 0.99")
