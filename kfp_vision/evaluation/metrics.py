"""Computes classification metrics from true classes and predicted probabilities, with NumPy and scikit-learn."""

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

ROC_POINTS = 200
TOP_K = 5  # as in the ImageNet challenge; the field `top_5_accuracy` has its name from it
CALIBRATION_BINS = 15  # of equal width, as in Guo et al., 2017 (arXiv 1706.04599)
MAX_CONFUSED_PAIRS = 20
SIGNIFICANCE_LEVEL = 0.05  # significance level of all tests


@dataclass(frozen=True)
class Predictions:
    """A model's predictions for a set of labelled images.

    Attributes:
        names: names of the images, (n).
        labels: true class indices, (n,).
        probabilities: predicted probabilities, (n, classes).
        sides: shorter side of each image in pixels, (n,).
    """

    names: list[str]
    labels: npt.NDArray[np.integer[Any]]
    probabilities: npt.NDArray[np.floating[Any]]
    sides: npt.NDArray[np.integer[Any]]

    @property
    def predicted(self) -> npt.NDArray[np.intp]:
        """The most probable class indices, (n,)."""
        predicted: npt.NDArray[np.intp] = self.probabilities.argmax(1)
        return predicted

    @property
    def scores(self) -> npt.NDArray[np.floating[Any]]:
        """The probabilities of the predicted classes, (n,)."""
        scores: npt.NDArray[np.floating[Any]] = self.probabilities.max(1)
        return scores

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """True where the predicted class is the label, (n,)."""
        correct: npt.NDArray[np.bool_] = self.predicted == self.labels
        return correct


@dataclass(frozen=True)
class ClassificationMetrics:
    """The metrics of a classifier on one set of images; the fields are the keys of the evaluation file.

    Attributes:
        images: number of images.
        accuracy: share of the images that are classified correctly, 0 to 1.
        accuracy_interval: 95 % confidence interval of the accuracy (Wilson), lower and upper bound.
        top_5_accuracy: share of the images whose label is among the five most probable classes.
        macro_precision: mean over the classes that have images.
        macro_recall: mean over the classes that have images.
        macro_f1: mean over the classes that have images.
        weighted_precision: mean over the classes, weighted by their number of images.
        weighted_recall: mean over the classes, weighted by their number of images.
        weighted_f1: mean over the classes, weighted by their number of images.
        labels: class names, in the order of the matrix.
        confusion_matrix: counts; rows are true classes, columns are predictions.
        per_class: a row per class: label, precision, recall, f1, images.
        confused_pairs: see `confused_pairs`.
        roc: see `roc_curve`.
        calibration: see `calibration`.
        by_size: see `by_size`.
        largest_class: see `largest_class_test`.
    """

    images: int
    accuracy: float
    accuracy_interval: list[float]
    top_5_accuracy: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    weighted_precision: float
    weighted_recall: float
    weighted_f1: float
    labels: list[str]
    confusion_matrix: list[list[int]]
    per_class: list[dict[str, Any]]
    confused_pairs: list[dict[str, Any]]
    roc: dict[str, Any]
    calibration: dict[str, Any]
    by_size: list[dict[str, Any]]
    largest_class: dict[str, Any]

    @property
    def main(self) -> tuple[str, float]:
        """Name and value of the figure that is compared with `min_accuracy`."""
        return "accuracy", self.accuracy

    def as_dict(self) -> dict[str, Any]:
        """Returns the metrics by name, ready for JSON."""
        # Unlike dataclasses.asdict this does not copy a confusion matrix of a million cells one by one.
        return {field.name: getattr(self, field.name) for field in fields(self)}


