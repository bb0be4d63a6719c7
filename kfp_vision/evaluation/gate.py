"""Decides whether a model is accepted: minimum accuracy, beyond the largest class, not worse than the deployed model.

Where images have several labels, the mean average precision stands for the accuracy, and chance for the largest class.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kfp_vision.core.errors import InputError
from kfp_vision.evaluation import scoring
from kfp_vision.evaluation.metrics import ClassificationMetrics, Predictions, mcnemar_test
from kfp_vision.evaluation.multilabel_metrics import MultilabelMetrics, MultilabelPredictions, compare
from kfp_vision.prediction.classifier import Classifier
from kfp_vision.repository.version import Version


@dataclass(frozen=True)
class Criteria:
    """The acceptance criteria for a model: fields of the run form, under the same names.

    Attributes:
        min_accuracy: minimum accuracy on the held-out images, 0 to 1; of several labels, minimum mean average precision.
        deploy_to: deployment target; if it is a model repository, its newest version is evaluated on the same images.
        test_image_uri: an image whose prediction is shown on the page; empty for none.
        advanced: read for beat_largest_class (the model must be significantly better than always predicting the largest
            class, or of several labels, than chance) and compare_with_deployed (it must not be significantly worse than the
            deployed model).
    """

    min_accuracy: float
    deploy_to: str
    test_image_uri: str
    advanced: Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """The decision whether a model may be deployed.

    Attributes:
        accepted: whether the model meets all criteria.
        reasons: a sentence per criterion, those it fails first.
    """

    accepted: bool
    reasons: list[str]


def compare_with_deployed(
    predictions: Predictions | MultilabelPredictions, labels: list[str], deployed: Version, folder: Path
) -> dict[str, Any]:
    """Compares a model with the deployed one on the same images, by class names, since their class indices may differ.

    Args:
        predictions: predictions of the new model.
        labels: class names of the new model.
        deployed: the deployed version.
        folder: the records that `predictions` were computed on.

    Returns:
        version and accuracy of the deployed model, and the keys of `metrics.mcnemar_test`; of several labels, version and the
        keys of `multilabel_metrics.compare`; or version and error if it cannot be loaded, or version and other_kind.
    """
    several = isinstance(predictions, MultilabelPredictions)
    try:
        if deployed.several != several:
            kinds = {False: "one label", True: "any number of labels"}
            found = f"it gives an image {kinds[deployed.several]}, the new model {kinds[several]}"
            return {"version": deployed.number, "other_kind": found}
        theirs = Classifier(deployed)
    except InputError as error:
        return {"version": deployed.number, "error": str(error).removeprefix(InputError.PREFIX)}
    if isinstance(predictions, MultilabelPredictions):
        scores = scoring.predict_several_labels(theirs.probabilities, folder, deployed.thresholds).probabilities
        by_name = _columns_by_name(scores, theirs.labels, labels)
        return {"version": deployed.number} | compare(predictions.truth, predictions.probabilities, by_name)
    predicted = np.array(theirs.labels)[scoring.predict_records(theirs.probabilities, folder).predicted]
    correct = predicted == np.array(labels)[predictions.labels]
    return {"version": deployed.number, "accuracy": float(np.mean(correct))} | mcnemar_test(predictions.correct, correct)


def _columns_by_name(
    scores: npt.NDArray[np.floating[Any]], names: list[str], wanted: list[str]
) -> npt.NDArray[np.floating[Any]]:
    """Orders the scores of a model by the labels of another; a label that it does not know gets 0 for every image."""
    known = {name: scores[:, number] for number, name in enumerate(names)}
    return np.stack([known.get(name, np.zeros(len(scores))) for name in wanted], 1)


def decide(
    metrics: ClassificationMetrics | MultilabelMetrics,
    deployed: Mapping[str, Any] | None,
    min_accuracy: float,
    *,
    beat_largest_class: bool,
) -> Verdict:
    """Decides whether a model may be deployed.

    Args:
        metrics: metrics of the model.
        deployed: the result of `compare_with_deployed`; None if nothing is deployed.
        min_accuracy: minimum accuracy, or of several labels minimum mean average precision, 0 to 1; 0 for none.
        beat_largest_class: whether the model must be significantly better than always predicting the largest class, or of
            several labels, than chance.

    Returns:
        The verdict.
    """
    name, value = metrics.main
    reached = value >= min_accuracy
    relation = "reaches" if reached else "is below"
    sentence = f"{name} {value:.4f} {relation} min_accuracy {min_accuracy:g}"
    checks = [(reached, sentence if min_accuracy else "no min_accuracy is set")]
    if isinstance(metrics, MultilabelMetrics):
        checks.append(_check_chance(metrics, beat_largest_class))
    else:
        checks.append(_check_largest_class(metrics, beat_largest_class))
    if deployed:
        checks.append(_check_deployed(deployed))
    ordered = sorted(checks, key=lambda check: check[0])
    return Verdict(all(passed for passed, _ in checks), [reason for _, reason in ordered])


def _check_largest_class(metrics: ClassificationMetrics, required: bool) -> tuple[bool, str]:
    """Returns whether the model passes the comparison with always predicting the largest class, and the reason."""
    accuracy, largest = f"accuracy {metrics.accuracy:.4f}", metrics.largest_class
    p_value = f"p = {largest['p_value']:.2g}"
    baseline = (
        f"always predicting {largest['label']}, the largest class with {largest['share']:.4f} of the "
        f"{metrics.images} held-out images"
    )
    if largest["verdict"] == "beaten":
        return True, f"{accuracy} is significantly better than {baseline} ({p_value})"
    finding, remedy = {
        "not beaten": (
            f"{accuracy} is not significantly better than {baseline} ({p_value})",
            "train longer or on more images",
        ),
        "too few images": (
            f"there are too few held-out images to tell whether {accuracy} is better than {baseline} ({p_value})",
            "hold out more images, with validation_ratio or test_ratio",
        ),
        "one class": (
            f"{accuracy} cannot be compared with {baseline} ({p_value})",
            "hold out images of other classes as well",
        ),
    }[largest["verdict"]]
    return _require(required, finding, remedy)


def _check_chance(metrics: MultilabelMetrics, required: bool) -> tuple[bool, str]:
    """Returns whether the model passes the comparison with scores that know nothing of the image, and the reason."""
    reached, chance = f"mean average precision {metrics.mean_average_precision:.4f}", metrics.chance
    p_value = f"p = {chance['p_value']:.2g}"
    baseline = (
        f"scores that know nothing of the image, which reach {chance['mean_average_precision']:.4f} on the "
        f"{metrics.images} held-out images"
    )
    if chance["verdict"] == "beaten":
        return True, f"{reached} is significantly better than {baseline} ({p_value})"
    finding, remedy = {
        "not beaten": (
            f"{reached} is not significantly better than {baseline} ({p_value})",
            "train longer or on more images",
        ),
        "too few images": (
            f"there are too few held-out images to tell whether {reached} is better than {baseline} ({p_value})",
            "hold out more images, with validation_ratio or test_ratio",
        ),
        "one set of labels": (
            f"{reached} cannot be compared with {baseline}, since all of these have the same labels",
            "hold out images of other labels as well",
        ),
    }[chance["verdict"]]
    return _require(required, finding, remedy)


def _require(required: bool, finding: str, remedy: str) -> tuple[bool, str]:
    """Returns whether a model that does not beat its baseline passes, and the reason."""
    if not required:
        return True, f"{finding}; accepted because beat_largest_class of advanced is false"
    return False, f"{finding}: {remedy}, or set beat_largest_class of advanced to false to accept the model anyway"


def _check_deployed(deployed: Mapping[str, Any]) -> tuple[bool, str]:
    """Returns whether the model passes the comparison with the deployed one, and the reason."""
    version = f"the deployed version {deployed['version']}"
    if "error" in deployed:
        return True, f"{version} cannot be loaded ({deployed['error']})"
    if "other_kind" in deployed:
        return True, f"{version} is not compared: {deployed['other_kind']}"
    relation = {
        "better": "it is significantly better than",
        "worse": "it is significantly worse than",
        "no different": "it does not differ significantly from",
    }[deployed["verdict"]]
    if "interval" in deployed:
        low, high = deployed["interval"]
        difference = f"the difference is {deployed['difference']:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}"
        sentence = f"{relation} {version}, mean average precision {deployed['mean_average_precision']:.4f}: {difference}"
        return deployed["verdict"] != "worse", f"{sentence} (paired bootstrap, {deployed['draws']} draws)"
    counts = f"images that only the new model gets right {deployed['better']}, only the deployed one {deployed['worse']}"
    sentence = f"{relation} {version}, accuracy {deployed['accuracy']:.4f}: {counts} (p = {deployed['p_value']:.2g})"
    return deployed["verdict"] != "worse", sentence
