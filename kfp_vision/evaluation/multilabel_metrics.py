"""Computes metrics of a classifier whose images have several labels or none, from true labels and probabilities."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from kfp_vision.evaluation import metrics
from kfp_vision.evaluation.metrics import SIGNIFICANCE_LEVEL

DRAWS = 1000  # of a bootstrap, and of a permutation test
DRAWS_AT_A_TIME = 50  # which bounds the memory: 4 MB for each ten thousand images
MAX_DRAWN_IMAGES = 10_000  # of more, as many are taken at even distances: the interval is wide enough, and takes seconds
SEED = 0  # of the draws
CURVE_POINTS = 100  # of a label's precision-recall curve

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating[Any]]
Doubles = npt.NDArray[np.float64]
Draw = Callable[[Bools, npt.NDArray[np.intp]], tuple[npt.NDArray[Any], Doubles]]


@dataclass(frozen=True)
class MultilabelPredictions:
    """A model's predictions for a set of images with any number of labels.

    Attributes:
        names: names of the images, (n).
        truth: which labels each image has, (n, classes).
        probabilities: predicted probabilities, (n, classes).
        thresholds: the probability from which on an image is named a label, (classes,).
        sides: shorter side of each image in pixels, (n,).
    """

    names: list[str]
    truth: Bools
    probabilities: Floats
    thresholds: Floats
    sides: npt.NDArray[np.integer[Any]]

    @property
    def named(self) -> Bools:
        """Which labels the model names on each image, (n, classes)."""
        named: Bools = self.probabilities >= self.thresholds
        return named

    @property
    def correct(self) -> Bools:
        """True where the named labels are exactly those of the image, (n,)."""
        correct: Bools = (self.named == self.truth).all(1)
        return correct


@dataclass(frozen=True)
class MultilabelMetrics:
    """The metrics of a classifier on images with several labels; the fields are the keys of the evaluation file.

    Attributes:
        images: number of images.
        mean_average_precision: mean of the labels' average precision, over the labels that an image has, 0 to 1.
        mean_average_precision_interval: 95 % confidence interval of it (bootstrap over the images), lower and upper bound.
        micro_precision: over all pairs of an image and a named label.
        micro_recall: over all pairs of an image and a label that it has.
        micro_f1: harmonic mean of the two.
        macro_precision: mean over the labels that an image has.
        macro_recall: mean over the labels that an image has.
        macro_f1: mean over the labels that an image has.
        exact_match_ratio: share of the images whose named labels are exactly theirs.
        labels: class names, by class index.
        per_label: a row per label: label, threshold, precision, recall, f1, average_precision (None without images), images
            (that have it), named (images on which it is named), and curve: precision and recall, at most `CURVE_POINTS`.
        roc: micro-averaged, see `metrics.roc_curve`.
        calibration: over all pairs of an image and a label, see `metrics.bin_scores`; `images` counts pairs.
        by_size: a row per octave of the shorter side: low and high (pixels, inclusive), images, micro_f1.
        chance: see `permutation_test`.
    """

    images: int
    mean_average_precision: float
    mean_average_precision_interval: list[float]
    micro_precision: float
    micro_recall: float
    micro_f1: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    exact_match_ratio: float
    labels: list[str]
    per_label: list[dict[str, Any]]
    roc: dict[str, Any]
    calibration: dict[str, Any]
    by_size: list[dict[str, Any]]
    chance: dict[str, Any]

    @property
    def main(self) -> tuple[str, float]:
        """Name and value of the figure that is compared with `min_accuracy`."""
        return "mean average precision", self.mean_average_precision

    def as_dict(self) -> dict[str, Any]:
        """Returns the metrics by name, ready for JSON."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def multilabel_metrics(predictions: MultilabelPredictions, labels: list[str]) -> MultilabelMetrics:
    """Computes all metrics of a set of predictions.

    Args:
        predictions: the predictions; at least one image must have a label.
        labels: class names, by class index.

    Returns:
        The metrics.

    Example:
        truth, probabilities = np.array([[True, False], [True, True]]), np.array([[0.9, 0.1], [0.8, 0.4]])
        predictions = MultilabelPredictions(["a.jpg", "b.jpg"], truth, probabilities, np.full(2, 0.5), np.array([480, 480]))
        multilabel_metrics(predictions, ["daisy", "rose"]).exact_match_ratio  # 0.5
    """
    from sklearn.metrics import precision_recall_fscore_support

    truth, named, probabilities = predictions.truth, predictions.named, predictions.probabilities
    columns = precision_recall_fscore_support(truth, named, average=None, zero_division=0)
    averages = average_precisions(truth, probabilities)
    per_label = [
        {
            "label": label,
            "threshold": float(predictions.thresholds[number]),
            "precision": float(columns[0][number]),
            "recall": float(columns[1][number]),
            "f1": float(columns[2][number]),
            "average_precision": None if np.isnan(averages[number]) else float(averages[number]),
            "images": int(truth[:, number].sum()),
            "named": int(named[:, number].sum()),
            "curve": precision_recall_curve(truth[:, number], probabilities[:, number]),
        }
        for number, label in enumerate(labels)
    ]
    present = [row for row in per_label if row["images"]]  # the metrics of a label without images are undefined
    micro = dict(zip(("precision", "recall", "f1"), _micro(truth, named), strict=True))
    bounds = np.quantile(bootstrap(truth, probabilities)[0], (SIGNIFICANCE_LEVEL / 2, 1 - SIGNIFICANCE_LEVEL / 2))
    return MultilabelMetrics(
        images=len(truth),
        mean_average_precision=mean_average_precision(truth, probabilities),
        mean_average_precision_interval=bounds.tolist(),
        **{f"micro_{name}": value for name, value in micro.items()},
        **{f"macro_{name}": float(np.mean([row[name] for row in present])) for name in micro},
        exact_match_ratio=float(predictions.correct.mean()),
        labels=labels,
        per_label=per_label,
        roc=metrics.roc_of_pairs(truth, probabilities),
        calibration=calibration(predictions),
        by_size=by_size(predictions),
        chance=permutation_test(truth, probabilities),
    )


