import json

import pytest
from support import colour_model, run_component, several_labels

from kfp_vision import components
from kfp_vision.records import convert
from kfp_vision.repository import version

pytestmark = pytest.mark.slow

LENIENT = {"min_accuracy": 0.0, "test_image_uri": "", "deploy_to": "none", "unchanged": False, "advanced": {}}


def test_computes_metrics_on_the_test_split(evaluated):
    metrics = evaluated.metadata["metrics"]
    assert metrics["images"] == 2
    assert metrics["accuracy"] in (0.0, 0.5, 1.0)
    assert {"macro_precision", "macro_recall", "macro_f1"} < metrics.keys()


def test_writes_a_confusion_matrix_and_a_roc_curve(evaluated):
    classification = evaluated.metadata["classification"]
    matrix = classification["confusionMatrix"]
    assert [spec["displayName"] for spec in matrix["annotationSpecs"]] == ["bellcup", "globelet"]
    assert [sum(row["row"]) for row in matrix["rows"]] == [1, 1]
    points = classification["confidenceMetrics"]
    assert points[0]["falsePositiveRate"] == points[0]["recall"] == 0
    assert points[-1]["falsePositiveRate"] == points[-1]["recall"] == 1
    assert all(0 <= point["confidenceThreshold"] <= 1 for point in points)
    artifact = json.loads((evaluated.folder / "classification").read_text())
    assert artifact["labels"] == ["bellcup", "globelet"]
    assert artifact["confusion_matrix"] == [row["row"] for row in matrix["rows"]]
    assert artifact["roc"]["true_positive_rate"] == [point["recall"] for point in points]


def test_writes_the_verdict_with_its_reasons(evaluated):
    figures = json.loads((evaluated.folder / "metrics").read_text())
    accuracy = evaluated.metadata["metrics"]["accuracy"]
    assert figures["accuracy"] == accuracy
    assert figures["verdict"]["accepted"] is evaluated.output is True
    assert figures["verdict"]["reasons"] == [
        f"accuracy {accuracy:.4f} reaches min_accuracy 1e-09",
        f"there are too few held-out images to tell whether accuracy {accuracy:.4f} is better than always predicting bellcup, "
        f"the largest class with 0.5000 of the 2 held-out images (p = {figures['largest_class']['p_value']:.2g}); accepted "
        "because beat_largest_class of advanced is false",
    ]


def test_rejects_a_model_evaluated_on_two_images_and_succeeds(evaluate_inputs, tmp_path):
    ended = run_component.run(components.evaluate_classifier, tmp_path, evaluate_inputs, **LENIENT)
    figures = json.loads((ended.folder / "verdict").read_text())
    assert ended.succeeded and figures["verdict"]["accepted"] is ended.output is False
    assert "hold out more images, with validation_ratio or test_ratio" in figures["verdict"]["reasons"][0]


def test_rejects_a_model_below_min_accuracy(evaluate_inputs, tmp_path):
    strict = LENIENT | {"min_accuracy": 0.999999, "advanced": {"beat_largest_class": False}}
    ended = run_component.run(components.evaluate_classifier, tmp_path, evaluate_inputs, **strict)
    figures = json.loads((ended.folder / "metrics").read_text())
    assert ended.succeeded
    assert figures["verdict"]["accepted"] is ended.output is (figures["accuracy"] == 1)


def test_an_accepted_but_unchanged_model_is_not_deployed_again(evaluate_inputs, tmp_path):
    unchanged = LENIENT | {"unchanged": True, "advanced": {"beat_largest_class": False}}
    ended = run_component.run(components.evaluate_classifier, tmp_path, evaluate_inputs, **unchanged)
    assert json.loads((ended.folder / "verdict").read_text())["verdict"]["accepted"] is True
    assert ended.output is False


def test_the_verdict_names_the_model_and_has_sample_predictions(evaluated, trained):
    figures = json.loads((evaluated.folder / "verdict").read_text())
    assert figures["model_fingerprint"] == version.exported_version(trained.folder / "model").fingerprint
    assert [len(answer["probabilities"]) for answer in figures["answers"]] == [2, 2]
    assert len({answer["name"] for answer in figures["answers"]}) == 2


def test_writes_a_page_and_classifies_the_test_image(evaluated):
    figures = json.loads((evaluated.folder / "metrics").read_text())
    assert figures["test_picture"]["prediction"] in ("bellcup", "globelet")
    assert "flowers: evaluation" in (evaluated.folder / "report").read_text()


def test_fails_without_held_out_images(evaluate_inputs, tmp_path):
    empty_records = tmp_path / "nothing"
    convert.write_shards(empty_records, "validation", iter(()), ["bellcup", "globelet"], 100)
    inputs = evaluate_inputs | {"validation_records": empty_records, "test_records": empty_records}
    ended = run_component.run(components.evaluate_classifier, tmp_path, inputs, **LENIENT)
    assert run_component.error_line(ended) == (
        "error: there must be held-out images to evaluate on; got none in nothing. "
        "Raise validation_ratio or test_ratio, or add images."
    )


def test_a_model_of_several_labels_has_a_curve_and_no_confusion_matrix(tmp_path_factory, tmp_path):
    """Kubeflow's page shows the curve alone: its section of the matrix is empty without one."""
    records = several_labels.write_records(tmp_path_factory.mktemp("records"), images=8, validation=16)
    labels = several_labels.LABELS
    colour_model.write_version(tmp_path / "model" / "serving" / "1", labels=tuple(labels), thresholds=(0.5, 0.5, 0.5))
    (tmp_path / "model" / "training.json").write_text("[]")
    inputs = {
        "model": tmp_path / "model",
        "validation_records": records / "validation",
        "test_records": records / "test",
    }
    ended = run_component.run(components.evaluate_classifier, tmp_path, inputs, **LENIENT)
    assert ended.succeeded
    metrics, figures = ended.metadata["metrics"], json.loads((ended.folder / "metrics").read_text())
    assert next(iter(metrics)) == "mean_average_precision"
    assert metrics["mean_average_precision"] == figures["mean_average_precision"]
    classification = ended.metadata["classification"]
    assert "confusionMatrix" not in classification
    assert classification["confidenceMetrics"][-1]["recall"] == 1
    assert json.loads((ended.folder / "classification").read_text()).keys() == {"labels", "roc"}
