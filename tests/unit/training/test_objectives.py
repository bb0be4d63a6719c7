"""The loss and the figures of images with several labels, compared with Keras and scikit-learn."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import average_precision_score, f1_score

from kfp_vision.training.objectives import OneLabel, SeveralLabels, choose_objective

CLASSES = 5
RNG = np.random.default_rng(0)
LABELS = (RNG.random((32, CLASSES)) < 0.4).astype(np.float32)
LOGITS = RNG.normal(0, 2, (32, CLASSES)).astype(np.float32)


def losses(smoothing: float = 0.0, weights: np.ndarray | None = None) -> np.ndarray:
    given = None if weights is None else tf.constant(weights, tf.float32)
    return SeveralLabels().losses(tf.constant(LABELS), tf.constant(LOGITS), smoothing, given).numpy()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_sum_of_the_binary_cross_entropies(smoothing):
    mean = keras.losses.binary_crossentropy(LABELS, LOGITS, from_logits=True, label_smoothing=smoothing)
    np.testing.assert_allclose(losses(smoothing), CLASSES * mean.numpy(), rtol=1e-5)


def test_a_weight_multiplies_the_loss_of_the_images_with_the_label():
    weights = np.array([3.0, 1.0, 1.0, 1.0, 1.0])
    has_first = LABELS[:, 0] == 1
    of_first = np.log1p(np.exp(-LOGITS[:, 0]))
    np.testing.assert_allclose((losses(weights=weights) - losses())[has_first], 2 * of_first[has_first], rtol=1e-4)
    np.testing.assert_allclose(losses(weights=weights)[~has_first], losses()[~has_first], rtol=1e-6)


def test_balanced_weights_give_images_with_and_without_a_label_the_same_weight():
    found = SeveralLabels().class_weights(np.array([25, 50, 0, 100]), 100)
    np.testing.assert_allclose(found, [3, 1, 1, 1])  # PyTorch's pos_weight; of no or of all images: 1


def test_the_training_figure_is_micro_f1_over_all_steps():
    objective = SeveralLabels()
    counts = [
        objective.counts(tf.constant(LABELS[part]), tf.constant(LOGITS[part])).numpy() for part in (slice(0, 8), slice(8, 32))
    ]
    expected = f1_score(LABELS, LOGITS >= 0, average="micro")
    assert objective.training_figure(counts, 16) == pytest.approx(expected)
    nothing = objective.counts(tf.zeros((4, CLASSES)), tf.fill((4, CLASSES), -1.0)).numpy()
    assert objective.training_figure([nothing], 4) == 1


def test_a_validation_gives_mean_average_precision():
    found = SeveralLabels().validate(tf.constant(LABELS), tf.constant(LOGITS))
    assert found["validation_mean_average_precision"] == pytest.approx(average_precision_score(LABELS, LOGITS))
    assert found["validation_loss"] == pytest.approx(losses().mean(), rel=1e-6)
    assert SeveralLabels().validate(tf.zeros((4, 2)), tf.zeros((4, 2)))["validation_mean_average_precision"] == 0


def test_images_of_one_label_keep_the_softmax():
    assert isinstance(choose_objective(False), OneLabel)
    assert isinstance(choose_objective(True), SeveralLabels)
