"""What a training minimises and is judged by: one class for images of one label, one for images of several."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kfp_vision.core.frameworks import tf
from kfp_vision.evaluation.multilabel_metrics import mean_average_precision

HALF = 0.5  # probability from which on a label counts as named during the training, which has no thresholds yet
Weights = npt.NDArray[np.float64]


class Objective(Protocol):
    """The loss and the figures of a training.

    Attributes:
        figure: name of the training figure in the history.
        validation_figure: name of the figure that validations are compared by; higher is better.
    """

    figure: str
    validation_figure: str

    def losses(self, labels: tf.Tensor, logits: tf.Tensor, smoothing: float, weights: tf.Tensor | None) -> tf.Tensor:
        """Computes the loss of each image.

        Args:
            labels: as in `input_pipeline`.
            logits: float32 (batch, classes).
            smoothing: `label_smoothing` of advanced, 0 to 1.
            weights: of the classes, float32 (classes,); None for 1.

        Returns:
            float32 (batch,).
        """

    def counts(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Counts what the training figure is computed from; counts of several batches or devices add up.

        Args:
            labels: as in `input_pipeline`.
            logits: float32 (batch, classes).

        Returns:
            float32 (counts,).
        """

    def training_figure(self, counts: Sequence[npt.NDArray[np.float32]], batch_size: int) -> float:
        """Computes the training figure of some steps.

        Args:
            counts: of each step, as `counts` returns them.
            batch_size: images of a step.
        """

    def validate(self, labels: tf.Tensor, logits: tf.Tensor) -> dict[str, float]:
        """Computes `validation_loss` and the validation figure.

        Args:
            labels: as in `input_pipeline`, of all validation images.
            logits: float32 (images, classes).
        """

    def class_weights(self, counts: npt.NDArray[np.int64], images: int) -> Weights:
        """Computes the weights of the classes for `class_weights=balanced`.

        Args:
            counts: training images of each class, (classes,).
            images: number of training images.

        Returns:
            (classes,).
        """


class OneLabel:
    """Softmax cross-entropy, and the share of images classified correctly."""

    figure, validation_figure = "accuracy", "validation_accuracy"

    def losses(self, labels: tf.Tensor, logits: tf.Tensor, smoothing: float, weights: tf.Tensor | None) -> tf.Tensor:
        """See `Objective.losses`. The loss of an image is multiplied by the weight of its class."""
        classes = logits.shape[-1]
        truth = _one_hot(labels, classes)
        losses = tf.nn.softmax_cross_entropy_with_logits(truth * (1 - smoothing) + smoothing / classes, logits)
        return losses if weights is None else losses * tf.linalg.matvec(truth, weights)

    def counts(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Counts the images classified correctly, see `Objective.counts`."""
        truth = _one_hot(labels, logits.shape[-1])
        return tf.reduce_sum(tf.cast(tf.argmax(logits, 1) == tf.argmax(truth, 1), tf.float32))[None]

    def training_figure(self, counts: Sequence[npt.NDArray[np.float32]], batch_size: int) -> float:
        """See `Objective.training_figure`."""
        return float(np.mean([(hits / np.float32(batch_size)).item() for hits in counts]))

    def validate(self, labels: tf.Tensor, logits: tf.Tensor) -> dict[str, float]:
        """See `Objective.validate`."""
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        accuracy = np.mean(np.argmax(logits, 1) == labels.numpy())
        return {"validation_loss": float(loss), self.validation_figure: float(accuracy)}

    def class_weights(self, counts: npt.NDArray[np.int64], images: int) -> Weights:
        """Gives all classes the same total weight, and images 1 on average; see `Objective.class_weights`."""
        weights = np.zeros(len(counts))
        np.divide(images / np.count_nonzero(counts), counts, out=weights, where=counts > 0)
        return weights


class SeveralLabels:
    """Binary cross-entropy of each label, summed over the labels; micro F1, and mean average precision.

    The sum, not the mean, keeps the gradient of a logit as large as in the softmax cross-entropy, so that the same learning
    rates serve both. Source: `sigmoid_xent` in google-research/big_vision, big_vision/utils.py.
    """

    figure, validation_figure = "micro_f1", "validation_mean_average_precision"

    def losses(self, labels: tf.Tensor, logits: tf.Tensor, smoothing: float, weights: tf.Tensor | None) -> tf.Tensor:
        """See `Objective.losses`. A weight multiplies the loss of a label that the image has; smoothing moves truth to 1/2."""
        truth = labels * (1 - smoothing) + smoothing / 2
        losses = tf.nn.weighted_cross_entropy_with_logits(truth, logits, 1.0 if weights is None else weights)
        return tf.reduce_sum(losses, 1)

    def counts(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Counts twice the labels that are right, and all that are named or true: numerator and denominator of micro F1."""
        named, truth = logits >= 0, labels >= HALF  # a logit of 0 is a probability of one half; MixUp blends the truth
        both, all_of_either = named & truth, (named, truth)
        right = tf.reduce_sum(tf.cast(both, tf.float32))
        return tf.stack([2 * right, tf.add_n([tf.reduce_sum(tf.cast(one, tf.float32)) for one in all_of_either])])

    def training_figure(self, counts: Sequence[npt.NDArray[np.float32]], batch_size: int) -> float:
        """See `Objective.training_figure`. Where no image has a label and none is named, F1 is 1."""
        total: npt.NDArray[np.float64] = np.stack(counts).sum(0, dtype=np.float64)
        return float(total[0] / total[1]) if total[1] else 1.0

    def validate(self, labels: tf.Tensor, logits: tf.Tensor) -> dict[str, float]:
        """See `Objective.validate`. Without any label on a validation image, the mean average precision counts as 0."""
        losses = self.losses(labels, logits, 0.0, None)
        reached = mean_average_precision(labels.numpy() > 0, logits.numpy())
        return {"validation_loss": float(tf.reduce_mean(losses)), self.validation_figure: 0.0 if np.isnan(reached) else reached}

    def class_weights(self, counts: npt.NDArray[np.int64], images: int) -> Weights:
        """Gives the images with a label the same total weight as those without it: weight = without / with.

        This is what PyTorch's documentation of `BCEWithLogitsLoss` recommends as `pos_weight`. A label that no image has, or
        every one, gets 1. See `Objective.class_weights`.
        """
        weights = np.ones(len(counts))
        np.divide(images - counts, counts, out=weights, where=(counts > 0) & (counts < images))
        return weights


def choose_objective(several: bool) -> Objective:
    """Returns the objective of a training.

    Args:
        several: whether images have several labels.
    """
    return SeveralLabels() if several else OneLabel()


def _one_hot(labels: tf.Tensor, classes: int) -> tf.Tensor:
    return labels if labels.dtype.is_floating else tf.one_hot(labels, classes)
