"""Temperature scaling: makes the scores of a classifier mean what they say (Guo et al., 2017, arXiv 1706.04599)."""

import numpy as np
import numpy.typing as npt

MIN_IMAGES = 30  # held-out images; a temperature of fewer would be chance
LARGEST = 100.0  # temperature, which leaves next to nothing of a score


def fit_temperature(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> float:
    """Finds the temperature: the divisor of the logits with which their softmax is most likely for held-out images.

    A model that is right on all n images would get a temperature of 0, and be sure of everything. So each image counts as
    right by (n + 1) / (n + 2) only, as Platt (1999, Probabilistic Outputs for Support Vector Machines) does.

    Args:
        logits: (images, classes) of images that were not trained on.
        labels: true class indices, (images,).

    Returns:
        The temperature, above 1 for an overconfident model, in four digits, since more would be chance.
    """
    from scipy import optimize, special

    images, classes = logits.shape
    right = (images + 1) / (images + 2)
    truth = np.full(logits.shape, (1 - right) / max(1, classes - 1))
    truth[np.arange(images), labels] = right

    def loss(log_temperature: float) -> float:
        scores = special.log_softmax(logits.astype(np.float64) / np.exp(log_temperature), axis=1)
        return -float((truth * scores).sum(1).mean())

    bound = float(np.log(LARGEST))
    found = optimize.minimize_scalar(loss, bounds=(-bound, bound), method="bounded")  # convex in 1 / temperature
    return float(f"{np.exp(found.x):.4g}")


def undo_temperature(probabilities: npt.NDArray[np.floating], temperature: float) -> npt.NDArray[np.floating]:
    """Computes the probabilities that a model would give without its temperature.

    Args:
        probabilities: with it, (images, classes).
        temperature: by which the logits were divided.

    Returns:
        The probabilities without it, (images, classes).
    """
    powers = (probabilities / probabilities.max(1, keepdims=True)) ** temperature
    without: npt.NDArray[np.floating] = powers / powers.sum(1, keepdims=True)
    return without
