"""Evaluates a model that names the colours of an image, on images of none to three colours, and decides about it."""

import io
import json
from dataclasses import asdict
from itertools import combinations

import numpy as np
import pytest
from PIL import Image
from support import colour_model

from kfp_vision.core.errors import InputError
from kfp_vision.dataset.images import validate_image
from kfp_vision.dataset.table import ImageRow, join_labels
from kfp_vision.evaluation import gate
from kfp_vision.evaluation.evaluate import evaluate_classifier
from kfp_vision.evaluation.metrics import Predictions, classification_metrics
from kfp_vision.evaluation.multilabel_metrics import MultilabelPredictions, multilabel_metrics
from kfp_vision.records import convert
from kfp_vision.repository.version import Version

COLOURS = list(colour_model.RGB)  # red, green, blue
THRESHOLDS = (0.5, 0.5, 0.5)
SETS = [labels for count in range(4) for labels in combinations(COLOURS, count)]  # 8, one without labels, one with all


def draw(labels: tuple[str, ...], side: int = 48) -> bytes:
    """Draws stripes of equal height, one for each colour, on black; a PNG.

    Of three colours, none fills enough of the image for the model to name it.
    """
    image = Image.new("RGB", (side, side), (0, 0, 0))
    for number, label in enumerate(labels):
        image.paste(colour_model.RGB[label], (0, number * side // len(labels), side, (number + 1) * side // len(labels)))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def held_out(folder, labels_of=lambda labels: labels, *, repeats: int = 5, classes=tuple(COLOURS), several: bool = True):
    """Writes records of every set of colours, under the labels that a function gives; of validation only."""
    folder.mkdir()
    sets = [labels for labels in SETS for _ in range(repeats)]
    rows = [
        (ImageRow("", join_labels(labels_of(labels)), 1, "", f"{number}.png"), validate_image(draw(labels, 36 + 4 * number)))
        for number, labels in enumerate(sets)
    ]
    convert.write_shards(folder / "validation", "validation", iter(rows), list(classes), 100, several=several)
    convert.write_shards(folder / "test", "test", iter(()), list(classes), 100, several=several)
    return folder / "validation", folder / "test"


def evaluate(root, records: tuple, deploy_to: str = "none", min_accuracy: float = 0.0, image: str = "", **advanced):
    model = root / "model"
    if not model.exists():
        colour_model.write_version(model / "serving" / "1", thresholds=THRESHOLDS)
        (model / "training.json").write_text("[]")
    outputs = {name: root / name for name in ("evaluation", "page", "verdict")}
    criteria = gate.Criteria(min_accuracy, deploy_to, image, {"compare_with_deployed": deploy_to != "none"} | advanced)
    result = evaluate_classifier(model, *records, criteria, **outputs)
    assert json.loads(outputs["evaluation"].read_text()) == result.as_dict()
    return result


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluated")
    (root / "image.png").write_bytes(draw(("red", "blue")))
    return evaluate(root, held_out(root / "records"), min_accuracy=0.9, image=str(root / "image.png")), root


def test_all_images_but_those_of_three_colours_get_exactly_their_labels(result):
    figures = result[0].metrics
    assert (figures.images, figures.exact_match_ratio) == (40, 35 / 40)
    assert [(row["images"], row["named"]) for row in figures.per_label] == [(20, 15)] * 3
    assert figures.micro_precision == 1
    assert figures.micro_recall == pytest.approx(45 / 60)
    assert figures.mean_average_precision == 1  # a third of the image is less than a half of it, but more than nothing
    assert result[0].test_picture["labels"] == ["red", "blue"]


def test_the_verdict_compares_mean_average_precision(result):
    evaluation, root = result
    reached, chance = evaluation.verdict.reasons
    assert evaluation.verdict.accepted
    assert reached == "mean average precision 1.0000 reaches min_accuracy 0.9"
    assert chance.startswith("mean average precision 1.0000 is significantly better than scores that know nothing of the image")
    assert chance.endswith("on the 40 held-out images (p = 0.001)")
    verdict = json.loads((root / "verdict").read_text())
    assert verdict["chance"]["verdict"] == "beaten"
    assert len(verdict["answers"]) == 8


def test_the_page_shows_missed_labels_with_their_maps(result):
    page = (result[1] / "page").read_text()
    assert 'Labels that an image has and that were not named: <span class="number">15</span> in all' in page
    assert page.count('alt="What spoke for') == 15
    section = page.partition("<h2>False labels</h2>")[2].partition("</section>")[0]
    assert "<p>None.</p>" in section
    assert "all of them but the average precision are a little too high" in " ".join(page.split())  # no test images


def test_kubeflow_gets_a_curve_and_no_confusion_matrix(result):
    calls = []
    drawn = result[0].draw(lambda *_: calls.append("matrix"), lambda *roc: calls.append(len(roc)))
    assert calls == [3]
    assert drawn.keys() == {"labels", "roc"}
    assert result[0].headline["mean_average_precision"] == 1


def test_a_model_that_names_labels_by_chance_is_not_accepted(tmp_path):
    rng = np.random.default_rng(0)
    records = held_out(tmp_path / "records", lambda _: tuple(np.array(COLOURS)[rng.random(3) < 0.5].tolist()))
    found = evaluate(tmp_path, records)
    assert not found.verdict.accepted
    assert "is not significantly better than scores that know nothing of the image" in found.verdict.reasons[0]
    assert evaluate(tmp_path, records, beat_largest_class=False).verdict.accepted


def test_images_without_any_label_are_refused(tmp_path):
    with pytest.raises(InputError, match="a held-out image must have a label; got none on 40 images"):
        evaluate(tmp_path, held_out(tmp_path / "records", lambda _: ()))


def test_a_model_of_the_other_kind_is_refused(tmp_path):
    one = held_out(tmp_path / "records", lambda labels: labels[:1] or ("red",), several=False)
    with pytest.raises(InputError, match="got a model of several labels an image and records of one label an image"):
        evaluate(tmp_path, one)


def deployed(root, **changes) -> str:
    """Writes a repository with version 3 of a model."""
    colour_model.write_version(root / "repository" / "3", **changes)
    return str(root / "repository")


@pytest.mark.slow
def test_a_deployed_model_is_compared_by_the_names_of_the_labels(tmp_path):
    records = held_out(tmp_path / "records")
    same = evaluate(tmp_path, records, deployed(tmp_path, thresholds=(0.9, 0.9, 0.9)))
    assert same.deployed["verdict"] == "no different"
    assert (same.deployed["difference"], same.deployed["interval"]) == (0, [0, 0])
    other = deployed(tmp_path / "other", labels=("blue", "green", "red"), thresholds=THRESHOLDS)  # confuses red with blue
    better = evaluate(tmp_path, records, other)
    assert better.deployed["verdict"] == "better"
    reason = next(reason for reason in better.verdict.reasons if "deployed version 3" in reason)
    assert reason.startswith("it is significantly better than the deployed version 3, mean average precision 0.")
    assert reason.endswith("(paired bootstrap, 1000 draws)")
    unknown = evaluate(
        tmp_path, records, deployed(tmp_path / "unknown", labels=("red", "green", "grey"), thresholds=THRESHOLDS)
    )
    assert unknown.deployed["mean_average_precision"] == pytest.approx((1 + 1 + 20 / 40) / 3)  # blue is a guess


@pytest.mark.slow
def test_a_worse_model_is_not_accepted(tmp_path):
    colour_model.write_version(tmp_path / "model" / "serving" / "1", labels=("blue", "green", "red"), thresholds=THRESHOLDS)
    (tmp_path / "model" / "training.json").write_text("[]")
    records = held_out(tmp_path / "records", classes=("blue", "green", "red"))
    found = evaluate(tmp_path, records, deployed(tmp_path, thresholds=THRESHOLDS), beat_largest_class=False)
    assert (found.verdict.accepted, found.deployed["verdict"]) == (False, "worse")
    assert found.verdict.reasons[0].startswith("it is significantly worse than the deployed version 3")


TRUTH = np.tile(np.eye(3, dtype=bool), (10, 1))
SEVERAL = MultilabelPredictions(["a"] * 30, TRUTH, TRUTH.astype(float), np.array(THRESHOLDS), np.full(30, 40))
ONE = Predictions(["a"] * 30, TRUTH.argmax(1), TRUTH.astype(float), np.full(30, 40))


@pytest.mark.parametrize(
    ("ours", "thresholds", "kinds"),
    [
        (SEVERAL, (), "it gives an image one label, the new model any number of labels"),
        (ONE, THRESHOLDS, "it gives an image any number of labels, the new model one label"),
    ],
)
def test_a_deployed_model_of_the_other_kind_is_not_compared(tmp_path, ours, thresholds, kinds):
    version = Version(colour_model.write_version(tmp_path / "3", thresholds=thresholds))
    found = gate.compare_with_deployed(ours, COLOURS, version, tmp_path)
    metrics = multilabel_metrics(ours, COLOURS) if ours is SEVERAL else classification_metrics(ours, COLOURS)
    verdict = asdict(gate.decide(metrics, found, 0.0, beat_largest_class=True))
    assert verdict["accepted"]
    assert verdict["reasons"][-1] == f"the deployed version 3 is not compared: {kinds}"
