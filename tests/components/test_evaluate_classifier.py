import json
import re
from pathlib import Path

import one_step
import pytest

from kfp_vision import components, records

MIN_ACCURACY = 0.75


@pytest.fixture(scope="session")
def evaluate_inputs(written, trained) -> dict[str, Path]:
    records = {name: written.folder / name for name in ("validation_records", "test_records")}
    return records | {"model": trained.folder / "model"}


@pytest.fixture(scope="session")
def evaluated(evaluate_inputs, pictures, tmp_path_factory) -> one_step.Ended:
    values = {"min_accuracy": MIN_ACCURACY, "test_image_uri": str(pictures / "globelet" / "0003.jpg")}
    return one_step.run(components.evaluate_classifier, tmp_path_factory.mktemp("evaluate"), evaluate_inputs, **values)


def test_measures_on_the_test_split(evaluated):
    metrics = evaluated.metadata["metrics"]
    assert metrics["images"] == 2
    assert metrics["accuracy"] in (0.0, 0.5, 1.0)
    assert {"macro_precision", "macro_recall", "macro_f1"} < metrics.keys()


def test_draws_a_confusion_matrix_and_a_roc_curve(evaluated):
    classification = evaluated.metadata["classification"]
    matrix = classification["confusionMatrix"]
    assert [spec["displayName"] for spec in matrix["annotationSpecs"]] == ["bellcup", "globelet"]
    assert [sum(row["row"]) for row in matrix["rows"]] == [1, 1]
    points = classification["confidenceMetrics"]
    assert points[0]["falsePositiveRate"] == points[0]["recall"] == 0
    assert points[-1]["falsePositiveRate"] == points[-1]["recall"] == 1
    assert all(0 <= point["confidenceThreshold"] <= 1 for point in points)


def test_judges_the_model_and_writes_why(evaluated):
    figures = json.loads((evaluated.folder / "verdict").read_text())
    accuracy = evaluated.metadata["metrics"]["accuracy"]
    assert figures["accuracy"] == accuracy
    assert figures["verdict"]["accepted"] is evaluated.output is (accuracy >= MIN_ACCURACY)
    assert re.fullmatch(rf"accuracy {accuracy:.4f} .* min_accuracy 0\.75", *figures["verdict"]["reasons"])


def test_writes_a_page_and_names_the_picture_that_was_asked_for(evaluated):
    figures = json.loads((evaluated.folder / "verdict").read_text())
    assert figures["test_picture"]["prediction"] in ("bellcup", "globelet")
    assert "flowers: evaluation" in (evaluated.folder / "report").read_text()


def test_refuses_when_nothing_was_held_out(evaluate_inputs, tmp_path):
    nothing = tmp_path / "nothing"
    records.write_shards(nothing, "validation", iter(()), ["bellcup", "globelet"], 100)
    inputs = evaluate_inputs | {"validation_records": nothing, "test_records": nothing}
    ended = one_step.run(components.evaluate_classifier, tmp_path, inputs, min_accuracy=0.0, test_image_uri="")
    assert one_step.refusal(ended) == (
        "error: there must be held-out pictures to evaluate on; got none in nothing. "
        "Raise validation_ratio or test_ratio, or add pictures."
    )
