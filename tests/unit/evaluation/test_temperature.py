"""The temperature that makes scores mean what they say, on answers whose certainty is known."""

import numpy as np
import pytest
from scipy.special import expit, softmax

from kfp_vision.evaluation.temperature import fit_temperature, undo_temperature


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_finds_by_how_much_a_model_is_too_sure(temperature):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 4))
    labels = np.array([rng.choice(4, p=row) for row in softmax(logits, axis=1)])  # so these logits are calibrated
    assert fit_temperature(temperature * logits, labels) == pytest.approx(temperature, rel=0.03)


@pytest.mark.parametrize("images", [30, 300])
def test_a_model_that_is_always_right_is_not_sure_of_everything(images):
    logits = np.tile([5.0, 0.0], (images, 1))
    found = fit_temperature(logits, np.zeros(images, int))
    assert softmax(logits / found, axis=1)[0, 0] == pytest.approx((images + 1) / (images + 2), abs=1e-4)


def test_a_model_that_knows_nothing_becomes_unsure():
    logits = np.random.default_rng(0).normal(0, 5, (3000, 3))
    scores = softmax(logits / fit_temperature(logits, np.arange(3000) % 3), axis=1)
    assert np.abs(scores - 1 / 3).max() < 0.2


def test_the_temperature_can_be_undone():
    logits = np.array([[900.0, 0.0, -3.0], [0.3, 0.1, -0.2], [-7.0, 9.0, 8.5]])
    np.testing.assert_allclose(undo_temperature(softmax(logits / 2.5, axis=1), 2.5), softmax(logits, axis=1), atol=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_finds_by_how_much_a_model_of_several_labels_is_too_sure(temperature):
    rng = np.random.default_rng(0)
    logits = rng.normal(-1, 2, (20_000, 4))
    labels = (rng.random(logits.shape) < expit(logits)).astype(np.float32)
    assert fit_temperature(temperature * logits, labels) == pytest.approx(temperature, rel=0.03)


def test_a_model_of_several_labels_that_is_always_right_is_not_sure_of_everything():
    truth = np.tile([1, 0], (50, 1)).astype(np.float32)
    found = fit_temperature(10 * truth - 5, truth)
    assert expit(5 / found) == pytest.approx(51 / 52, abs=1e-4)


def test_the_temperature_of_several_labels_can_be_undone():
    logits = np.array([[30.0, 0.0, -3.0], [0.3, -20.0, -0.2]])
    np.testing.assert_allclose(undo_temperature(expit(logits / 2.5), 2.5, several=True), expit(logits), atol=1e-12)
    assert undo_temperature(np.array([[0.0, 1.0]]), 2.0, several=True).tolist() == [[0, 1]]