def classification_metrics(predictions: Predictions, labels: list[str]) -> ClassificationMetrics:
    """Computes all metrics of a set of predictions.

    Args:
        predictions: the predictions; at least one.
        labels: class names, by class index.

    Returns:
        The metrics.

    Example:
        probabilities = np.array([[0.9, 0.1], [0.6, 0.4]])
        predictions = Predictions(["a.jpg", "b.jpg"], np.array([0, 1]), probabilities, np.array([480, 480]))
        classification_metrics(predictions, ["daisy", "rose"]).accuracy  # 0.5
    """
    from scipy import stats
    from sklearn import metrics

    numbers = list(range(len(labels)))
    matrix = metrics.confusion_matrix(predictions.labels, predictions.predicted, labels=numbers)
    columns = metrics.precision_recall_fscore_support(
        predictions.labels, predictions.predicted, labels=numbers, zero_division=0
    )
    per_class = [
        {"label": label, "precision": float(p), "recall": float(r), "f1": float(f), "images": int(n)}
        for label, p, r, f, n in zip(labels, *columns, strict=True)
    ]
    present = [row for row in per_class if row["images"]]  # the metrics of a class without images are undefined
    weights = [row["images"] for row in present]
    interval = stats.binomtest(int(predictions.correct.sum()), len(predictions.labels)).proportion_ci(method="wilson")

    def macro(name: str) -> float:
        return float(np.mean([row[name] for row in present]))

    def weighted(name: str) -> float:
        return float(np.average([row[name] for row in present], weights=weights))

    return ClassificationMetrics(
        images=len(predictions.labels),
        accuracy=float(np.mean(predictions.correct)),
        accuracy_interval=[float(interval.low), float(interval.high)],
        top_5_accuracy=top_k_accuracy(predictions, TOP_K),
        macro_precision=macro("precision"),
        macro_recall=macro("recall"),
        macro_f1=macro("f1"),
        weighted_precision=weighted("precision"),
        weighted_recall=weighted("recall"),
        weighted_f1=weighted("f1"),
        labels=labels,
        confusion_matrix=matrix.tolist(),
        per_class=per_class,
        confused_pairs=confused_pairs(matrix, labels),
        roc=roc_curve(predictions),
        calibration=calibration(predictions),
        by_size=by_size(predictions),
        largest_class=largest_class_test(predictions, labels),
    )


def top_k_accuracy(predictions: Predictions, k: int) -> float:
    """Computes the top-k accuracy.

    Args:
        predictions: the predictions.
        k: number of most probable classes that count as predicted.

    Returns:
        The share of the images whose label is among the `k` most probable classes, 0 to 1; of equally probable ones the first
        count, as in what a server answers.
    """
    probabilities, label = predictions.probabilities, predictions.labels[:, None]
    of_label = np.take_along_axis(probabilities, label, 1)
    is_before = np.arange(probabilities.shape[1]) < label
    ranks = ((probabilities > of_label) | ((probabilities == of_label) & is_before)).sum(1)
    return float(np.mean(ranks < k))


def confused_pairs(matrix: npt.NDArray[np.integer[Any]], labels: list[str]) -> list[dict[str, Any]]:
    """Lists the pairs of classes that are confused most often.

    Args:
        matrix: confusion matrix, (classes, classes); rows are true classes, columns are predictions.
        labels: class names, by class index.

    Returns:
        At most `MAX_CONFUSED_PAIRS` rows of label, prediction, images and share (of the label's images), the most frequent
        first.
    """
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_CONFUSED_PAIRS]
    pairs = [divmod(int(cell), len(labels)) for cell in order]
    return [
        {
            "label": labels[true],
            "prediction": labels[predicted],
            "images": int(wrong[true, predicted]),
            "share": float(wrong[true, predicted] / matrix[true].sum()),
        }
        for true, predicted in pairs
        if wrong[true, predicted]
    ]


def roc_curve(predictions: Predictions) -> dict[str, Any]:
    """Computes the micro-averaged one-vs-rest ROC curve of a set of predictions.

    Returns:
        false_positive_rate, true_positive_rate and thresholds, each at most `ROC_POINTS` finite values, and area, which is
        computed before thinning; see also `roc_of_pairs`.
    """
    return roc_of_pairs(np.eye(predictions.probabilities.shape[1])[predictions.labels], predictions.probabilities)


def roc_of_pairs(truth: npt.NDArray[Any], probabilities: npt.NDArray[np.floating[Any]]) -> dict[str, Any]:
    """Computes the ROC curve over all pairs of an image and a class.

    Args:
        truth: 1 where the image has the class, else 0, (n, classes).
        probabilities: (n, classes).

    Returns:
        See `roc_curve`. Without a pair of each kind, a rate is undefined: there are no points, and the area is None, since JSON
        has no other numbers than finite ones.
    """
    from sklearn import metrics

    if truth.min() == truth.max():
        return {"false_positive_rate": [], "true_positive_rate": [], "thresholds": [], "area": None}
    false_positive, true_positive, thresholds = metrics.roc_curve(truth.ravel(), probabilities.ravel())
    kept = np.unique(np.linspace(0, len(thresholds) - 1, min(ROC_POINTS, len(thresholds))).astype(int))
    return {
        "false_positive_rate": false_positive[kept].tolist(),
        "true_positive_rate": true_positive[kept].tolist(),
        "thresholds": np.minimum(thresholds[kept], 1.0).tolist(),  # scikit-learn's first threshold is infinite
        "area": float(metrics.auc(false_positive, true_positive)),
    }


