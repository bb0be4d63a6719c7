"""Temperature scaling: makes the scores of a classifier mean what they say (Guo et al., 2017, arXiv 1706.04599).

The scores are the softmax of the logits, or where images have several labels, their sigmoids.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

MIN_IMAGES = 30  # held-out images; a temperature of fewer would be chance
LARGEST = 100.0  # temperature, which leaves next to nothing of a score


def fit_temperature(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.number]) -> float:
    """Finds the temperature: the divisor of the logits with which their scores are most likely for held-out images.

    A model that is right on all n images would get a temperature of 0, and be sure of everything. So each image counts as
    right by (n + 1) / (n + 2) only, as Platt (1999, Probabilistic Outputs for Support Vector Machines) does. Of several
    labels, n is the number of pairs of an image and a label that the image has, or of those that it has not.

    Args:
        logits: (images, classes) of images that were not trained on.
        labels: true class indices, (images,); or of several labels, 1 for each class of an image, (images, classes).

    Returns:
        The temperature, above 1 for an overconfident model, in four digits, since more would be chance.
    """
    from scipy import optimize

    loss_of = _binary_loss if labels.ndim == 2 else _softmax_loss
    loss = loss_of(logits.astype(np.float64), labels)
    bound = float(np.log(LARGEST))
    found = optimize.minimize_scalar(loss, bounds=(-bound, bound), method="bounded")  # convex in 1 / temperature
    return float(f"{np.exp(found.x):.4g}")


def _softmax_loss(logits: npt.NDArray[np.float64], labels: npt.NDArray[np.number]) -> Callable[[float], float]:
    """Returns the cross-entropy as a function of the logarithm of the temperature."""
    from scipy import special

    images, classes = logits.shape
    right = (images + 1) / (images + 2)
    truth = np.full(logits.shape, (1 - right) / max(1, classes - 1))
    truth[np.arange(images), labels.astype(int)] = right

    def loss(log_temperature: float) -> float:
        scores = special.log_softmax(logits / np.exp(log_temperature), axis=1)
        return -float((truth * scores).sum(1).mean())

    return loss


def _binary_loss(logits: npt.NDArray[np.float64], labels: npt.NDArray[np.number]) -> Callable[[float], float]:
    """Returns the binary cross-entropy over all pairs of image and label as a function of the logarithm of the temperature."""
    from scipy import special

    has = labels > 0
    pairs = int(has.sum())
    truth = np.where(has, (pairs + 1) / (pairs + 2), 1 / (has.size - pairs + 2))

    def loss(log_temperature: float) -> float:
        divided = logits / np.exp(log_temperature)
        return -float((truth * special.log_expit(divided) + (1 - truth) * special.log_expit(-divided)).mean())

    return loss


def undo_temperature(
    probabilities: npt.NDArray[np.floating], temperature: float, *, several: bool = False
) -> npt.NDArray[np.floating]:
    """Computes the probabilities that a model would give without its temperature.

    Args:
        probabilities: with it, (images, classes).
        temperature: by which the logits were divided.
        several: whether images have several labels, so that the probabilities are sigmoids.

    Returns:
        The probabilities without it, (images, classes).
    """
    if several:
        from scipy import special

        sigmoids: npt.NDArray[np.floating] = special.expit(temperature * special.logit(probabilities.astype(np.float64)))
        return sigmoids
    powers = (probabilities / probabilities.max(1, keepdims=True)) ** temperature
    without: npt.NDArray[np.floating] = powers / powers.sum(1, keepdims=True)
    return without