def _micro(truth: Bools, named: Bools) -> tuple[float, float, float]:
    """Returns precision, recall and F1 over all pairs; 0 where nothing is named, or no image has a label."""
    right, all_named, all_true = int((truth & named).sum()), int(named.sum()), int(truth.sum())
    return right / max(all_named, 1), right / max(all_true, 1), 2 * right / max(all_named + all_true, 1)


def average_precisions(truth: Bools, scores: Floats) -> Doubles:
    """Computes the average precision of each label: the mean of the precisions at its images, ranked by their scores.

    Args:
        truth: which labels each image has, (n, classes).
        scores: probabilities or logits, (n, classes).

    Returns:
        (classes,), 0 to 1, as scikit-learn's `average_precision_score`; NaN for a label that no image has.
    """
    averages: Doubles = _drawn_average_precisions(truth, scores, partial(_permute, np.arange(len(truth))[None]))[0]
    return averages


def mean_average_precision(truth: Bools, scores: Floats) -> float:
    """Computes the mean of the average precisions, over the labels that an image has.

    Args:
        truth: which labels each image has, (n, classes).
        scores: probabilities or logits, (n, classes).

    Returns:
        0 to 1; NaN if no image has a label.
    """
    return float(_mean_of_present(average_precisions(truth, scores)[None])[0])


def _mean_of_present(averages: Doubles) -> Doubles:
    """Returns the mean of each row, over the labels that are not NaN; NaN for a row without any."""
    present = ~np.isnan(averages)
    counts = present.sum(1)
    means = np.full(len(averages), np.nan)
    np.divide(np.where(present, averages, 0).sum(1), counts, out=means, where=counts > 0)
    return means


def _drawn_average_precisions(truth: Bools, scores: Floats, draw: Draw) -> Doubles:
    """Returns the average precisions of some draws, (draws, classes); NaN for a label that no image of a draw has.

    scikit-learn computes the same, one draw and one label at a time, and sorts each time: minutes where this takes seconds.
    """
    columns = []
    for number in range(truth.shape[1]):
        order = np.argsort(-scores[:, number], kind="stable")
        ranked = scores[order, number]
        ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # images of equal scores are named together
        right, weights = draw(truth[:, number], order)
        found, named = np.cumsum(right, 1, dtype=np.float64)[:, ends], np.cumsum(weights, 1)[:, ends]
        gained = np.diff(found, axis=1, prepend=0) * found / np.maximum(named, 1e-12)
        total = found[:, -1]
        columns.append(np.divide(gained.sum(1), total, out=np.full(len(found), np.nan), where=total > 0))
    return np.stack(columns, 1)


