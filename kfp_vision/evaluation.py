"""Evaluates an exported model on held-out images, and decides whether it may be deployed."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kfp_vision.core import values
from kfp_vision.core.advanced import Advanced
from kfp_vision.core.errors import InputError
from kfp_vision.dataset.images import Rejected
from kfp_vision.measures import TOP, Answers, ClassificationMetrics, difference, measured
from kfp_vision.prediction import export
from kfp_vision.prediction.classifier import Classifier
from kfp_vision.records import example, tf_dataset
from kfp_vision.records.folder import RandomAccessRecords, choose_evaluation_records, verify_records
from kfp_vision.reports import pages, results, thumbnails
from kfp_vision.repository import publish
from kfp_vision.repository.version import Version, exported_version
from kfp_vision.storage import atomic, reading
from kfp_vision.training import input_pipeline

BATCH = 64
MISTAKES_SHOWN = 24
PAIRS_SHOWN, MISTAKES_A_PAIR = 4, 6
ANSWERS_KEPT = 8  # check_serving compares the served model with them
HEADLINES = (  # shown in the Kubeflow UI
    "accuracy",
    "top_5_accuracy",
    "macro_precision",
    "macro_recall",
    "macro_f1",
    "weighted_precision",
    "weighted_recall",
    "weighted_f1",
    "images",
)


@dataclass(frozen=True)
class Wishes:
    """The acceptance criteria for a model: fields of the run form, under the same names.

    Attributes:
        min_accuracy: minimum accuracy on the held-out images, 0 to 1.
        deploy_to: deployment target; if it is a model repository, its newest version is evaluated on the same images.
        test_image_uri: an image whose prediction is shown on the page; empty for none.
        advanced: read for beat_largest_class (the model must be significantly better than always predicting the largest
            class) and compare_with_deployed (it must not be significantly worse than the deployed model).
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


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        model_name: name of the model.
        model_fingerprint: hash of the exported model.
        network: name of the network.
        split: the evaluated split, `test` or `validation`.
        metrics: the metrics on that split.
        deployed: comparison with the deployed model, see `compared`; None without one.
        verdict: whether the model is accepted.
        test_picture: uri, prediction and score of the test image; None without one.
    """

    model_name: str
    model_fingerprint: str
    network: str
    split: str
    metrics: ClassificationMetrics
    deployed: dict[str, Any] | None
    verdict: Verdict
    test_picture: dict[str, Any] | None

    def as_dict(self) -> dict[str, Any]:
        """Returns the content of the evaluation file: one flat mapping, with the metrics among the other fields."""
        model = {name: getattr(self, name) for name in ("model_name", "model_fingerprint", "network", "split")}
        decision = {"deployed": self.deployed, "verdict": asdict(self.verdict), "test_picture": self.test_picture}
        return model | self.metrics.as_dict() | decision


def evaluate_classifier(
    model: Path,
    validation_records: Path,
    test_records: Path,
    criteria: Wishes,
    *,
    evaluation: Path,
    page: Path,
    verdict: Path,
) -> Evaluation:
    """Evaluates the exported model on the test split, or on the validation split if the test split is empty.

    Args:
        model: the model folder.
        validation_records: folder of validation records; may be empty.
        test_records: folder of test records; may be empty.
        criteria: the acceptance criteria.
        evaluation: the file to write (JSON): all metrics and the verdict.
        page: the page to write (HTML).
        verdict: the file to write (JSON): the verdict, and a few predictions.

    Returns:
        The evaluation, as written to the `evaluation` file.

    Raises:
        InputError: there are no held-out images, the records are damaged, or the test image cannot be read.

    Example:
        criteria = Wishes(min_accuracy=0.9, deploy_to="none", test_image_uri="", advanced={})
        files = {name: Path(name) for name in ("evaluation", "page", "verdict")}
        evaluate_classifier(Path("model"), Path("validation"), Path("test"), criteria, **files).metrics.accuracy
    """
    folder = choose_evaluation_records(validation_records, test_records)
    about = verify_records(folder)
    if not about.images:
        remedy = "Raise validation_ratio or test_ratio, or add images."
        raise InputError("there must be held-out images to evaluate on", f"none in {folder.name}", remedy)
    version = exported_version(model)
    classifier = Classifier(version)
    predictions = collect(classifier.probabilities, folder)
    metrics = measured(predictions, version.labels)
    deployed = None
    advanced = Advanced.parse(criteria.advanced)
    if advanced.compare_with_deployed:
        with atomic.temporary_folder() as scratch:
            if newest := _deployed_version(criteria.deploy_to, scratch):
                deployed = compared(predictions, version.labels, newest, folder)
    result = Evaluation(
        model_name=version.name,
        model_fingerprint=version.fingerprint,
        network=version.about["network"],
        split=about.split,
        metrics=metrics,
        deployed=deployed,
        verdict=judged(metrics, deployed, criteria.min_accuracy, beat_largest_class=advanced.beat_largest_class),
        test_picture=_classify_uri(classifier, criteria.test_image_uri) if criteria.test_image_uri else None,
    )
    _write(result, predictions, evaluation, verdict)
    _write_page(page, result, predictions, folder, model)
    outcome = "accepted" if result.verdict.accepted else "not accepted"
    accuracy = f"accuracy {metrics.accuracy:.4f} on {metrics.images} {about.split} images"
    results.announce(f"{outcome}, {accuracy}: {'; '.join(result.verdict.reasons)}")
    return result


def _write(result: Evaluation, predictions: Answers, evaluation: Path, verdict: Path) -> None:
    content = result.as_dict()
    atomic.write_json(evaluation, content)
    kept = {name: content[name] for name in ("model_name", "model_fingerprint", "verdict", "largest_class")}
    atomic.write_json(verdict, kept | {"answers": sampled(predictions)})


def _write_page(page: Path, result: Evaluation, predictions: Answers, folder: Path, model: Path) -> None:
    labels, images = result.metrics.labels, RandomAccessRecords(folder)
    pages.write_evaluation_page(
        page,
        title=f"{result.model_name}: evaluation",
        evaluation=result.as_dict(),
        top=TOP,
        history=json.loads((model / export.HISTORY_FILE).read_text()),
        mistakes=_mistakes(predictions, labels, images, most_confident(predictions, MISTAKES_SHOWN)),
        pairs=[
            (pair, _mistakes(predictions, labels, images, of_pair(predictions, labels, pair)))
            for pair in result.metrics.confused_pairs[:PAIRS_SHOWN]
        ],
    )


def collect(predict: Callable[[Sequence[bytes]], npt.NDArray[np.float32]], folder: Path) -> Answers:
    """Runs a model on every image of a folder of records.

    Args:
        predict: maps encoded images to probabilities, (n, classes).
        folder: a folder of records.

    Returns:
        The predictions, in the order of the files.
    """
    names: list[str] = []
    labels, probabilities, sides = [], [], []
    for batch in tf_dataset.encoded_records(folder).map(input_pipeline.parse_record).batch(BATCH):
        probabilities.append(predict(batch["image/encoded"].numpy()))
        names += [name.decode() for name in batch["image/filename"].numpy()]
        labels.append(batch["image/class/label"].numpy())
        sides.append(np.minimum(batch["image/height"].numpy(), batch["image/width"].numpy()))
    return Answers(names, np.concatenate(labels), np.concatenate(probabilities), np.concatenate(sides))


def compared(predictions: Answers, labels: list[str], deployed: Version, folder: Path) -> dict[str, Any]:
    """Compares a model with the deployed one on the same images, by class names, since their class indices may differ.

    Args:
        predictions: predictions of the new model.
        labels: class names of the new model.
        deployed: the deployed version.
        folder: the records that `predictions` were computed on.

    Returns:
        version and accuracy of the deployed model, and the keys of `measures.difference`; or version and error if it cannot
        be loaded.
    """
    try:
        theirs = Classifier(deployed)
    except InputError as error:
        return {"version": deployed.number, "error": str(error).removeprefix(InputError.PREFIX)}
    predicted = np.array(theirs.labels)[collect(theirs.probabilities, folder).predicted]
    correct = predicted == np.array(labels)[predictions.labels]
    return {"version": deployed.number, "accuracy": float(np.mean(correct))} | difference(predictions.correct, correct)


def judged(
    metrics: ClassificationMetrics, deployed: Mapping[str, Any] | None, min_accuracy: float, *, beat_largest_class: bool
) -> Verdict:
    """Decides whether a model may be deployed.

    Args:
        metrics: metrics of the model.
        deployed: the result of `compared`; None if nothing is deployed.
        min_accuracy: minimum accuracy, 0 to 1; 0 for none.
        beat_largest_class: whether the model must be significantly better than always predicting the largest class.

    Returns:
        The verdict.
    """
    reached = metrics.accuracy >= min_accuracy
    relation = "reaches" if reached else "is below"
    sentence = f"accuracy {metrics.accuracy:.4f} {relation} min_accuracy {min_accuracy:g}"
    checks = [(reached, sentence if min_accuracy else "no min_accuracy is set")]
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
    if not required:
        return True, f"{finding}; accepted because beat_largest_class of advanced is false"
    return False, f"{finding}: {remedy}, or set beat_largest_class of advanced to false to accept the model anyway"


def _check_deployed(deployed: Mapping[str, Any]) -> tuple[bool, str]:
    """Returns whether the model passes the comparison with the deployed one, and the reason."""
    version = f"the deployed version {deployed['version']}"
    if "error" in deployed:
        return True, f"{version} cannot be loaded ({deployed['error']})"
    relation = {
        "better": "it is significantly better than",
        "worse": "it is significantly worse than",
        "no different": "it does not differ significantly from",
    }[deployed["verdict"]]
    counts = f"images that only the new model gets right {deployed['better']}, only the deployed one {deployed['worse']}"
    sentence = f"{relation} {version}, accuracy {deployed['accuracy']:.4f}: {counts} (p = {deployed['p_value']:.2g})"
    return deployed["verdict"] != "worse", sentence


def most_confident(predictions: Answers, most: int) -> npt.NDArray[np.intp]:
    """Finds the most confident mistakes.

    Args:
        predictions: the predictions.
        most: maximum number of mistakes.

    Returns:
        Their positions in `predictions`, by descending confidence.
    """
    wrong = np.flatnonzero(~predictions.correct)
    return wrong[np.argsort(-predictions.scores[wrong], kind="stable")][:most]


def of_pair(predictions: Answers, labels: list[str], pair: Mapping[str, Any]) -> npt.NDArray[np.intp]:
    """Finds images of one class that are predicted as another.

    Args:
        predictions: the predictions.
        labels: class names, by class index.
        pair: label and prediction, as in `measures.confused_pairs`.

    Returns:
        At most `MISTAKES_A_PAIR` positions in `predictions`, by descending confidence.
    """
    true, predicted = labels.index(pair["label"]), labels.index(pair["prediction"])
    places = np.flatnonzero((predictions.labels == true) & (predictions.predicted == predicted))
    return places[np.argsort(-predictions.scores[places], kind="stable")][:MISTAKES_A_PAIR]


def sampled(predictions: Answers) -> list[dict[str, Any]]:
    """Samples predictions at even distances.

    Args:
        predictions: the predictions.

    Returns:
        At most `ANSWERS_KEPT` rows of name and probabilities.
    """
    chosen = np.unique(np.linspace(0, len(predictions.names) - 1, ANSWERS_KEPT).astype(int))
    return [{"name": predictions.names[at], "probabilities": predictions.probabilities[at].tolist()} for at in chosen]


def _deployed_version(deploy_to: str, scratch: Path) -> Version | None:
    """Returns the newest version of the repository `deploy_to`, copied to `scratch` from a bucket; None if there is none."""
    if deploy_to in (values.NOWHERE, values.KSERVE):
        return None
    newest = publish.repository_at(deploy_to).versions()[-1:]
    return newest[0].download(scratch) if newest else None


def _mistakes(
    predictions: Answers, labels: list[str], images: RandomAccessRecords, places: npt.NDArray[np.intp]
) -> list[pages.Mistake]:
    mistakes = []
    for at in places.tolist():
        name, encoded, _ = example.decode_example(images.read(at))
        true, predicted = labels[predictions.labels[at]], labels[predictions.predicted[at]]
        mistakes.append(pages.Mistake(thumbnails.EncodedImage(name, encoded), true, predicted, float(predictions.scores[at])))
    return mistakes


def _classify_uri(classifier: Classifier, uri: str) -> dict[str, Any]:
    (prediction,) = classifier.classify([reading.read_image(uri, "test_image_uri")])
    if isinstance(prediction, Rejected):
        raise InputError("test_image_uri must name an image", f"{uri} ({prediction})", "Give a JPEG or a PNG.")
    return {"uri": uri, "prediction": prediction.label, "score": prediction.score}
