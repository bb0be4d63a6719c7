"""Compares the metrics with values computed by hand."""

import json
import math

import numpy as np
import pytest

from kfp_vision.evaluation import metrics

# Ten images of three classes; labels:     a a a a b b b c c c
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
CALLED = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 2])


@pytest.fixture
def figures():
    probabilities = np.full((10, 3), 0.1)
    probabilities[np.arange(10), CALLED] = 0.8
    return metrics.classification_metrics(answers_of(LABELS, probabilities), ["a", "b", "c"])


def answers_of(labels, probabilities, sides=None) -> metrics.Predictions:
    sides = [100] * len(labels) if sides is None else sides
    names = [str(number) for number in range(len(labels))]
    return metrics.Predictions(names, np.array(labels), np.array(probabilities), np.array(sides))


def test_accuracy_and_the_confusion_matrix(figures):
    assert figures.accuracy == 0.8
    assert figures.confusion_matrix == [[3, 1, 0], [0, 2, 1], [0, 0, 3]]


def test_precision_recall_and_f1_of_each_class(figures):
    a, b, c = figures.per_class
    assert (a["precision"], a["recall"], a["images"]) == (1, 0.75, 4)
    assert (b["precision"], b["recall"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (c["precision"], c["recall"], c["f1"]) == (0.75, 1, pytest.approx(6 / 7))
    assert figures.macro_recall == pytest.approx((0.75 + 2 / 3 + 1) / 3)


def test_the_metrics_are_written_under_their_names(figures):
    assert list(figures.as_dict()) == [
        *("images", "accuracy", "accuracy_interval", "top_5_accuracy", "macro_precision", "macro_recall", "macro_f1"),
        *("weighted_precision", "weighted_recall", "weighted_f1", "labels", "confusion_matrix", "per_class", "confused_pairs"),
        *("roc", "calibration", "by_size", "largest_class"),
    ]
    assert figures.as_dict()["accuracy"] == 0.8


def test_the_roc_curve_is_finite_and_its_area_correct(figures):
    roc = figures.roc
    assert all(
        math.isfinite(value) for name in ("false_positive_rate", "true_positive_rate", "thresholds") for value in roc[name]
    )
    # 30 one-vs-rest decisions with two scores: 8 of 10 positives and 2 of 20 negatives score high.
    assert roc["area"] == pytest.approx(0.8 * 0.9 + 0.5 * (0.8 * 0.1 + 0.2 * 0.9))


@pytest.mark.parametrize("truth", [np.ones((3, 2), bool), np.ones((1, 1)), np.zeros((2, 2), bool)])
def test_a_roc_curve_of_pairs_of_one_kind_has_no_points_and_is_json(truth):
    roc = metrics.roc_of_pairs(truth, np.linspace(0.1, 0.9, truth.size).reshape(truth.shape))
    text = '{"false_positive_rate": [], "true_positive_rate": [], "thresholds": [], "area": null}'
    assert json.dumps(roc, allow_nan=False) == text


def test_a_long_roc_curve_is_thinned():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1, 1, 1], 2000)
    roc = metrics.roc_curve(answers_of(rng.integers(0, 3, 2000), probabilities))
    assert len(roc["thresholds"]) <= metrics.ROC_POINTS
    assert (roc["false_positive_rate"][0], roc["true_positive_rate"][-1]) == (0, 1)


def test_classes_without_images_are_excluded_from_macro_means():
    answers = answers_of([0, 1], [[0.9, 0.1, 0], [0.1, 0.9, 0]])
    assert metrics.classification_metrics(answers, ["a", "b", "absent"]).macro_f1 == 1


def test_weighted_means_weight_every_image_equally(figures):
    assert figures.weighted_recall == pytest.approx(figures.accuracy)  # by definition
    assert figures.weighted_precision == pytest.approx((4 * 1 + 3 * 2 / 3 + 3 * 0.75) / 10)


def test_the_interval_of_the_accuracy(figures):
    # Wilson's interval for 8 of 10: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)
    z, p, n = 1.959964, 0.8, 10
    middle, width = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = [(middle - width) / (1 + z**2 / n), (middle + width) / (1 + z**2 / n)]
    assert figures.accuracy_interval == pytest.approx(expected, abs=1e-6)


def test_top_k_accuracy():
    answers = answers_of([3, 5], [[0.3, 0.25, 0.2, 0.15, 0.07, 0.03]] * 2)
    assert metrics.top_k_accuracy(answers, 5) == 0.5
    assert metrics.top_k_accuracy(answers, 4) == 0.5
    assert metrics.top_k_accuracy(answers, 3) == 0
    assert metrics.classification_metrics(answers, list("abcdef")).top_5_accuracy == 0.5


def test_of_equal_scores_the_first_count_as_in_the_answers_of_a_server():
    scores = np.random.default_rng(0).integers(0, 4, (200, 9)) / 4
    labels = np.random.default_rng(1).integers(0, 9, 200)
    answers = answers_of(labels.tolist(), scores.tolist())
    for k in (1, 3, 5, 9):
        best = [sorted(range(9), key=lambda number: -row[number])[:k] for row in scores]
        expected = np.mean([label in named for label, named in zip(labels, best, strict=True)])
        assert metrics.top_k_accuracy(answers, k) == pytest.approx(expected)
    assert metrics.top_k_accuracy(answers, 1) == pytest.approx(answers.correct.mean())


def test_a_model_that_names_one_class_with_certainty_has_no_label_among_its_best():
    certain = answers_of([7, 8, 9], [[1.0] + [0.0] * 9] * 3)
    assert metrics.top_k_accuracy(certain, 5) == 0


def test_confused_pairs(figures):
    assert figures.confused_pairs == [
        {"label": "a", "prediction": "b", "images": 1, "share": 0.25},
        {"label": "b", "prediction": "c", "images": 1, "share": pytest.approx(1 / 3)},
    ]


def test_calibration_by_hand():
    # Four images at 0.95, three correct; two at 0.55, both correct.
    sure, unsure = [0.95, 0.05], [0.55, 0.45]
    found = metrics.calibration(answers_of([0, 0, 0, 1, 0, 0], [sure] * 4 + [unsure] * 2))
    assert [(entry["images"], round(entry["score"], 2), entry["accuracy"]) for entry in found["bins"]] == [
        (2, 0.55, 1),
        (4, 0.95, 0.75),
    ]
    assert found["bins"][1]["low"] <= 0.95 < found["bins"][1]["high"]
    assert found["expected_calibration_error"] == pytest.approx((4 * 0.2 + 2 * 0.45) / 6)


def test_a_score_of_one_is_in_the_last_bin():
    (only,) = metrics.calibration(answers_of([0], [[1.0, 0.0]]))["bins"]
    assert (only["high"], only["accuracy"]) == (1, 1)


def test_accuracy_by_the_shorter_side():
    rows = metrics.by_size(answers_of([0, 0, 0], [[1, 0], [0, 1], [1, 0]], sides=[127, 64, 512]))
    assert rows == [
        {"low": 64, "high": 127, "images": 2, "accuracy": 0.5},
        {"low": 512, "high": 1023, "images": 1, "accuracy": 1.0},
    ]


@pytest.mark.parametrize(
    ("better", "worse", "p_value", "verdict"),
    [
        (0, 0, 1.0, "no different"),
        (9, 1, 22 / 1024, "better"),  # two sides of (1 + 10) / 2^10
        (1, 9, 22 / 1024, "worse"),
        (8, 2, 112 / 1024, "no different"),  # (1 + 10 + 45) / 2^10
    ],
)
def test_mcnemar_test(better, worse, p_value, verdict):
    ours = np.array([True] * better + [False] * worse + [True, False] * 50)
    theirs = np.array([False] * better + [True] * worse + [True, False] * 50)
    found = metrics.mcnemar_test(ours, theirs)
    assert (found["better"], found["worse"], found["verdict"]) == (better, worse, verdict)
    assert found["p_value"] == pytest.approx(p_value)


def chance(correct: int, images: int, share: float) -> float:
    """Returns the probability that at least `correct` of the images are correct, each with probability `share`."""
    return sum(math.comb(images, k) * share**k * (1 - share) ** (images - k) for k in range(correct, images + 1))


def predictions_with(labels: list[int], correct: int) -> metrics.Predictions:
    """Returns predictions that are correct for the first `correct` images, and the next of three classes for the others."""
    prediction = [label if position < correct else (label + 1) % 3 for position, label in enumerate(labels)]
    return answers_of(labels, np.eye(3)[prediction])


@pytest.mark.parametrize(
    ("labels", "correct", "label", "share", "verdict"),
    [
        ([0] * 4 + [1] * 3 + [2] * 3, 8, "a", 0.4, "beaten"),
        ([0] * 4 + [1] * 3 + [2] * 3, 7, "a", 0.4, "not beaten"),  # p = 1/18
        ([0] * 2 + [1] * 4 + [2] * 4, 7, "b", 0.4, "not beaten"),  # the first of equally large classes
        ([0] * 5 + [1] * 5 + [2] * 5, 5, "a", 1 / 3, "not beaten"),
        ([0] * 5 + [1] * 5 + [2] * 5, 0, "a", 1 / 3, "not beaten"),
        ([0, 1], 2, "a", 0.5, "too few images"),
        ([0, 0, 1, 1], 4, "a", 0.5, "too few images"),  # all correct has p = 1/16
        ([0, 0, 0, 1, 1], 5, "a", 0.6, "too few images"),
        ([0, 0, 1, 1, 2], 5, "a", 0.4, "beaten"),
        ([0], 1, "a", 1.0, "one class"),
        ([2] * 30, 30, "c", 1.0, "one class"),
        ([2] * 30, 29, "c", 1.0, "one class"),
    ],
)
def test_comparison_with_the_largest_class(labels, correct, label, share, verdict):
    found = metrics.largest_class_test(predictions_with(labels, correct), ["a", "b", "c"])
    p_value = pytest.approx(chance(correct, len(labels), share))
    assert found == {"label": label, "share": pytest.approx(share), "p_value": p_value, "verdict": verdict}


def test_the_metrics_include_the_largest_class(figures):
    assert figures.largest_class["label"] == "a"
    assert figures.largest_class["p_value"] == pytest.approx(0.0123, abs=5e-5)  # from a table of the binomial distribution
