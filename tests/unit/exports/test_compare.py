"""Decides whether an exported file may be used, by the paired test of the gate."""

import numpy as np
import pytest

from kfp_vision.evaluation.metrics import Predictions
from kfp_vision.exports import compare
from kfp_vision.exports.formats import FORMATS

IMAGES = 40


def one_hot(predicted):
    return np.eye(2, dtype=np.float32)[np.asarray(predicted)]


def held_out(wrong=2):
    """The model is wrong on the first `wrong` of 40 images of class 0."""
    own = one_hot([int(number < wrong) for number in range(IMAGES)])
    names = [f"{number}.jpg" for number in range(IMAGES)]
    sides = np.full(IMAGES, 100)
    return compare.HeldOut(Predictions(names, np.zeros(IMAGES, int), own, sides), None, own, 12.0)


def judge(predicted, form="litert_int8", floats=("SQUARE",)):
    return compare.judge(FORMATS[form], 1000, compare.Scores(one_hot(predicted), 3.5, list(floats)), held_out())


def test_a_file_that_answers_alike_is_kept():
    row = judge([1, 1] + [0] * 38)
    assert row == compare.Comparison(
        "litert_int8",
        True,
        "accuracy 0.9500 does not differ significantly from the model's 0.9500: images that only it gets right 0, only the "
        "model 0 (p = 1)",
        1000,
        0.95,
        3.5,
        0.0,
        0,
        0,
        1.0,
        ["SQUARE"],
    )


def test_a_file_that_loses_by_chance_is_kept():
    row = judge([1, 1] + [1] * 5 + [0] * 33)  # 0 against 5: p = 2 / 2**5
    assert (row.accepted, row.better, row.worse, row.p_value) == (True, 0, 5, 0.0625)
    assert row.largest_difference == 1.0


def test_a_file_that_loses_beyond_chance_is_refused():
    row = judge([1, 1] + [1] * 6 + [0] * 32)  # 0 against 6: p = 2 / 2**6
    assert not row.accepted
    assert row.reason == (
        "accuracy 0.8000 loses beyond chance against the model's 0.9500: images that only it gets right 0, only the model 6 "
        "(p = 0.031)"
    )


@pytest.mark.parametrize(
    ("probabilities", "shape"), [(np.full((IMAGES, 2), np.nan), "40x2 for 40x2"), (np.zeros((IMAGES, 3)), "40x3 for 40x2")]
)
def test_a_file_that_gives_no_probabilities_is_refused(probabilities, shape):
    row = compare.judge(FORMATS["onnx"], 1000, compare.Scores(probabilities.astype(np.float32), 3.5, []), held_out())
    assert (row.accepted, row.reason) == (False, f"does not give finite probabilities ({shape})")


def test_operations_in_float32_are_named_of_int8_only():
    assert judge([0] * IMAGES, form="litert").float_operations == ()
