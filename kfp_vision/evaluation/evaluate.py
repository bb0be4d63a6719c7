"""Evaluates an exported model on held-out images, and decides whether it may be deployed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kfp_vision.core import json_text, values
from kfp_vision.core.advanced import Advanced
from kfp_vision.core.errors import InputError
from kfp_vision.dataset.images import Rejected
from kfp_vision.engines.choice import choose_serving_engine
from kfp_vision.engines.engine import FLOAT32_ENGINES
from kfp_vision.evaluation import gate, multilabel_metrics, scoring
from kfp_vision.evaluation.left_out import leave_classes_out
from kfp_vision.evaluation.metrics import TOP_K, ClassificationMetrics, Predictions, calibration, classification_metrics
from kfp_vision.evaluation.multilabel_metrics import MultilabelMetrics, MultilabelPredictions
from kfp_vision.evaluation.temperature import undo_temperature
from kfp_vision.prediction import explanation, overlay
from kfp_vision.prediction.classifier import Classifier
from kfp_vision.records import example
from kfp_vision.records.records_folder import RandomAccessRecords, RecordsInfo, choose_evaluation_records, verify_records
from kfp_vision.reports import pages, results, thumbnails
from kfp_vision.reports.formatting import plural
from kfp_vision.repository import publish
from kfp_vision.repository.version import HISTORY_FILE, Version, exported_version
from kfp_vision.storage import atomic, reading, unwritable, uris

AnyPredictions = Predictions | MultilabelPredictions
FALSE, MISSED = "false", "missed"  # kinds of wrong labels
MAX_MISTAKES = 24
MAX_PAIRS, MAX_MISTAKES_PER_PAIR = 4, 6
MAX_LEFT_OUT_IMAGES = 2000  # on which it is measured how well unknown images are told
MAX_SAMPLED_PREDICTIONS = 8  # check_serving compares the served model with them
# Shown in the Kubeflow UI, of images with one label and with several.
HEADLINE_METRICS = (
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
MULTILABEL_HEADLINE_METRICS = (
    "mean_average_precision",
    "micro_precision",
    "micro_recall",
    "micro_f1",
    "macro_precision",
    "macro_recall",
    "macro_f1",
    "exact_match_ratio",
    "images",
)


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        model_name: name of the model.
        model_fingerprint: hash of the exported model.
        network: name of the network.
        split: the evaluated split, `test` or `validation`.
        metrics: the metrics on that split.
        before_temperature: temperature of the model, and expected_calibration_error and bins without it, see
            `metrics.calibration`; None for a model that is not calibrated.
        unknown: how well the model tells images of a class that is left out, see `left_out`; None if it does not tell.
        deployed: comparison with the deployed model, see `gate.compare_with_deployed`; None without one.
        verdict: whether the model is accepted.
        test_picture: uri, prediction and score of the test image, of several labels prediction, labels and score; None without
            one.
    """

    model_name: str
    model_fingerprint: str
    network: str
    split: str
    metrics: ClassificationMetrics | MultilabelMetrics
    before_temperature: dict[str, Any] | None
    unknown: dict[str, Any] | None
    deployed: dict[str, Any] | None
    verdict: gate.Verdict
    test_picture: dict[str, Any] | None

    def as_dict(self) -> dict[str, Any]:
        """Returns the content of the evaluation file: one flat mapping, with the metrics among the other fields."""
        model = {name: getattr(self, name) for name in ("model_name", "model_fingerprint", "network", "split")}
        scores = {"before_temperature": self.before_temperature, "unknown": self.unknown}
        decision = {"deployed": self.deployed, "verdict": asdict(self.verdict), "test_picture": self.test_picture}
        return model | self.metrics.as_dict() | scores | decision

    @property
    def headline(self) -> dict[str, float]:
        """The figures that the Kubeflow UI shows, by name."""
        several = isinstance(self.metrics, MultilabelMetrics)
        return {name: getattr(self.metrics, name) for name in (MULTILABEL_HEADLINE_METRICS if several else HEADLINE_METRICS)}

    def draw(self, log_confusion_matrix: Callable[..., None], log_roc_curve: Callable[..., None]) -> dict[str, Any]:
        """Draws what the Kubeflow UI can draw of the metrics.

        Of several labels there is no confusion matrix: an image that lacks one label and has another too many would be a
        confusion of the two only if nothing else were on it. Without a matrix, the UI shows the ROC curve alone (its
        `ConfusionMatrixSection` returns nothing).

        Args:
            log_confusion_matrix: takes class names and counts, as KFP's `ClassificationMetrics` has it.
            log_roc_curve: takes false positive rates, true positive rates and thresholds, as KFP's has it.

        Returns:
            What was drawn: labels, confusion_matrix if there is one, and roc.
        """
        drawn: dict[str, Any] = {"labels": self.metrics.labels}
        if isinstance(self.metrics, ClassificationMetrics):
            log_confusion_matrix(self.metrics.labels, self.metrics.confusion_matrix)
            drawn["confusion_matrix"] = self.metrics.confusion_matrix
        roc = self.metrics.roc
        log_roc_curve(roc["false_positive_rate"], roc["true_positive_rate"], roc["thresholds"])
        return drawn | {"roc": roc}


