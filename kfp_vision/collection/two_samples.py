"""Tells whether two samples of images come from one distribution, by their embeddings and by the classes named in them.

A classifier that learns to tell the samples apart must fail where they are alike (Lopez-Paz and Oquab, 2017, arXiv 1610.06545).
It is linear, by regularised least squares, and scores images that it did not learn from. Its p value is that of a permutation
test, so it holds for any number of images: a fit is linear in the membership, and that of all permutations is one product.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FOLDS = 5  # of the cross-validation
PERMUTATIONS = 2000  # the smallest p value is one in 2,001
RIDGE = 1.0  # of the mean variance of a direction, added to each
SEED = 17

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """How two samples of images compare.

    Attributes:
        area: area under the ROC curve of the classifier that tells the samples apart, 0.5 if it cannot.
        embeddings_p: probability of such an area if the samples are from one distribution.
        shares_p: probability of such different shares of the classes if they are.
        unlike: score of each image of the second sample, the larger the less it is like the first, float64 (images,).
    """

    area: float
    embeddings_p: float
    shares_p: float
    unlike: Floats


def compare_samples(
    first: npt.NDArray[np.floating[Any]],
    second: npt.NDArray[np.floating[Any]],
    first_named: npt.NDArray[np.bool_],
    second_named: npt.NDArray[np.bool_],
) -> Comparison:
    """Compares two samples of images.

    Args:
        first: embeddings of the first sample, of any length, (images, width).
        second: embeddings of the second sample, (other images, width).
        first_named: which classes are named in each image, (images, classes).
        second_named: which classes are named in each image of the second sample, (other images, classes).

    Returns:
        The comparison; the same each time.
    """
    generator = np.random.default_rng(SEED)
    is_second = np.arange(len(first) + len(second)) >= len(first)
    memberships = np.stack([is_second, *(generator.permutation(is_second) for _ in range(PERMUTATIONS))], 1).astype(np.float64)
    scores = _cross_validated(_unit(np.concatenate([first, second]).astype(np.float64)), memberships, generator)
    areas = np.array([_area(scores[:, column], memberships[:, column] > 0) for column in range(memberships.shape[1])])
    statistics = _share_statistics(np.concatenate([first_named, second_named]).astype(np.float64), memberships)
    return Comparison(float(areas[0]), _p_value(areas), _p_value(statistics), scores[is_second, 0])


def _cross_validated(rows: Floats, memberships: Floats, generator: np.random.Generator) -> Floats:
    """Returns the score of each image by a classifier that did not learn from it, for each column of memberships.

    The folds do not depend on the memberships, so that all columns are treated alike.
    """
    scores = np.zeros_like(memberships)
    folds = generator.permutation(len(rows)) % FOLDS
    for fold in range(FOLDS):
        held_out, kept = folds == fold, folds != fold
        mean, target = rows[kept].mean(0), memberships[kept] - memberships[kept].mean(0)
        learnt = rows[kept] - mean
        products = learnt @ learnt.T
        ridge = RIDGE * np.trace(products) / len(products)
        weights = np.linalg.solve(products + ridge * np.eye(len(products)), target)
        scores[held_out] = (rows[held_out] - mean) @ learnt.T @ weights
    return scores


def _area(scores: Floats, is_second: npt.NDArray[np.bool_]) -> float:
    ranks = np.empty(len(scores))
    ranks[np.argsort(scores, kind="stable")] = np.arange(1, len(scores) + 1)
    seconds = int(is_second.sum())
    return float((ranks[is_second].sum() - seconds * (seconds + 1) / 2) / (seconds * (len(scores) - seconds)))


def _share_statistics(named: Floats, memberships: Floats) -> Floats:
    """Returns Pearson's statistic of the counts of the classes in both samples, for each column of memberships."""
    totals, share = named.sum(0), memberships[:, 0].mean()
    seen = totals > 0
    expected = totals[seen, None] * share
    off = (named[:, seen].T @ memberships - expected) ** 2
    statistics: Floats = (off / expected + off / (totals[seen, None] - expected)).sum(0)
    return statistics


def _p_value(statistics: Floats) -> float:
    """Returns the share of the permutations, the first among them, whose statistic is as large as the first's."""
    return float((statistics >= statistics[0] - 1e-9).mean())


def _unit(rows: Floats) -> Floats:
    unit: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit
