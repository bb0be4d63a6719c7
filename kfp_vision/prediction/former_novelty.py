"""Tells known images from others as the exports of earlier builds do, which store nothing for the score of `novelty`.

How near is the nearest training image (Sun et al., 2022, arXiv 2204.06507)? And does the image differ from the mean of all
classes in the direction of one of them: the cosine to the mean of the class, where directions in which the images of a class
differ among themselves count less?
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kfp_vision.prediction.likeness import Floats, Novelty, normalize


@dataclass(frozen=True, kw_only=True)
class FormerNovelty(Novelty):
    """What earlier builds stored, besides what `Novelty` has.

    Attributes:
        directions: principal directions within the classes, float32 (directions, width).
        weights: of these directions, 0 to 1, where any other has 1, float32 (directions,).
    """

    directions: Floats
    weights: Floats

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See `Novelty`."""
        return super().shapes() | {"directions": self.weights.shape + self.centre.shape}

    def measures(self, rows: Floats) -> tuple[Floats, Floats]:
        """Computes the cosine to the nearest training image, and that to the mean of each class; see `Novelty`."""
        return self._nearness(rows), self._cosines(rows)

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
        return normalize(rows + (inside * (np.sqrt(self.weights) - 1)) @ self.directions)