@unwritable.in_one_line("evaluation")
def evaluate_classifier(
    model: Path,
    validation_records: Path,
    test_records: Path,
    criteria: gate.Criteria,
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
        InputError: there are no held-out images, the records are damaged, the model has diverged, or the test image cannot be
            read.

    Example:
        criteria = Criteria(min_accuracy=0.9, deploy_to="none", test_image_uri="", advanced={})
        files = {name: Path(name) for name in ("evaluation", "page", "verdict")}
        evaluate_classifier(Path("model"), Path("validation"), Path("test"), criteria, **files).metrics.accuracy
    """
    folder = choose_evaluation_records(validation_records, test_records)
    about = verify_records(folder)
    if not about.images:
        remedy = "Raise validation_ratio or test_ratio, or add images."
        raise InputError("there must be held-out images to evaluate on", f"none in {folder.name}", remedy)
    version = exported_version(model)
    _check_kind(version, about)
    classifier = Classifier(version, engine=choose_serving_engine(version))
    predictions, unknown = _predict(classifier, folder, version)
    metrics = _measure(predictions, version.labels)
    deployed = None
    advanced = Advanced.parse(criteria.advanced)
    if advanced.compare_with_deployed:
        with atomic.temporary_folder() as scratch:
            if newest := _deployed_version(criteria.deploy_to, scratch):
                deployed = gate.compare_with_deployed(predictions, version.labels, newest, folder)
    test_image = uris.from_field(criteria.test_image_uri)
    result = Evaluation(
        model_name=version.name,
        model_fingerprint=version.fingerprint,
        network=version.about["network"],
        split=about.split,
        metrics=metrics,
        before_temperature=_before_temperature(predictions, version.temperature),
        unknown=unknown,
        deployed=deployed,
        verdict=gate.decide(metrics, deployed, criteria.min_accuracy, beat_largest_class=advanced.beat_largest_class),
        test_picture=_classify_uri(classifier, test_image) if test_image else None,
    )
    _write(result, _sample_predictions(version, classifier, folder), evaluation, verdict)
    _write_page(page, result, predictions, classifier, folder, model)
    outcome = "accepted" if result.verdict.accepted else "not accepted"
    name, value = metrics.main
    reached = f"{name} {value:.4f} on {plural(metrics.images, f'{about.split} image', f'{about.split} images')}"
    results.announce(f"{outcome}, {reached}: {'; '.join(result.verdict.reasons)}")
    return result


def _check_kind(version: Version, about: RecordsInfo) -> None:
    if version.several != about.several:
        kinds = {False: "one label an image", True: "several labels an image"}
        found = f"a model of {kinds[version.several]} and records of {kinds[about.several]}"
        remedy = "Train on these records, or write them again with the model's field `labels`."
        raise InputError("model and records must have the same number of labels an image", found, remedy)


def _measure(predictions: AnyPredictions, labels: list[str]) -> ClassificationMetrics | MultilabelMetrics:
    if undefined := int((~np.isfinite(predictions.probabilities).all(1)).sum()):
        found = f"others for {undefined} of {len(predictions.probabilities)} images"
        remedy = "Train it again, with a smaller learning_rate: it has diverged."
        raise InputError("a model must give finite scores", found, remedy)
    if isinstance(predictions, Predictions):
        return classification_metrics(predictions, labels)
    if not predictions.truth.any():
        remedy = "Hold out images with labels, with validation_ratio or test_ratio."
        raise InputError("a held-out image must have a label", f"none on {len(predictions.truth)} images", remedy)
    return multilabel_metrics.multilabel_metrics(predictions, labels)


def _write(result: Evaluation, answers: list[dict[str, Any]], evaluation: Path, verdict: Path) -> None:
    content = result.as_dict()
    atomic.write_json(evaluation, content)
    baseline = "chance" if isinstance(result.metrics, MultilabelMetrics) else "largest_class"
    kept = {name: content[name] for name in ("model_name", "model_fingerprint", "verdict", baseline)}
    atomic.write_json(verdict, kept | {"answers": answers})


def _write_page(
    page: Path, result: Evaluation, predictions: AnyPredictions, classifier: Classifier, folder: Path, model: Path
) -> None:
    images = RandomAccessRecords(folder)
    shared: dict[str, Any] = {
        "title": f"{result.model_name}: evaluation",
        "evaluation": result.as_dict(),
        "history": json_text.parse((model / HISTORY_FILE).read_text()),
    }
    if isinstance(predictions, MultilabelPredictions):
        wrong = {kind: worst_labels(predictions, MAX_MISTAKES, missed=kind == MISSED) for kind in (FALSE, MISSED)}
        shown = {kind: _wrong_labels(predictions, classifier, images, places) for kind, places in wrong.items()}
        pages.write_multilabel_page(page, **shared, false=shown[FALSE], missed=shown[MISSED])
        return

    def show(places: npt.NDArray[np.intp]) -> list[pages.Mistake]:
        return _mistakes(predictions, classifier, images, places)

    labels, pairs = result.metrics.labels, shared["evaluation"]["confused_pairs"][:MAX_PAIRS]
    pages.write_evaluation_page(
        page,
        **shared,
        top=TOP_K,
        mistakes=show(most_confident_mistakes(predictions, MAX_MISTAKES)),
        pairs=[(pair, show(confused_images(predictions, labels, pair))) for pair in pairs],
    )


def worst_labels(predictions: MultilabelPredictions, most: int, *, missed: bool) -> list[tuple[int, int]]:
    """Finds the labels that are named though the image has them not, or missed though it has them.

    Args:
        predictions: the predictions.
        most: maximum number of them.
        missed: whether to find missed labels instead of false ones.

    Returns:
        Pairs of a position in `predictions` and a class index: false labels by descending probability, missed ones by
        ascending.
    """
    truth, named, probabilities = predictions.truth, predictions.named, predictions.probabilities
    images, classes = np.nonzero(truth & ~named if missed else named & ~truth)
    scores = probabilities[images, classes]
    order = np.argsort(scores if missed else -scores, kind="stable")[:most]
    return list(zip(images[order].tolist(), classes[order].tolist(), strict=True))


def most_confident_mistakes(predictions: Predictions, most: int) -> npt.NDArray[np.intp]:
    """Finds the most confident mistakes.

    Args:
        predictions: the predictions.
        most: maximum number of mistakes.

    Returns:
        Their positions in `predictions`, by descending confidence.
    """
    wrong = np.flatnonzero(~predictions.correct)
    return wrong[np.argsort(-predictions.scores[wrong], kind="stable")][:most]


def confused_images(predictions: Predictions, labels: list[str], pair: Mapping[str, Any]) -> npt.NDArray[np.intp]:
    """Finds images of one class that are predicted as another.

    Args:
        predictions: the predictions.
        labels: class names, by class index.
        pair: label and prediction, as in `metrics.confused_pairs`.

    Returns:
        At most `MAX_MISTAKES_PER_PAIR` positions in `predictions`, by descending confidence.
    """
    true, predicted = labels.index(pair["label"]), labels.index(pair["prediction"])
    places = np.flatnonzero((predictions.labels == true) & (predictions.predicted == predicted))
    return places[np.argsort(-predictions.scores[places], kind="stable")][:MAX_MISTAKES_PER_PAIR]


def _sample_predictions(version: Version, classifier: Classifier, folder: Path) -> list[dict[str, Any]]:
    """Classifies a few images, at even distances, in float32: what every engine that serves the version is compared with.

    Returns:
        At most `MAX_SAMPLED_PREDICTIONS` rows of name and probabilities.
    """
    records = RandomAccessRecords(folder)
    chosen = np.unique(np.linspace(0, len(records) - 1, MAX_SAMPLED_PREDICTIONS).astype(int))
    images = dict(example.decode_example(records.read(at))[:2] for at in chosen.tolist())
    if classifier.engine.name in FLOAT32_ENGINES:
        classifier = Classifier(version, engine=FLOAT32_ENGINES[classifier.engine.name])
    probabilities = classifier.probabilities(list(images.values())).tolist()
    return [{"name": name, "probabilities": row} for name, row in zip(images, probabilities, strict=True)]


def _predict(classifier: Classifier, folder: Path, version: Version) -> tuple[AnyPredictions, dict[str, Any] | None]:
    """Predicts all images, and measures on the first of them how well unknown ones are told; they are as good as shuffled.

    With several labels that is not measured: an image with the label that is left out mostly has others, which are known.
    """
    if version.several:
        return scoring.predict_several_labels(classifier.probabilities, folder, version.thresholds), None
    collected: list[npt.NDArray[np.float32]] = []

    def predict(encoded: Sequence[bytes]) -> npt.NDArray[np.float32]:
        probabilities, likeness = classifier.probabilities_and_likeness(encoded)
        if likeness is not None and sum(map(len, collected)) < MAX_LEFT_OUT_IMAGES:
            collected.append(likeness)
        return probabilities

    predictions = scoring.predict_records(predict, folder)
    if classifier.novelty is None:
        return predictions, None
    likeness = np.concatenate(collected)
    threshold = float(classifier.novelty.threshold)
    return predictions, leave_classes_out(likeness, predictions.labels[: len(likeness)], classifier.labels, threshold)


def _before_temperature(predictions: AnyPredictions, temperature: float) -> dict[str, Any] | None:
    if temperature == 1:
        return None
    several = isinstance(predictions, MultilabelPredictions)
    probabilities = undo_temperature(predictions.probabilities, temperature, several=several)
    if isinstance(predictions, MultilabelPredictions):
        return {"temperature": temperature, **multilabel_metrics.calibration(replace(predictions, probabilities=probabilities))}
    return {"temperature": temperature, **calibration(replace(predictions, probabilities=probabilities))}


def _deployed_version(deploy_to: str, scratch: Path) -> Version | None:
    """Returns the newest version of the repository `deploy_to`, copied to `scratch` from a bucket; None if there is none."""
    deploy_to = uris.from_field(deploy_to)
    if deploy_to in (values.NOWHERE, values.KSERVE):
        return None
    newest = publish.repository_at(deploy_to).versions()[-1:]
    return newest[0].download(scratch) if newest else None


def _mistakes(
    predictions: Predictions, classifier: Classifier, images: RandomAccessRecords, places: npt.NDArray[np.intp]
) -> list[pages.Mistake]:
    shown = [thumbnails.EncodedImage(*example.decode_example(images.read(at))[:2]) for at in places.tolist()]
    overlays = _overlays(classifier, shown, predictions.predicted[places].tolist())
    labels = classifier.labels
    return [
        pages.Mistake(image, labels[true], labels[predicted], float(score), laid_over)
        for image, true, predicted, score, laid_over in zip(
            shown,
            predictions.labels[places],
            predictions.predicted[places],
            predictions.scores[places],
            overlays,
            strict=True,
        )
    ]


def _wrong_labels(
    predictions: MultilabelPredictions, classifier: Classifier, images: RandomAccessRecords, pairs: list[tuple[int, int]]
) -> list[pages.WrongLabel]:
    """Returns images with a label that is false or missed, to show on the page."""
    shown = [thumbnails.EncodedImage(*example.decode_example(images.read(at))[:2]) for at, _ in pairs]
    overlays, labels = _overlays(classifier, shown, [number for _, number in pairs]), classifier.labels
    return [
        pages.WrongLabel(
            image,
            label=labels[number],
            score=float(predictions.probabilities[at, number]),
            threshold=float(predictions.thresholds[number]),
            true=[label for label, has in zip(labels, predictions.truth[at], strict=True) if has],
            overlay=laid_over,
        )
        for image, (at, number), laid_over in zip(shown, pairs, overlays, strict=True)
    ]


def _overlays(classifier: Classifier, shown: Sequence[thumbnails.EncodedImage], numbers: list[int]) -> list[bytes]:
    """Lays over each image the class activation map of a class, as large as a thumbnail; empty where there is none."""
    if not classifier.engine.has_maps:
        return [b""] * len(shown)
    explained = explanation.explain(classifier, [image.encoded for image in shown], numbers)
    return [
        b"" if isinstance(one, Rejected) else overlay.lay_over(image.encoded, one, thumbnails.THUMBNAIL_SIDE)[0]
        for image, one in zip(shown, explained, strict=True)
    ]


def _classify_uri(classifier: Classifier, uri: str) -> dict[str, Any]:
    (prediction,) = classifier.classify([reading.read_image(uri, "test_image_uri")])
    if isinstance(prediction, Rejected):
        raise InputError("test_image_uri must name an image", f"{uri} ({prediction})", "Give a JPEG or a PNG.")
    several = {"labels": prediction.labels} if prediction.several else {}
    return {"uri": uri, "prediction": prediction.label, "score": prediction.score, **several}
