"""What all scores of how much an image is like those of a training have in common, see `novelty`."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Novelty(ABC):
    """What is stored of the training images: their embeddings, after `spread`, and what a score makes of them.

    Attributes:
        references: embeddings, sorted by class, float32 (images, width); the file has them in float16.
        counts: number of them by class, int64 (classes,).
        means: of the classes, less the mean of these, float32 (classes, width).
        centre: mean of the means, float32 (width,).
        typical: mean and standard deviation of both measures of known images, float32 (2, 2).
        threshold: known score from which on an image is known, float32 ().
    """

    references: Floats
    counts: npt.NDArray[np.int64]
    means: Floats
    centre: Floats
    typical: Floats
    threshold: npt.NDArray[np.float32]

    @abstractmethod
    def measures(self, rows: Floats) -> tuple[Floats, Floats]:
        """Computes in two ways how much images are like the training images of each class.

        Args:
            rows: embeddings of the images, after `spread`, float32 (images, width).

        Returns:
            Both measures, larger for more alike, float32 (images, classes) each.
        """

    def likeness(self, embeddings: Floats) -> Floats:
        """Computes how much images are like the training images of each class.

        Args:
            embeddings: of the images, of any length, float32 (images, width).

        Returns:
            float32 (images, classes), in standard deviations: 0 for the class of a typical known image, less for less.
        """
        measures = self.measures(spread(embeddings))
        scaled = [(one - mean) / deviation for one, (mean, deviation) in zip(measures, self.typical, strict=True)]
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

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shapes that the parts must have to fit each other, by name of the attribute."""
        classes, width = self.counts.shape, self.centre.shape
        images = (int(self.counts.sum()),)
        return {"references": images + width, "means": classes + width, "typical": (2, 2), "threshold": ()}

    def fits(self, classes: int) -> bool:
        """Returns whether all parts are numbers, and have shapes that fit each other and so many classes."""
        has_shapes = all(getattr(self, name).shape == shape for name, shape in self.shapes().items())
        is_finite = all(bool(np.isfinite(getattr(self, field.name)).all()) for field in fields(self))
        return self.counts.shape == (classes,) and self.centre.ndim == 1 and has_shapes and is_finite

    def save(self, file: Path) -> None:
        """Writes the file that `novelty.load_novelty` reads.

        Args:
            file: to write, in a folder that exists.
        """
        stored = {field.name: getattr(self, field.name) for field in fields(self)}
        np.savez(file, **stored | {"references": self.references.astype(np.float16)})


def spread(embeddings: Floats) -> Floats:
    """Takes the root of each number, which keeps its sign, so that a few large ones do not decide alone.

    Args:
        embeddings: of any length, float32 (images, width).

    Returns:
        Rows of length 1, float32 (images, width).
    """
    return normalize(np.sign(embeddings) * np.sqrt(np.abs(embeddings)))


def normalize(rows: Floats) -> Floats:
    """Divides rows by their lengths.

    Args:
        rows: float32 (rows, width).

    Returns:
        Rows of length 1, or 0 for a row of zeros, float32 (rows, width).
    """
    unit: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit
