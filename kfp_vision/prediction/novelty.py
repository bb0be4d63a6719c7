"""Tells images that are like those of a model's training from all others, by their embeddings (novelty detection).

Two questions, one score. How likely is the image among those of a class, where each class is a Gaussian of its own in the few
directions in which training images differ most? And how much nearer is it to the mean of a class than to the mean of all: the
relative Mahalanobis distance (Ren et al., 2021, arXiv 2106.09022), in all directions? Neither alone is as good, nor are the
scores of the classes.
"""

import io
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from kfp_vision.core import numpy_faults
from kfp_vision.core.errors import DamagedError
from kfp_vision.prediction.former_novelty import FormerNovelty
from kfp_vision.prediction.likeness import Floats, Novelty, spread
from kfp_vision.repository.version import Version

NOVELTY_FILE = Path("assets.extra") / "novelty.npz"  # of a version
MAX_REFERENCES = 2048  # training images that are fitted and stored; 4 MB for an embedding of 1,024 numbers
MAX_DIRECTIONS = 256  # whose variances are stored; all others get their mean
SHRINKAGE = 0.8  # of the covariance, towards equal variances in all directions
GAUSSIAN_DIRECTIONS = 24  # in which each class has a covariance of its own
PRIOR_IMAGES = 10  # as so many images of each class counts the covariance within all classes
SMALLEST_VARIANCE = 1e-5  # in any direction, of rows of length 1: narrow networks have directions in which images hardly differ
NO_LIKENESS = -1e6  # to a class without training images


@dataclass(frozen=True, kw_only=True)
class GaussianNovelty(Novelty):
    """What is stored besides what `Novelty` has: how the training images vary, as a whole and within their classes.

    Attributes:
        overall: principal directions around the centre, those of most variance first, float32 (directions, width).
        overall_precisions: inverse variance in each of them, and in any other direction, float32 (directions + 1,).
        within: principal directions around the means of the classes, float32 (directions, width).
        within_precisions: inverse variance in each of them, and in any other direction, float32 (directions + 1,).
        precisions: inverse covariance of each class in the first of `overall`, float32 (classes, first, first).
    """

    overall: Floats
    overall_precisions: Floats
    within: Floats
    within_precisions: Floats
    precisions: Floats

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See `Novelty`."""
        width, first = self.centre.shape, min(GAUSSIAN_DIRECTIONS, len(self.overall))
        return super().shapes() | {
            "overall": (len(self.overall), *width),
            "overall_precisions": (len(self.overall) + 1,),
            "within": (len(self.within), *width),
            "within_precisions": (len(self.within) + 1,),
            "precisions": (*self.counts.shape, first, first),
        }

    def fits(self, classes: int) -> bool:
        """See `Novelty`."""
        return super().fits(classes) and bool((np.linalg.slogdet(self.precisions)[0] > 0).all())

    def measures(self, rows: Floats) -> tuple[Floats, Floats]:
        """Computes the logarithm of the likelihood in each class, and the relative Mahalanobis distance; see `Novelty`."""
        centred = rows - self.centre
        found = self._log_likelihoods(centred), self._relative_distances(centred)
        likelihoods, distances = (np.where(self.counts > 0, one, np.float32(NO_LIKENESS)) for one in found)
        return likelihoods, distances

    def _log_likelihoods(self, centred: Floats) -> Floats:
        """Returns the logarithm of the density of each class, but for a constant."""
        inside = centred @ self._first.T
        halved_squares = (inside[:, :, None] * inside[:, None] * np.float32(0.5)).reshape(len(inside), -1)
        linear, constant = self._linear_and_constant
        found: Floats = inside @ linear.T + constant - halved_squares @ self.precisions.reshape(len(self.counts), -1).T
        return found

    def _relative_distances(self, centred: Floats) -> Floats:
        """Returns the squared distance to the mean of all less that to the mean of each class."""
        scaled_means = _times_precision(self.means, self.within, self.within_precisions)
        to_all = (centred * _times_precision(centred, self.overall, self.overall_precisions)).sum(1)
        to_centre = (centred * _times_precision(centred, self.within, self.within_precisions)).sum(1)
        found: Floats = (to_all - to_centre)[:, None] + 2 * centred @ scaled_means.T - (self.means * scaled_means).sum(1)
        return found

    @property
    def _first(self) -> Floats:
        return self.overall[: self.precisions.shape[1]]

    @cached_property
    def _linear_and_constant(self) -> tuple[Floats, Floats]:
        """Returns what the logarithm of each density has besides its squares, (classes, first) and (classes,)."""
        means = self.means @ self._first.T
        linear: Floats = np.einsum("cij,cj->ci", self.precisions, means)
        constant = (np.linalg.slogdet(self.precisions.astype(np.float64))[1] - (linear * means).sum(1)) / 2
        return linear, constant.astype(np.float32)


def known_pairs(labels: npt.NDArray[np.number[Any]], most: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.integer[Any]]]:
    """Chooses training images for `fit_novelty`, at even distances, each with a class of it.

    An image of several labels counts once for each of them, and one without labels not at all.

    Args:
        labels: class indices, (images,); or of several labels, 1 for each class of an image, (images, classes).
        most: pairs to choose at most.

    Returns:
        Indices of images, and the class of each, both (pairs,).
    """
    images, classes = np.nonzero(labels) if labels.ndim == 2 else (np.arange(len(labels)), labels.astype(np.int64))
    chosen = np.unique(np.linspace(0, len(images) - 1, most).astype(int)) if len(images) else np.arange(0)
    return images[chosen], classes[chosen]


def fit_novelty(
    embeddings: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[np.integer[Any]],
    classes: int,
    validation: npt.NDArray[np.floating[Any]],
    known_share: float,
) -> GaussianNovelty:
    """Fits what tells known images from others.

    Args:
        embeddings: of training images, of any length, (images, width); the first `MAX_REFERENCES` are used.
        labels: their class indices, (images,).
        classes: number of classes.
        validation: embeddings of images that were not trained on, (validation images, width).
        known_share: share of these that are to be known, above 0 and at most 1.

    Returns:
        The fitted parameters.
    """
    order = np.argsort(labels[:MAX_REFERENCES], kind="stable")
    rows, labels = spread(embeddings[order].astype(np.float32)), labels[order]
    counts = np.bincount(labels, minlength=classes)
    means = np.zeros((classes, rows.shape[1]), np.float32)
    np.add.at(means, labels, rows)
    means /= np.maximum(counts, 1)[:, None]
    centre = means[counts > 0].mean(0)
    overall, overall_precisions = _principal_directions(rows - centre)
    within, within_precisions = _principal_directions(rows - means[labels])
    found = GaussianNovelty(
        references=rows.astype(np.float16).astype(np.float32),  # as they will be read
        counts=counts,
        means=means - centre,
        centre=centre,
        typical=np.array([[0, 1], [0, 1]], np.float32),
        threshold=np.zeros((), np.float32),
        overall=overall,
        overall_precisions=overall_precisions,
        within=within,
        within_precisions=within_precisions,
        precisions=_class_precisions((rows - means[labels]) @ overall[:GAUSSIAN_DIRECTIONS].T, counts),
    )
    held_out = validation.astype(np.float32)
    best = [measure.max(1) for measure in found.measures(spread(held_out))]
    typical = np.array([[measure.mean(), max(measure.std(), 1e-3)] for measure in best], np.float32)
    found = replace(found, typical=typical)
    threshold = np.quantile(found.known_scores(held_out), 1 - known_share, method="lower")
    return replace(found, threshold=np.asarray(threshold, np.float32))


def load_novelty(version: Version) -> Novelty | None:
    """Loads what tells known images from others.

    Args:
        version: the exported model.

    Returns:
        The parameters; None if the version has none, as those of earlier releases and of few validation images. Those of
        earlier builds give the score that they were exported with.

    Raises:
        DamagedError: the file is damaged.
    """
    file = version.folder / NOVELTY_FILE
    if not file.is_file():
        return None
    try:
        with np.load(io.BytesIO(file.read_bytes())) as stored:
            kind = FormerNovelty if "weights" in stored else GaussianNovelty
            arrays = {field.name: stored[field.name] for field in fields(kind)}
        found = kind(**arrays | {"references": arrays["references"].astype(np.float32)})
        if not found.fits(len(version.labels)):
            raise ValueError("its parts do not fit each other, or the labels")
        return found
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        rule, remedy = f"{NOVELTY_FILE} of a version must be whole", "Export or deploy it again."
        raise DamagedError(rule, f"{file} ({numpy_faults.describe(error)})", remedy) from None


def _principal_directions(centred: Floats) -> tuple[Floats, Floats]:
    """Returns the principal directions of centred embeddings, and the inverse variance in each and in any other."""
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    variances, width = singular**2 / len(centred), centred.shape[1]
    stored = min(MAX_DIRECTIONS, len(variances))
    other = variances[stored:].sum() / max(1, width - stored)
    shrunk = (1 - SHRINKAGE) * np.append(variances[:stored], other) + SHRINKAGE * variances.sum() / width
    precisions = 1 / np.maximum(shrunk, SMALLEST_VARIANCE)
    return directions[:stored].astype(np.float32), precisions.astype(np.float32)


def _class_precisions(deviations: Floats, counts: npt.NDArray[np.int64]) -> Floats:
    """Returns the inverse covariance of each class from the rows around its mean, sorted by class."""
    first = deviations.shape[1]
    shared = deviations.T @ deviations / len(deviations)
    smallest = max(1e-3 * np.trace(shared) / first, SMALLEST_VARIANCE) * np.eye(first)
    covariances = [
        (one.T @ one + PRIOR_IMAGES * shared) / (len(one) + PRIOR_IMAGES) + smallest
        for one in np.split(deviations, np.cumsum(counts)[:-1])
    ]
    return np.linalg.inv(np.stack(covariances).astype(np.float64)).astype(np.float32)


def _times_precision(rows: Floats, directions: Floats, precisions: Floats) -> Floats:
    """Multiplies rows by the inverse covariance with these principal directions."""
    found: Floats = rows * precisions[-1] + ((rows @ directions.T) * (precisions[:-1] - precisions[-1])) @ directions
    return found
