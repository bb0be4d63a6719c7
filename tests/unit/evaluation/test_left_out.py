"""How well a model tells images of a class that it does not know, by hand."""

import numpy as np
import pytest

from kfp_vision.evaluation.left_out import leave_classes_out

NAMES = ["daisy", "rose", "tulip"]


def test_each_class_is_left_out_in_turn():
    labels = np.array([0, 0, 1, 1, 2])
    likeness = np.array([[0.9, 0.3, 0.1], [0.8, 0.1, 0.2], [0.1, 0.7, 0.6], [0.2, 0.9, 0.1], [0.1, 0.4, 0.8]])
    found = leave_classes_out(likeness, labels, NAMES, 0.85)
    assert (found["images"], found["kept"]) == (5, 0.4)
    # Without daisies: 0.3 and 0.2 against 0.7, 0.9 and 0.8. Without roses: 0.6 and 0.2 against 0.9, 0.8 and 0.8. Without
    # tulips: 0.4 against 0.9, 0.8, 0.7 and 0.9.
    assert [(row["label"], row["auroc"], row["false_positives"], row["images"]) for row in found["classes"]] == [
        ("daisy", 1, 0, 2),
        ("rose", 1, 0, 2),
        ("tulip", 1, 0, 1),
    ]
    likeness[4] = [0.75, 0.1, 0.95]  # a tulip that is more like a daisy than a rose is like a rose
    found = leave_classes_out(likeness, labels, NAMES, 0.85)
    tulip = found["classes"][2]
    assert (tulip["auroc"], tulip["false_positives"]) == (0.75, 1)
    assert found["auroc"] == pytest.approx((1 + 1 + 0.75) / 3) and found["false_positives"] == pytest.approx(1 / 3)


def test_classes_without_images_are_not_left_out():
    found = leave_classes_out(np.eye(3)[[0, 2, 2]], np.array([0, 2, 2]), NAMES, 0.5)
    assert [row["label"] for row in found["classes"]] == ["daisy", "tulip"]


def test_one_class_alone_cannot_be_left_out():
    assert leave_classes_out(np.eye(3)[[1, 1]], np.array([1, 1]), NAMES, 0.5) is None
