"""Tells whether two samples of images come from one distribution.

Three tests, each for another change:

- All images: a classifier that learns to tell the samples apart must fail where they are alike (Lopez-Paz and Oquab, 2017,
  arXiv 1610.06545). It is linear, by regularised least squares, and scores images that it did not learn from. It finds what
  changes all images, such as a blurred lens.
- Few images: among the nearest neighbours of an image, both samples should have their share (Schilling, Multivariate two-sample
  tests based on nearest neighbors, 1986). What counts are the few images of the second sample around which it is densest, and
  those that are least known to the model. It finds new kinds of images, such as a new class. Two images are as near as the
  neighbours that they share (Jarvis and Patrick, Clustering using a similarity measure based on shared near neighbors, 1973).
- Shares of the classes: Pearson's statistic.

All are permutation tests over the same permutations, so they hold for any number of images. The p values are adjusted for the
number of tests by the smallest of each permutation (Westfall and Young, Resampling-based multiple testing, 1993). The
classifier's fit is linear in the membership, so those of all permutations are one product.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kfp_vision.prediction.likeness import spread

FOLDS = 5  # of the cross-validation
PERMUTATIONS = 2000  # the smallest p value is one in 2,001
DIRECTIONS = 30  # principal ones, in which neighbours are looked for
NEIGHBOURS = 10  # of an image, those that two images may share
NOVEL = 10  # images of the second sample that count
KNOWN_WEIGHT = 0.5  # of a standard deviation of the known score, beside one of the density
RIDGE = 1.0  # of the mean variance of a direction, added to each
SEED = 17

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """How two samples of images compare.

    A p value is the probability that any of the tests finds as much if the samples are from one distribution.

    Attributes:
        area: area under the ROC curve of the classifier that tells the samples apart, 0.5 if it cannot.
        embeddings_p: p value of that area.
        novel_p: p value of the few images that are most novel.
        shares_p: p value of the shares of the classes.
        unlike: score of each image of the second sample by the classifier, the larger the less it is like the first, float64
            (images,).
        novel: how novel each image of the second sample is: how much denser this is around it, and how little it is known, in
            standard deviations, float64 (images,).
    """

    area: float
    embeddings_p: float
    novel_p: float
    shares_p: float
    unlike: Floats
    novel: Floats

    @property
    def smallest_p(self) -> float:
        """The smallest p value: of samples from one distribution, a share of `level` of the comparisons is below `level`."""
        return min(self.embeddings_p, self.novel_p, self.shares_p)


def compare_samples(
    first: npt.NDArray[np.floating[Any]],
    second: npt.NDArray[np.floating[Any]],
    first_named: npt.NDArray[np.bool_],
    second_named: npt.NDArray[np.bool_],
    known_scores: npt.NDArray[np.floating[Any]] | None = None,
) -> Comparison:
    """Compares two samples of images.

    Args:
        first: embeddings of the first sample, of any length, (images, width).
        second: embeddings of the second sample, (other images, width).
        first_named: which classes are named in each image, (images, classes).
        second_named: which classes are named in each image of the second sample, (other images, classes).
        known_scores: how much each image is like those of the training, both samples after each other, as
            `prediction.novelty` gives it, (images + other images,); None if the model does not tell.

    Returns:
        The comparison; the same each time.
    """
    generator = np.random.default_rng(SEED)
    count = len(first) + len(second)
    order = generator.permutation(count)  # so that no tie is decided by the place of an image
    is_second = order >= len(first)
    memberships = np.stack([is_second, *(generator.permutation(is_second) for _ in range(PERMUTATIONS))], 1).astype(np.float64)
    embeddings = np.concatenate([first, second]).astype(np.float32)[order]
    named = np.concatenate([first_named, second_named]).astype(np.float64)[order]
    scores = _cross_validated(_unit(embeddings.astype(np.float64)), memberships)
    areas, novel = _areas(scores, memberships), _densities(embeddings, memberships)
    if known_scores is not None:
        novel -= KNOWN_WEIGHT * _standardized(known_scores[order])[:, None]
    p_values = _adjusted_p_values(
        {
            "embeddings_p": areas,
            "novel_p": _largest(novel, memberships),
            "shares_p": _share_statistics(named, memberships),
        }
    )
    seconds = np.argsort(order)[len(first) :]
    return Comparison(area=float(areas[0]), unlike=scores[seconds, 0], novel=novel[seconds, 0], **p_values)


def _cross_validated(rows: Floats, memberships: Floats) -> Floats:
    """Returns the score of each image by a classifier that did not learn from it, for each column of memberships.

    The folds do not depend on the memberships, so that all columns are treated alike.
    """
    scores = np.zeros_like(memberships)
    folds = np.arange(len(rows)) % FOLDS  # of images in a random order
    for fold in range(FOLDS):
        held_out, kept = folds == fold, folds != fold
        mean, target = rows[kept].mean(0), memberships[kept] - memberships[kept].mean(0)
        learnt = rows[kept] - mean
        products = learnt @ learnt.T
        ridge = max(RIDGE * np.trace(products) / len(products), 1e-12)  # images that are all the same have no variance
        weights = np.linalg.solve(products + ridge * np.eye(len(products)), target)
        scores[held_out] = (rows[held_out] - mean) @ learnt.T @ weights
    return scores


def _areas(scores: Floats, memberships: Floats) -> Floats:
    """Returns the area under the ROC curve of each column of scores."""
    from scipy import stats

    seconds = memberships[:, 0].sum()
    sums = (stats.rankdata(scores, axis=0) * memberships).sum(0)
    areas: Floats = (sums - seconds * (seconds + 1) / 2) / (seconds * (len(scores) - seconds))
    return areas


def _densities(embeddings: npt.NDArray[np.float32], memberships: Floats) -> Floats:
    """Returns how dense the second sample is around each image, in standard deviations, for each column of memberships."""
    rows = _unit(_principal(spread(embeddings).astype(np.float64)))
    alike = rows @ rows.T
    np.fill_diagonal(alike, -np.inf)
    neighbours = min(NEIGHBOURS, len(rows) - 1)
    nearest = np.zeros(alike.shape)
    np.put_along_axis(nearest, np.argpartition(-alike, neighbours - 1, axis=1)[:, :neighbours], 1, axis=1)
    shared = nearest @ nearest.T
    np.fill_diagonal(shared, 0)
    weights = shared / np.maximum(shared.sum(1, keepdims=True), 1)
    share = memberships[:, 0].mean()
    deviations = np.sqrt((weights**2).sum(1) * share * (1 - share))
    above = (weights @ memberships - share) * (deviations > 0)[:, None]  # an image that shares no neighbour has no density
    densities: Floats = above / np.maximum(deviations, 1e-12)[:, None]
    return densities


def _principal(rows: Floats) -> Floats:
    """Returns the coordinates of images in the principal directions of all of them."""
    centred = rows - rows.mean(0)
    variances, directions = np.linalg.eigh(centred @ centred.T)
    coordinates: Floats = directions[:, -DIRECTIONS:] * np.sqrt(np.maximum(variances[-DIRECTIONS:], 0))
    return coordinates


def _standardized(known_scores: npt.NDArray[np.floating[Any]]) -> Floats:
    """Returns how far scores are from their median, in standard deviations of those in the middle."""
    low, middle, high = np.quantile(known_scores, [0.16, 0.5, 0.84])
    standardized: Floats = (known_scores.astype(np.float64) - middle) / max((high - low) / 2, 1e-9)
    return standardized


def _largest(novel: Floats, memberships: Floats) -> Floats:
    """Returns the sum of the `NOVEL` largest numbers of images of the second sample, for each column of memberships."""
    inside = np.where(memberships > 0, novel, -np.inf)
    most = min(NOVEL, int(memberships[:, 0].sum()))
    sums: Floats = -np.partition(-inside, most - 1, axis=0)[:most].sum(0)
    return sums


def _share_statistics(named: Floats, memberships: Floats) -> Floats:
    """Returns Pearson's statistic of the counts of the classes in both samples, for each column of memberships."""
    totals, share = named.sum(0), memberships[:, 0].mean()
    seen = totals > 0
    expected = totals[seen, None] * share
    off = (named[:, seen].T @ memberships - expected) ** 2
    statistics: Floats = (off / expected + off / (totals[seen, None] - expected)).sum(0)
    return statistics


def _adjusted_p_values(statistics: dict[str, Floats]) -> dict[str, float]:
    """Returns the p value of the first permutation by each test, adjusted for their number."""
    shares = []
    for found in statistics.values():
        least = found - 1e-9 * (1 + abs(found))  # the same statistic may have been added up in another order
        shares.append(1 - np.searchsorted(np.sort(found), least) / len(found))
    smallest = np.min(shares, axis=0)
    return {name: float((smallest <= share[0] + 1e-12).mean()) for name, share in zip(statistics, shares, strict=True)}


def _unit(rows: Floats) -> Floats:
    unit: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit
