"""What a set of answers says about a model: figures from true classes and probabilities, with NumPy and scikit-learn."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

ROC_POINTS = 200
TOP = 5  # a right name among so many counts as found, as ImageNet's contest counted
CALIBRATION_BINS = 15  # of equal width, as in Guo et al., 2017 (arXiv 1706.04599)
PAIRS_KEPT = 20
CHANCE = 0.05  # what would come by chance less often than this is taken for more than chance


@dataclass(frozen=True)
class Answers:
    """What a model said about each picture.

    Attributes:
        names: of the pictures, (n).
        labels: the true class numbers, int (n,).
        probabilities: float (n, classes).
        sides: the shorter side of each picture in pixels, int (n,).
    """

    names: list[str]
    labels: np.ndarray
    probabilities: np.ndarray
    sides: np.ndarray

    @property
    def predictions(self) -> np.ndarray:
        """The most probable class numbers, int (n,)."""
        return self.probabilities.argmax(1)

    @property
    def scores(self) -> np.ndarray:
        """The probabilities of the predictions, float (n,)."""
        return self.probabilities.max(1)

    @property
    def right(self) -> np.ndarray:
        """Whether each prediction is right, bool (n,)."""
        return self.predictions == self.labels


def measured(answers: Answers, labels: list[str]) -> dict[str, Any]:
    """All figures of a set of answers.

    Returns:
        images; accuracy, and accuracy_interval, in which it lies with 95 % certainty for pictures like these (Wilson);
        top_5_accuracy; macro_ and weighted_ precision, recall and f1; labels; confusion_matrix (rows: true label, columns:
        prediction); per_class rows of label, precision, recall, f1, images; confused_pairs; roc, micro-averaged, one class
        against the rest; calibration; by_size; largest_class, see `beside_largest_class`.
    """
    from scipy import stats
    from sklearn import metrics

    numbers = list(range(len(labels)))
    matrix = metrics.confusion_matrix(answers.labels, answers.predictions, labels=numbers)
    columns = metrics.precision_recall_fscore_support(answers.labels, answers.predictions, labels=numbers, zero_division=0)
    per_class = [
        {"label": label, "precision": float(p), "recall": float(r), "f1": float(f), "images": int(n)}
        for label, p, r, f, n in zip(labels, *columns, strict=True)
    ]
    present = [row for row in per_class if row["images"]]  # a class without held-out pictures says nothing
    weights = [row["images"] for row in present]
    interval = stats.binomtest(int(answers.right.sum()), len(answers.labels)).proportion_ci(method="wilson")
    names = ("precision", "recall", "f1")
    return {
        "images": len(answers.labels),
        "accuracy": float(np.mean(answers.right)),
        "accuracy_interval": [float(interval.low), float(interval.high)],
        f"top_{TOP}_accuracy": top_accuracy(answers, TOP),
        **{f"macro_{name}": float(np.mean([row[name] for row in present])) for name in names},
        **{f"weighted_{name}": float(np.average([row[name] for row in present], weights=weights)) for name in names},
        "labels": labels,
        "confusion_matrix": matrix.tolist(),
        "per_class": per_class,
        "confused_pairs": confused_pairs(matrix, labels),
        "roc": roc_curve(answers),
        "calibration": calibration(answers),
        "by_size": by_size(answers),
        "largest_class": beside_largest_class(answers, labels),
    }


def top_accuracy(answers: Answers, most: int) -> float:
    """The share of pictures whose right name is among the `most` likeliest."""
    own = np.take_along_axis(answers.probabilities, answers.labels[:, None], 1)
    return float(np.mean((answers.probabilities > own).sum(1) < most))


def confused_pairs(matrix: np.ndarray, labels: list[str]) -> list[dict[str, Any]]:
    """Which class is most often taken for which, the most frequent first: label, prediction, images, share of the label's."""
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS_KEPT]
    pairs = [divmod(int(place), len(labels)) for place in order]
    return [
        {
            "label": labels[true],
            "prediction": labels[said],
            "images": int(wrong[true, said]),
            "share": float(wrong[true, said] / matrix[true].sum()),
        }
        for true, said in pairs
        if wrong[true, said]
    ]


