"""Estimates how far scores are from how often they are right, where few images add to it by chance.

The expected calibration error (Guo et al., 2017) of scores that mean exactly what they say is not 0: each bin holds a few
images, of which by chance more or fewer are right. `debiased_error` subtracts that, `sweep_error` keeps it small, and
`perfect_scores` says what an estimate gives for scores that mean what they say.
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

BINS = 15

Scores = npt.NDArray[np.floating]
Correct = npt.NDArray[np.bool_]
Estimate = Callable[[Scores, Correct], float]


def debiased_error(scores: Scores, correct: Correct) -> float:
    """Estimates the root of the mean squared calibration error, debiased as by Kumar et al. (2019, arXiv 1909.10155).

    The bins hold as many images each. Of the squared difference of each, the variance of its accuracy is subtracted. The
    root of a mean square is no less than the mean of the differences, which is the expected calibration error.

    Args:
        scores: confidence in the predicted class, 0 to 1, (images,).
        correct: whether it is right, (images,).

    Returns:
        The error; 0 if chance alone would give more than what is measured.
    """
    total = 0.0
    for score, right in _bins(scores, correct, BINS):
        accuracy, images = right.mean(), len(right)
        total += images * ((score.mean() - accuracy) ** 2 - accuracy * (1 - accuracy) / max(1, images - 1))
    return float(np.sqrt(max(0.0, total / len(scores))))


def sweep_error(scores: Scores, correct: Correct) -> float:
    """Estimates the expected calibration error in as many bins as have accuracies that rise (Roelofs et al., 2022).

    That is ECE-sweep of *Mitigating Bias in Calibration Error Estimation*, arXiv 2012.08668, in bins of as many images each.

    Args:
        scores: confidence in the predicted class, 0 to 1, (images,).
        correct: whether it is right, (images,).

    Returns:
        The error.
    """
    found = binned_error(scores, correct, 1)
    for bins in range(2, len(scores) + 1):
        accuracies = [right.mean() for _, right in _bins(scores, correct, bins)]
        if np.any(np.diff(accuracies) < 0):
            break
        found = binned_error(scores, correct, bins)
    return found


def binned_error(scores: Scores, correct: Correct, bins: int) -> float:
    """Measures the expected calibration error in bins of as many images each.

    Args:
        scores: confidence in the predicted class, 0 to 1, (images,).
        correct: whether it is right, (images,).
        bins: number of bins.

    Returns:
        The mean of the differences between score and accuracy.
    """
    differences = [len(right) * abs(score.mean() - right.mean()) for score, right in _bins(scores, correct, bins)]
    return float(sum(differences) / len(scores))


def perfect_scores(estimate: Estimate, scores: Scores, draws: int) -> npt.NDArray[np.float64]:
    """Estimates the error of scores that mean exactly what they say (consistency resampling, Broecker and Smith, 2007).

    Args:
        estimate: function from scores and what is right to an error.
        scores: confidence in the predicted class, 0 to 1, (images,).
        draws: number of times to draw which images are right, each with its score as the probability.

    Returns:
        The errors, float64 (draws,).
    """
    generator = np.random.default_rng(0)
    return np.array([estimate(scores, generator.random(len(scores)) < scores) for _ in range(draws)])


def _bins(scores: Scores, correct: Correct, bins: int) -> Iterator[tuple[Scores, Correct]]:
    """Yields the scores and what is right of as many images each, in the order of their scores."""
    order = np.argsort(scores, kind="stable")
    for chosen in np.array_split(order, min(bins, len(order))):
        yield scores[chosen], correct[chosen]