def bootstrap(truth: Bools, *scores: Floats) -> list[Doubles]:
    """Computes mean average precisions of resampled images, the same ones for all models (paired bootstrap).

    Of more than `MAX_DRAWN_IMAGES` images, as many at even distances are used.

    Args:
        truth: which labels each image has, (n, classes).
        *scores: of each model, (n, classes).

    Returns:
        Of each model, (draws,); draws without any label are left out.
    """
    chosen = _evenly_chosen(len(truth))
    truth, chance = truth[chosen], np.random.default_rng(SEED)
    drawn: list[list[Doubles]] = [[] for _ in scores]
    for _ in range(DRAWS // DRAWS_AT_A_TIME):
        often = chance.multinomial(len(truth), np.full(len(truth), 1 / len(truth)), DRAWS_AT_A_TIME).astype(np.float64)
        resample = partial(_resample, often)
        for means, model in zip(drawn, scores, strict=True):
            means.append(_mean_of_present(_drawn_average_precisions(truth, model[chosen], resample)))
    together = [np.concatenate(means) for means in drawn]
    return [means[~np.isnan(means)] for means in together]  # the same draws of all models: their labels decide


def _resample(often: Doubles, right: Bools, order: npt.NDArray[np.intp]) -> tuple[Doubles, Doubles]:
    """Weights ranked images by how often they were drawn, (draws, n)."""
    weights = often[:, order]
    return weights * right[order], weights


def _permute(permutations: npt.NDArray[np.intp], right: Bools, order: npt.NDArray[np.intp]) -> tuple[Bools, Doubles]:
    """Gives ranked images the labels of others, (draws, n)."""
    return right[permutations[:, order]], np.ones((1, len(order)))


def _evenly_chosen(images: int) -> npt.NDArray[np.intp]:
    return np.unique(np.linspace(0, images - 1, MAX_DRAWN_IMAGES).astype(int))


def compare(truth: Bools, ours: Floats, theirs: Floats) -> dict[str, Any]:
    """Tests whether two models differ significantly on the same images (paired bootstrap of the mean average precision).

    Args:
        truth: which labels each image has, (n, classes).
        ours: scores of the first model, (n, classes).
        theirs: scores of the second model, (n, classes).

    Returns:
        mean_average_precision, of the second model; difference, by which the first is better; interval, the 95 % confidence
        interval of that; draws, the number of resamples; verdict, of the first: `better`, `worse` or `no different`.
    """
    reached = [mean_average_precision(truth, scores) for scores in (ours, theirs)]
    first, second = bootstrap(truth, ours, theirs)
    low, high = np.quantile(first - second, (SIGNIFICANCE_LEVEL / 2, 1 - SIGNIFICANCE_LEVEL / 2)).tolist()
    verdict = "better" if low > 0 else "worse" if high < 0 else "no different"
    return {
        "mean_average_precision": reached[1],
        "difference": reached[0] - reached[1],
        "interval": [low, high],
        "draws": len(first),
        "verdict": verdict,
    }


def permutation_test(truth: Bools, scores: Floats) -> dict[str, Any]:
    """Tests whether scores are better than those that know nothing of the image (permutation test, one-sided).

    Each draw gives the images the labels of others, all labels of an image together: how often each label occurs, and with
    which others, stays as it is. Of more than `MAX_DRAWN_IMAGES` images, as many at even distances are used.

    Args:
        truth: which labels each image has, (n, classes).
        scores: of the model, (n, classes).

    Returns:
        mean_average_precision, of the draws in the mean; p_value, the share of draws that do at least as well as the model, the
        model among them; draws; verdict: `beaten`, `not beaten`, `one set of labels` if all images have the same, or `too few
        images` if even the right labels could be chance.
    """
    chosen = _evenly_chosen(len(truth))
    truth, scores = truth[chosen], scores[chosen]
    chance = np.random.default_rng(SEED)
    reached, drawn, same = mean_average_precision(truth, scores), list[float](), 0
    for _ in range(DRAWS // DRAWS_AT_A_TIME):
        permutations = np.stack([chance.permutation(len(truth)) for _ in range(DRAWS_AT_A_TIME)])
        drawn += _mean_of_present(_drawn_average_precisions(truth, scores, partial(_permute, permutations))).tolist()
        same += sum(bool((truth[permutation] == truth).all()) for permutation in permutations)
    p_value = (1 + sum(value >= reached for value in drawn)) / (1 + DRAWS)
    if (truth == truth[0]).all():
        verdict = "one set of labels"
    elif (1 + same) / (1 + DRAWS) >= SIGNIFICANCE_LEVEL:
        verdict = "too few images"
    else:
        verdict = "beaten" if p_value < SIGNIFICANCE_LEVEL else "not beaten"
    return {"mean_average_precision": float(np.mean(drawn)), "p_value": p_value, "draws": DRAWS, "verdict": verdict}


def precision_recall_curve(truth: Bools, scores: Floats) -> dict[str, list[float]] | None:
    """Computes the precision-recall curve of a label.

    Args:
        truth: which images have the label, (n,).
        scores: of the label, (n,).

    Returns:
        precision and recall, at most `CURVE_POINTS` of each, by descending recall; None for a label that no image has.
    """
    from sklearn.metrics import precision_recall_curve as curve_of

    if not truth.any():
        return None
    precision, recall, _ = curve_of(truth, scores)
    kept = np.unique(np.linspace(0, len(recall) - 1, min(CURVE_POINTS, len(recall))).astype(int))
    return {"precision": precision[kept].tolist(), "recall": recall[kept].tolist()}


def calibration(predictions: MultilabelPredictions) -> dict[str, Any]:
    """Measures calibration over all pairs of an image and a label: how well probabilities match the share that has the label.

    Returns:
        See `metrics.bin_scores`.
    """
    return metrics.bin_scores(predictions.probabilities.ravel(), predictions.truth.ravel())


def by_size(predictions: MultilabelPredictions) -> list[dict[str, Any]]:
    """Computes micro F1 by the shorter side of the images.

    Returns:
        A row per octave that holds images: low and high (pixels, inclusive), images, micro_f1.
    """
    truth, named = predictions.truth, predictions.named
    return [
        {"low": low, "high": high, "images": int(chosen.sum()), "micro_f1": _micro(truth[chosen], named[chosen])[2]}
        for low, high, chosen in metrics.octaves(predictions.sides)
    ]