def roc_curve(answers: Answers) -> dict[str, Any]:
    """The ROC curve of all one-against-the-rest decisions together, thinned to at most `ROC_POINTS` points, all finite."""
    from sklearn import metrics

    truth = np.eye(answers.probabilities.shape[1])[answers.labels]
    false_positive, true_positive, thresholds = metrics.roc_curve(truth.ravel(), answers.probabilities.ravel())
    kept = np.unique(np.linspace(0, len(thresholds) - 1, min(ROC_POINTS, len(thresholds))).astype(int))
    return {
        "false_positive_rate": false_positive[kept].tolist(),
        "true_positive_rate": true_positive[kept].tolist(),
        "thresholds": np.minimum(thresholds[kept], 1.0).tolist(),  # the first is infinite
        "area": float(metrics.auc(false_positive, true_positive)),
    }


def calibration(answers: Answers) -> dict[str, Any]:
    """How far the model is as sure as it is right.

    Returns:
        expected_calibration_error, the mean distance of the two over all pictures; bins of the score that hold any, each with
        low, high, images, score (their mean) and accuracy.
    """
    scores, right = answers.scores, answers.right
    places = np.minimum((scores * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    bins = [
        {
            "low": place / CALIBRATION_BINS,
            "high": (place + 1) / CALIBRATION_BINS,
            "images": int((places == place).sum()),
            "score": float(scores[places == place].mean()),
            "accuracy": float(right[places == place].mean()),
        }
        for place in np.unique(places).tolist()
    ]
    error = sum(one["images"] * abs(one["accuracy"] - one["score"]) for one in bins) / len(scores)
    return {"expected_calibration_error": error, "bins": bins}


def by_size(answers: Answers) -> list[dict[str, Any]]:
    """Accuracy by the shorter side in pixels, an octave a row: low and high, both included, images, accuracy."""
    octaves = np.array([math.frexp(side)[1] - 1 for side in answers.sides.tolist()])
    return [
        {
            "low": 1 << octave,
            "high": (2 << octave) - 1,
            "images": int((octaves == octave).sum()),
            "accuracy": float(answers.right[octaves == octave].mean()),
        }
        for octave in np.unique(octaves).tolist()
    ]


def beside_largest_class(answers: Answers, labels: list[str]) -> dict[str, Any]:
    """Whether a model does better than always naming the largest class of these pictures: the binomial test, exact, one-sided.

    Where the largest class is all there is nothing does better, and of a few pictures even as many right answers may be chance:
    both are told apart from a model that could have done better. A picture that stands under two labels counts under each.

    Returns:
        label, of the classes with most of the pictures the first; share, of the pictures that are of it; p_value, how often a
        model that names each picture rightly with that probability does as well; verdict: beaten, not beaten, too few images
        or one class.
    """
    from scipy import stats

    images, right = len(answers.labels), int(answers.right.sum())
    of_each = np.bincount(answers.labels, minlength=len(labels))
    share = float(of_each.max() / images)
    p_value = float(stats.binomtest(right, images, share, alternative="greater").pvalue)
    if share == 1:
        verdict = "one class"
    elif share**images >= CHANCE:
        verdict = "too few images"
    else:
        verdict = "beaten" if p_value < CHANCE else "not beaten"
    return {"label": labels[int(of_each.argmax())], "share": share, "p_value": p_value, "verdict": verdict}


def difference(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """Whether one model is better than another on the same pictures, or only seems so: McNemar's test, exact.

    Args:
        ours, theirs: whether each picture was called by its right name, bool (n,), by the one and the other.

    Returns:
        better, pictures that only the one names rightly; worse, those that only the other does; p_value, how often so
        unequal numbers come by chance alone; verdict: better, worse, or no difference that chance does not explain.
    """
    from scipy import stats

    better, worse = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    p_value = float(stats.binomtest(better, better + worse).pvalue) if better + worse else 1.0
    beyond_chance = p_value < CHANCE
    verdict = ("better" if better > worse else "worse") if beyond_chance else "no different"
    return {"better": better, "worse": worse, "p_value": p_value, "verdict": verdict}
