"""Metrics of images with several labels, compared with scikit-learn and with sets that can be counted by hand."""

import warnings

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from kfp_vision.evaluation import multilabel_metrics
from kfp_vision.evaluation.multilabel_metrics import MultilabelPredictions

LABELS = ["blue", "green", "red"]
# Three images with two, one and no label; green is named on one image too many, and red is missed.
TRUTH = np.array([[True, False, True], [False, True, False], [False, False, False]])
PROBABILITIES = np.array([[0.9, 0.1, 0.3], [0.2, 0.8, 0.1], [0.1, 0.7, 0.2]])


def predictions(truth=TRUTH, probabilities=PROBABILITIES, thresholds=(0.5, 0.6, 0.4), sides=(40, 60, 64)):
    names = [f"{number}.jpg" for number in range(len(truth))]
    return MultilabelPredictions(names, truth, probabilities, np.array(thresholds), np.array(sides))


def drawn(images: int, classes: int = 4, strength: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draws labels of decreasing frequency, and scores that know as much of them as the strength says; with ties."""
    rng = np.random.default_rng(seed)
    truth = rng.random((images, classes)) < np.linspace(0.5, 0.1, classes)
    return truth, np.round(1 / (1 + np.exp(-strength * (2 * truth - 1) - rng.normal(size=truth.shape))), 2)


def test_counts_of_three_images():
    found = multilabel_metrics.multilabel_metrics(predictions(), LABELS)
    assert found.exact_match_ratio == pytest.approx(1 / 3)
    assert [found.micro_precision, found.micro_recall, found.micro_f1] == pytest.approx([2 / 3, 2 / 3, 2 / 3])
    blue, green, red = found.per_label
    assert (blue["precision"], blue["recall"], blue["images"], blue["named"], blue["threshold"]) == (1, 1, 1, 1, 0.5)
    assert (green["precision"], green["recall"], green["named"]) == (0.5, 1, 2)
    assert (red["precision"], red["recall"], red["f1"], red["named"]) == (0, 0, 0, 0)
    assert found.macro_f1 == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert found.mean_average_precision == 1  # each label's own image has the highest score for it
    assert [(row["low"], row["high"], row["images"]) for row in found.by_size] == [(32, 63, 2), (64, 127, 1)]
    assert [row["micro_f1"] for row in found.by_size] == [pytest.approx(4 / 5), 0]


def test_figures_are_those_of_scikit_learn():
    truth, scores = drawn(300)
    found = multilabel_metrics.multilabel_metrics(predictions(truth, scores, [0.5, 0.4, 0.6, 0.3], [40] * 300), list("abcd"))
    named = scores >= [0.5, 0.4, 0.6, 0.3]
    assert found.mean_average_precision == pytest.approx(sklearn_metrics.average_precision_score(truth, scores))
    assert [row["average_precision"] for row in found.per_label] == pytest.approx(
        sklearn_metrics.average_precision_score(truth, scores, average=None).tolist()
    )
    for kind in ("micro", "macro"):
        assert getattr(found, f"{kind}_f1") == pytest.approx(sklearn_metrics.f1_score(truth, named, average=kind))
    assert found.exact_match_ratio == pytest.approx(sklearn_metrics.accuracy_score(truth, named))
    assert found.roc["area"] == pytest.approx(sklearn_metrics.roc_auc_score(truth, scores, average="micro"))
    low, high = found.mean_average_precision_interval
    assert low < found.mean_average_precision < high


def test_resampled_average_precisions_are_those_of_scikit_learn_with_weights():
    truth, scores = drawn(60)
    expected = [
        sklearn_metrics.average_precision_score(truth, scores, sample_weight=weights)
        for weights in np.random.default_rng(multilabel_metrics.SEED).multinomial(60, np.full(60, 1 / 60), 50)
    ]
    (found,) = multilabel_metrics.bootstrap(truth, scores)
    assert len(found) == multilabel_metrics.DRAWS
    np.testing.assert_allclose(found[:50], expected, rtol=1e-12)


def test_a_label_that_no_image_has_counts_in_no_mean():
    truth, scores = drawn(100)
    truth[:, 2] = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = multilabel_metrics.multilabel_metrics(predictions(truth, scores, [0.5] * 4, [40] * 100), list("abcd"))
    row = found.per_label[2]
    assert (row["images"], row["average_precision"], row["curve"]) == (0, None, None)
    others = [0, 1, 3]
    assert found.mean_average_precision == pytest.approx(
        sklearn_metrics.average_precision_score(truth[:, others], scores[:, others])
    )
    assert np.isnan(multilabel_metrics.mean_average_precision(np.zeros((3, 2), bool), np.zeros((3, 2))))


def test_a_model_is_compared_with_another_on_the_same_resampled_images():
    truth, good = drawn(400, strength=2.0)
    weak = drawn(400, strength=0.2)[1]
    better, worse = multilabel_metrics.compare(truth, good, weak), multilabel_metrics.compare(truth, weak, good)
    assert (better["verdict"], worse["verdict"]) == ("better", "worse")
    assert better["difference"] == pytest.approx(-worse["difference"])
    assert better["interval"] == pytest.approx([-worse["interval"][1], -worse["interval"][0]])
    assert better["interval"][0] < better["difference"] < better["interval"][1]
    same = multilabel_metrics.compare(truth, good, good)
    assert (same["verdict"], same["interval"]) == ("no different", [0, 0])


def test_models_of_equal_strength_rarely_differ_significantly():
    """In 95 of 100 draws the interval must hold 0, since both models know equally much; here 40 with other images each."""
    differing = 0
    for seed in range(40):
        truth, ours = drawn(80, classes=2, seed=seed)
        rng = np.random.default_rng(1000 + seed)
        theirs = 1 / (1 + np.exp(-(2 * truth - 1) - rng.normal(size=truth.shape)))
        differing += multilabel_metrics.compare(truth, ours, theirs)["verdict"] != "no different"
    assert differing <= 6  # more than 6 of 40 has a probability of 1 % at 5 %


def test_scores_that_know_nothing_are_not_better_than_chance():
    truth, scores = drawn(200, strength=1.0)
    beaten = multilabel_metrics.permutation_test(truth, scores)
    assert (beaten["verdict"], beaten["p_value"]) == ("beaten", 1 / (1 + multilabel_metrics.DRAWS))
    knows_nothing = multilabel_metrics.permutation_test(truth, drawn(200, strength=0.0, seed=5)[1])
    assert knows_nothing["verdict"] == "not beaten"
    # Ranks by chance reach about the frequency of each label.
    assert knows_nothing["mean_average_precision"] == pytest.approx(truth.mean(0).mean(), abs=0.05)
    frequencies = multilabel_metrics.permutation_test(truth, np.tile(truth.mean(0), (200, 1)))
    assert (frequencies["verdict"], frequencies["p_value"]) == ("not beaten", 1)


@pytest.mark.parametrize(
    ("truth", "verdict"),
    [
        (np.tile([True, False], (50, 1)), "one set of labels"),
        (np.array([[True, False], [False, True], [True, True]]), "too few images"),  # 1 of 6 orders is the right one
    ],
)
def test_images_that_cannot_tell_a_model_from_chance_say_so(truth, verdict):
    assert multilabel_metrics.permutation_test(truth, truth.astype(float))["verdict"] == verdict


def test_many_images_are_drawn_from_at_even_distances(monkeypatch):
    monkeypatch.setattr(multilabel_metrics, "MAX_DRAWN_IMAGES", 50)
    truth, scores = drawn(500)
    (found,) = multilabel_metrics.bootstrap(truth, scores)
    assert np.std(found) > 1.5 * np.std(_bootstrap_of_all(truth, scores))


def _bootstrap_of_all(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(2)
    chosen = (rng.integers(0, len(truth), len(truth)) for _ in range(100))
    return np.array([sklearn_metrics.average_precision_score(truth[rows], scores[rows]) for rows in chosen])


def test_calibration_is_over_all_pairs():
    found = multilabel_metrics.calibration(predictions())
    assert sum(one["images"] for one in found["bins"]) == TRUTH.size
    expected = abs(np.array([0.9, 0.8, 0.7]) - [1, 1, 0]).sum() + abs(0.3 - 1) + (0.1 * 3 + 0.2 * 2)
    assert found["expected_calibration_error"] == pytest.approx(expected / 9)
