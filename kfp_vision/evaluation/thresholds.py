"""Chooses the thresholds of a model of several labels: the probability from which on an image has a label."""

import numpy as np
import numpy.typing as npt

FALLBACK = 0.5  # the threshold of a label that nothing better is known of
MIN_POSITIVES = 5  # images with a label from which on its threshold is chosen; one of fewer would be chance


def choose_thresholds(
    truth: npt.NDArray[np.bool_], probabilities: npt.NDArray[np.floating], labels: list[str]
) -> tuple[list[float], str]:
    """Chooses the threshold of each label with the highest F1 on held-out images.

    A threshold lies halfway between two neighbouring probabilities; of equally good ones, the one closest to 1/2 is taken. A
    label gets `FALLBACK` if fewer than `MIN_POSITIVES` images have it, or if nothing has a higher F1 than to name it on every
    image, which is what is best for scores that know nothing (Lipton et al., 2014, arXiv 1402.1892).

    Args:
        truth: which labels each image has, (images, classes).
        probabilities: calibrated, of images that were not trained on, (images, classes).
        labels: class names, by class index.

    Returns:
        The thresholds, in four digits unless the two probabilities differ by less; and a line that says what was done.
    """
    found = [_choose(truth[:, number], probabilities[:, number]) for number in range(len(labels))]
    left = [label for label, threshold in zip(labels, found, strict=True) if threshold is None]
    line = f"chose the thresholds of {len(labels) - len(left)} labels on {len(truth)} validation images, for the highest F1"
    if left:
        named = ", ".join(left[:3]) + (f" and {len(left) - 3} more" if len(left) > 3 else "")
        line += f"; {FALLBACK} for {named}, of which too few images are there, or whose scores tell nothing"
    return [FALLBACK if threshold is None else threshold for threshold in found], line


def _choose(truth: npt.NDArray[np.bool_], probabilities: npt.NDArray[np.floating]) -> float | None:
    """Returns the threshold of one label; None if there is no reason for one."""
    positives = int(truth.sum())
    if positives < MIN_POSITIVES:
        return None
    order = np.argsort(-probabilities, kind="stable")
    scores = probabilities[order].astype(np.float64)
    named = np.flatnonzero(scores[1:] < scores[:-1]) + 1  # numbers of images named by the thresholds between two scores
    f1 = 2 * np.cumsum(truth[order])[named - 1] / (named + positives)
    of_all = 2 * positives / (len(truth) + positives)
    if not len(f1) or f1.max() <= of_all:
        return None
    best = named[f1 == f1.max()]
    halfway = (scores[best - 1] + scores[best]) / 2
    closest = np.abs(halfway - 1 / 2).argmin()
    rounded = float(f"{halfway[closest]:.4g}")
    between = scores[best[closest]] < rounded <= scores[best[closest] - 1]
    return rounded if between else float(halfway[closest])
