"""The figures of an evaluation, against ones worked out by hand."""

import math

import numpy as np
import pytest

from kfp_vision import evaluation

# Ten pictures of three classes. True:      a a a a b b b c c c
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
CALLED = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 2])


@pytest.fixture
def figures():
    probabilities = np.full((10, 3), 0.1)
    probabilities[np.arange(10), CALLED] = 0.8
    answers = evaluation.Answers([str(i) for i in range(10)], LABELS, probabilities)
    return evaluation.measured(answers, ["a", "b", "c"])


def test_accuracy_and_the_confusion_matrix(figures):
    assert figures["accuracy"] == 0.8
    assert figures["confusion_matrix"] == [[3, 1, 0], [0, 2, 1], [0, 0, 3]]


def test_precision_recall_and_f1_of_each_class(figures):
    a, b, c = figures["per_class"]
    assert (a["precision"], a["recall"], a["images"]) == (1, 0.75, 4)
    assert (b["precision"], b["recall"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (c["precision"], c["recall"], c["f1"]) == (0.75, 1, pytest.approx(6 / 7))
    assert figures["macro_recall"] == pytest.approx((0.75 + 2 / 3 + 1) / 3)


def test_the_roc_curve_is_finite_and_its_area_right(figures):
    roc = figures["roc"]
    assert all(
        math.isfinite(value) for name in ("false_positive_rate", "true_positive_rate", "thresholds") for value in roc[name]
    )
    # Thirty one-against-the-rest decisions, two scores: 8 of 10 right ones and 2 of 20 wrong ones score high.
    assert roc["area"] == pytest.approx(0.8 * 0.9 + 0.5 * (0.8 * 0.1 + 0.2 * 0.9))


def test_a_long_roc_curve_is_thinned():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1, 1, 1], 2000)
    roc = evaluation.roc_curve(evaluation.Answers([""] * 2000, rng.integers(0, 3, 2000), probabilities))
    assert len(roc["thresholds"]) <= evaluation.ROC_POINTS
    assert (roc["false_positive_rate"][0], roc["true_positive_rate"][-1]) == (0, 1)


def test_a_class_without_held_out_pictures_does_not_pull_the_means_down():
    answers = evaluation.Answers(["1", "2"], np.array([0, 1]), np.array([[0.9, 0.1, 0], [0.1, 0.9, 0]]))
    assert evaluation.measured(answers, ["a", "b", "absent"])["macro_f1"] == 1


@pytest.mark.parametrize(("accuracy", "accepted"), [(0.9, True), (0.8999, False)])
def test_the_verdict(accuracy, accepted):
    verdict = evaluation.judged(accuracy, 0.9)
    assert verdict["accepted"] is accepted
    assert verdict["reasons"] == [f"accuracy {accuracy:.4f} {'reaches' if accepted else 'is below'} min_accuracy 0.9"]
