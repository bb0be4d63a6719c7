"""Tells images that are like those of a model's training from all others, by their embeddings (novelty detection).

Two questions, one score. How near is the nearest training image (Sun et al., 2022, arXiv 2204.06507)? And does the image differ
from the mean of all classes in the direction of one of them: the cosine to the mean of the class, where directions in which the
images of a class differ among themselves count less? Neither alone is as good, nor are the scores of the classes.
"""

import io
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from kfp_vision.core.errors import DamagedError
from kfp_vision.repository.version import Version

NOVELTY_FILE = Path("assets.extra") / "novelty.npz"  # of a version
MAX_REFERENCES = 2048  # training images that are stored; 4 MB for an embedding of 1,024 numbers
MAX_DIRECTIONS = 256  # whose variances are stored; all others get their mean
SHRINKAGE = 0.6  # of the covariance, towards equal variances in all directions

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Novelty:
    """What is stored of the training images: their embeddings, after `spread`, and how these vary within the classes.

    Attributes:
        references: embeddings, sorted by class, float32 (images, width); the file has them in float16.
        counts: number of them by class, int64 (classes,).
        means: of the classes, less the mean of these, float32 (classes, width).
        centre: mean of the means, float32 (width,).
        directions: principal directions within the classes, float32 (directions, width).
        weights: of these directions, 0 to 1, where any other has 1, float32 (directions,).
        typical: mean and standard deviation of the nearness and of the cosine of known images, float32 (2, 2).
        threshold: known score from which on an image is known, float32 ().
    """

    references: Floats
    counts: npt.NDArray[np.int64]
    means: Floats
    centre: Floats
    directions: Floats
    weights: Floats
    typical: Floats
    threshold: npt.NDArray[np.float32]

    def likeness(self, embeddings: Floats) -> Floats:
        """Computes how much images are like the training images of each class.

        Args:
            embeddings: of the images, of any length, float32 (images, width).

        Returns:
            float32 (images, classes), in standard deviations: 0 for the class of a typical known image, less for less.
        """
        rows = spread(embeddings)
        parts = (self._nearness(rows), self._cosines(rows))
        scaled = [(part - mean) / deviation for part, (mean, deviation) in zip(parts, self.typical, strict=True)]
        likeness: Floats = (scaled[0] + scaled[1]) / 2
        return likeness

    def known_scores(self, embeddings: Floats) -> Floats:
        """Computes how much images are like any training images.

        Args:
            embeddings: of the images, of any length, float32 (images, width).

        Returns:
            The largest likeness to a class, float32 (images,).
        """
        scores: Floats = self.likeness(embeddings).max(1)
        return scores

    def fits(self, classes: int) -> bool:
        """Returns whether all parts are numbers, and have shapes that fit each other and so many classes."""
        width, directions = self.centre.shape, self.weights.shape
        shapes = {
            "references": (int(self.counts.sum()), *width),
            "counts": (classes,),
            "means": (classes, *width),
            "directions": (*directions, *width),
            "typical": (2, 2),
            "threshold": (),
        }
        has_shapes = all(getattr(self, name).shape == shape for name, shape in shapes.items())
        return has_shapes and all(bool(np.isfinite(getattr(self, field.name)).all()) for field in fields(self))

    def save(self, file: Path) -> None:
        """Writes the file that `load_novelty` reads.

        Args:
            file: to write, in a folder that exists.
        """
        stored = {field.name: getattr(self, field.name) for field in fields(self)}
        np.savez(file, **stored | {"references": self.references.astype(np.float16)})

    def _nearness(self, rows: Floats) -> Floats:
        """Returns the cosine to the nearest training image of each class, -1 for a class without any."""
        nearest = np.full((len(rows), len(self.counts)), -1, np.float32)
        filled = self.counts > 0
        starts = (np.cumsum(self.counts) - self.counts)[filled]
        nearest[:, filled] = np.maximum.reduceat(rows @ self.references.T, starts, axis=1)
        return nearest

    def _cosines(self, rows: Floats) -> Floats:
        """Returns the cosine to the mean of each class, as seen from the mean of all; -1 for a class without images."""
        return np.where(self.counts > 0, self._whitened(rows - self.centre) @ self._whitened_means.T, np.float32(-1))

    @cached_property
    def _whitened_means(self) -> Floats:
        return self._whitened(self.means)

    def _whitened(self, rows: Floats) -> Floats:
        inside = rows @ self.directions.T
        return _normalized(rows + (inside * (np.sqrt(self.weights) - 1)) @ self.directions)


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
) -> Novelty:
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
    directions, weights = _within_classes(rows - means[labels])
    found = Novelty(
        references=rows.astype(np.float16).astype(np.float32),  # as they will be read
        counts=counts,
        means=means - centre,
        centre=centre,
        directions=directions,
        weights=weights,
        typical=np.array([[0, 1], [0, 1]], np.float32),
        threshold=np.zeros((), np.float32),
    )
    held_out = validation.astype(np.float32)
    validated = spread(held_out)
    best = [part.max(1) for part in (found._nearness(validated), found._cosines(validated))]
    typical = np.array([[part.mean(), max(part.std(), 1e-3)] for part in best], np.float32)
    found = replace(found, typical=typical)
    threshold = np.quantile(found.known_scores(held_out), 1 - known_share, method="lower")
    return replace(found, threshold=np.asarray(threshold, np.float32))


def load_novelty(version: Version) -> Novelty | None:
    """Loads what tells known images from others.

    Args:
        version: the exported model.

    Returns:
        The parameters; None if the version has none, as those of earlier releases and of few validation images.

    Raises:
        DamagedError: the file is damaged.
    """
    file = version.folder / NOVELTY_FILE
    if not file.is_file():
        return None
    try:
        with np.load(io.BytesIO(file.read_bytes())) as stored:
            arrays = {field.name: stored[field.name] for field in fields(Novelty)}
        found = Novelty(**arrays | {"references": arrays["references"].astype(np.float32)})
        if not found.fits(len(version.labels)):
            raise ValueError("its parts do not fit each other, or the labels")
        return found
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        rule, remedy = f"{NOVELTY_FILE} of a version must be whole", "Export or deploy it again."
        raise DamagedError(rule, f"{file} ({error})", remedy) from None


def spread(embeddings: Floats) -> Floats:
    """Takes the root of each number, which keeps its sign, so that a few large ones do not decide alone.

    Args:
        embeddings: of any length, float32 (images, width).

    Returns:
        Rows of length 1, float32 (images, width).
    """
    return _normalized(np.sign(embeddings) * np.sqrt(np.abs(embeddings)))


def _within_classes(centred: Floats) -> tuple[Floats, Floats]:
    """Returns the principal directions of embeddings around the means of their classes, and the weight of each."""
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    variances, width = singular**2 / len(centred), centred.shape[1]
    shrunk = (1 - SHRINKAGE) * variances + SHRINKAGE * variances.sum() / width
    stored = min(MAX_DIRECTIONS, len(shrunk))
    others = SHRINKAGE * variances.sum() / width + (1 - SHRINKAGE) * variances[stored:].sum() / max(1, width - stored)
    weights = others / np.maximum(shrunk[:stored], 1e-12)
    return directions[:stored].astype(np.float32), np.minimum(weights, 1).astype(np.float32)


def _normalized(rows: Floats) -> Floats:
    unit: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit
