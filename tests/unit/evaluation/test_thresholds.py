"""The threshold of each label has the highest F1 on the held-out images, or is one half for a stated reason."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from kfp_vision.evaluation.thresholds import FALLBACK, MIN_POSITIVES, choose_thresholds


def choose(truth, probabilities) -> float:
    (found,), _ = choose_thresholds(np.array(truth, bool)[:, None], np.array(probabilities)[:, None], ["daisy"])
    return found


def test_no_other_threshold_has_a_higher_f1():
    rng = np.random.default_rng(0)
    truth = rng.random((80, 3)) < 0.3
    probabilities = 1 / (1 + np.exp(2 - 2 * truth - rng.normal(size=truth.shape)))
    found, line = choose_thresholds(truth, probabilities, list("abc"))
    for number, threshold in enumerate(found):
        reached = f1_score(truth[:, number], probabilities[:, number] >= threshold)
        others = [f1_score(truth[:, number], probabilities[:, number] >= other) for other in probabilities[:, number]]
        assert reached == max(others)
    assert line == "chose the thresholds of 3 labels on 80 validation images, for the highest F1"


def test_it_lies_halfway_and_of_equal_ones_closest_to_one_half():
    assert choose([1] * 5 + [0] * 5, [0.9] * 5 + [0.7] * 5) == 0.8
    # Naming the first 5 images, or the first 14, which hold 8 of the 10 with the label: F1 is 2 / 3 either way.
    truth = [1] * 5 + [0] * 6 + [1] * 3 + [0] * 20 + [1] * 2
    assert choose(truth, [0.9] * 5 + [0.65] * 9 + [0.1] * 22) == pytest.approx(0.375)


def test_a_label_of_few_images_or_of_scores_that_tell_nothing_gets_one_half():
    few = [1] * (MIN_POSITIVES - 1) + [0] * 10
    assert choose(few, [0.9] * (MIN_POSITIVES - 1) + [0.1] * 10) == FALLBACK
    assert choose([0] * 10, np.linspace(0, 1, 10)) == FALLBACK
    assert choose([1] * 10, np.linspace(0, 1, 10)) == FALLBACK
    assert choose([1, 0] * 10, [0.3] * 20) == FALLBACK
    assert choose([0] * 10 + [1] * 10, np.linspace(1, 0, 20)) == FALLBACK  # best is to name it on every image
    truth = np.array([few, [1] * 5 + [0] * 9], bool).T
    _, line = choose_thresholds(truth, truth * 0.8, ["daisy", "rose"])
    assert line.endswith("; 0.5 for daisy, of which too few images are there, or whose scores tell nothing")


def test_probabilities_that_differ_in_the_fifth_digit_are_separated():
    found = choose([1] * 5 + [0] * 5, [0.999989] * 5 + [0.99998] * 5)
    assert 0.99998 < found <= 0.999989