def calibration(predictions: Predictions) -> dict[str, Any]:
    """Measures calibration: how well confidence matches accuracy (ECE, Guo et al., 2017).

    Returns:
        See `bin_scores`.
    """
    return bin_scores(predictions.scores, predictions.correct)


def bin_scores(scores: npt.NDArray[np.floating[Any]], correct: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Compares scores with how often they are right.

    Args:
        scores: 0 to 1, (n,).
        correct: (n,).

    Returns:
        expected_calibration_error, 0 to 1; and bins, those that hold images, each with low, high, images, score (their mean
        confidence) and accuracy.
    """
    bin_of = np.minimum((scores * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    bins = [
        {
            "low": number / CALIBRATION_BINS,
            "high": (number + 1) / CALIBRATION_BINS,
            "images": int((bin_of == number).sum()),
            "score": float(scores[bin_of == number].mean()),
            "accuracy": float(correct[bin_of == number].mean()),
        }
        for number in np.unique(bin_of).tolist()
    ]
    error = sum(one["images"] * abs(one["accuracy"] - one["score"]) for one in bins) / len(scores)
    return {"expected_calibration_error": error, "bins": bins}


def by_size(predictions: Predictions) -> list[dict[str, Any]]:
    """Computes the accuracy by the shorter side of the images.

    Returns:
        A row per octave that holds images: low and high (pixels, inclusive), images, accuracy.
    """
    return [
        {"low": low, "high": high, "images": int(chosen.sum()), "accuracy": float(predictions.correct[chosen].mean())}
        for low, high, chosen in octaves(predictions.sides)
    ]


def octaves(sides: npt.NDArray[np.integer[Any]]) -> list[tuple[int, int, npt.NDArray[np.bool_]]]:
    """Groups images by octaves of their shorter side.

    Args:
        sides: shorter side of each image in pixels, (n,).

    Returns:
        Lowest and highest side, inclusive, and which images are between, (n,), of each octave that holds any.
    """
    of_image = np.array([math.frexp(side)[1] - 1 for side in sides.tolist()])
    return [(1 << octave, (2 << octave) - 1, of_image == octave) for octave in np.unique(of_image).tolist()]


def largest_class_test(predictions: Predictions, labels: list[str]) -> dict[str, Any]:
    """Tests whether a model is better than always predicting the largest class (exact binomial test, one-sided).

    Two cases say nothing about the model and have verdicts of their own: only one class has images, and so few images that
    even if all were correct, it could be chance. An image with two labels counts once for each.

    Args:
        predictions: the predictions.
        labels: class names, by class index.

    Returns:
        label, the class with most images (the first of equals); share, its share of the images; p_value, the probability that
        a model which is correct on each image with probability `share` does at least as well; verdict: `beaten`,
        `not beaten`, `too few images` or `one class`.
    """
    from scipy import stats

    images, correct = len(predictions.labels), int(predictions.correct.sum())
    per_class = np.bincount(predictions.labels, minlength=len(labels))
    share = float(per_class.max() / images)
    p_value = float(stats.binomtest(correct, images, share, alternative="greater").pvalue)
    if share == 1:
        verdict = "one class"
    elif share**images >= SIGNIFICANCE_LEVEL:
        verdict = "too few images"
    else:
        verdict = "beaten" if p_value < SIGNIFICANCE_LEVEL else "not beaten"
    return {"label": labels[int(per_class.argmax())], "share": share, "p_value": p_value, "verdict": verdict}


def mcnemar_test(ours: npt.NDArray[np.bool_], theirs: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Tests whether two models differ significantly on the same images (McNemar's test, exact).

    Args:
        ours: True where the first model is correct, (n,).
        theirs: True where the second model is correct, (n,).

    Returns:
        better, number of images on which only the first is correct; worse, on which only the second is; p_value; verdict, of
        the first: `better`, `worse` or `no different`.
    """
    from scipy import stats

    better, worse = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    p_value = float(stats.binomtest(better, better + worse).pvalue) if better + worse else 1.0
    significant = p_value < SIGNIFICANCE_LEVEL
    verdict = ("better" if better > worse else "worse") if significant else "no different"
    return {"better": better, "worse": worse, "p_value": p_value, "verdict": verdict}
