"""Chooses the images most worth a label: those the model is unsure of, far from what is known and from each other.

Each image is worth the product of two numbers from 0 to 1: how unsure the model is of it (margin sampling: Scheffer, Decomain
and Wrobel, Active hidden Markov models for information extraction, 2001), and how far its embedding is from all that have a
label or are already chosen. The image worth most is chosen next, so that the choice covers what is unknown (greedy k-center:
Sener and Savarese, Active learning for convolutional neural networks: a core-set approach, 2018), and never takes two
near-copies.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Two images show the same if they are nearer than this times the usual distance to the tenth nearest one. It was chosen on 60
# photographs of flowers, embedded by EfficientNet-Lite0: each is within it of itself mirrored, trimmed, brighter, or of two
# thirds the size, and none of another. Checked on others: so are 90 drawn images, at 0.34 at most, of which 8 are within it of
# another one; and by GoogLeNet, all 748 photographs of themselves mirrored, at 0.41 at most, of which one in ten is within it
# of another that is much like it, where by EfficientNet-Lite0 one in a hundred is. The usual distance differs between models:
# fine-tuning draws the images of a class together. That to the nearest would not do: many images that were collected may have
# copies.
NEAR_COPY = 0.42
USUAL_NEIGHBOUR = 10
MAX_COMPARED = 2048  # images, to find the usual distance
LEAST_UNSURE = 0.05  # of an image that the model is certain about: it may be certain and wrong
REFERENCES_AT_ONCE = 1024  # compared with all images in one product

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Choice:
    """An image that was chosen.

    Attributes:
        position: among the candidates.
        unsure: how unsure the model is of it, 0 to 1.
        distance: from the nearest image that is known or was chosen before, 0 to 1.
    """

    position: int
    unsure: float
    distance: float

    @property
    def worth(self) -> float:
        """How much a label is worth, 0 to 1."""
        return self.unsure * self.distance


def choose_images(rows: Floats, unsure: Floats, known: Floats, most: int) -> list[Choice]:
    """Chooses the images that are most worth a label.

    Args:
        rows: embeddings of the candidates, as `likeness.spread` gives them, float32 (images, width).
        unsure: how unsure the model is of each, 0 to 1, float32 (images,); see `margin_unsure` and `threshold_unsure`.
        known: embeddings of images that have a label, like `rows`, float32 (known images, width); may be none.
        most: number of images to choose at most.

    Returns:
        The choice, the image worth most first; fewer than `most` if the others are near-copies of known or of chosen images.
    """
    distance = _distance_from(rows, known) if len(known) else np.ones(len(rows), np.float32)
    weight = np.maximum(unsure, LEAST_UNSURE)
    near_copy = NEAR_COPY * usual_distance(known if len(known) > 1 else rows)
    chosen: list[Choice] = []
    while len(chosen) < min(most, len(rows)):
        worth = np.where((distance < near_copy) | (distance <= 0), -1, weight * distance)
        position = int(worth.argmax())
        if worth[position] < 0:
            break
        chosen.append(Choice(position, float(unsure[position]), float(distance[position])))
        distance = np.minimum(distance, _distance_from(rows, rows[position : position + 1]))
        distance[position] = 0
    return chosen


def usual_distance(rows: Floats) -> float:
    """Returns the median distance of images to the tenth nearest other one, of `MAX_COMPARED` of them; 0 for fewer than two.

    Args:
        rows: their embeddings, as `likeness.spread` gives them, float32 (images, width).
    """
    rows = rows[:: max(1, -(-len(rows) // MAX_COMPARED))]
    if len(rows) < 2:
        return 0.0
    distances = np.partition(1 - rows @ rows.T, min(USUAL_NEIGHBOUR, len(rows) - 1), axis=1)  # the nearest is the image itself
    return float(np.median(distances[:, min(USUAL_NEIGHBOUR, len(rows) - 1)]))


def margin_unsure(probabilities: Floats) -> Floats:
    """Computes how unsure a model of one label is: 1 less the margin between the best two classes.

    Args:
        probabilities: of all classes, float32 (images, classes), two classes at least.

    Returns:
        0 to 1, float32 (images,).
    """
    best = np.partition(probabilities, -2, axis=1)[:, -2:]
    unsure: Floats = (1 - (best[:, 1] - best[:, 0])).astype(np.float32)
    return unsure


def threshold_unsure(probabilities: Floats, thresholds: Sequence[float]) -> Floats:
    """Computes how unsure a model of several labels is: 1 less the distance of the nearest probability to its threshold.

    The distance is measured in the way there is: from the threshold to 0, or to 1.

    Args:
        probabilities: of all classes, float32 (images, classes).
        thresholds: probability from which on an image has each label, (classes,).

    Returns:
        0 to 1, float32 (images,).
    """
    limits = np.asarray(thresholds, np.float32)
    below, above = (limits - probabilities) / np.maximum(limits, 1e-6), (probabilities - limits) / np.maximum(1 - limits, 1e-6)
    unsure: Floats = (1 - np.maximum(below, above).min(1)).clip(0, 1).astype(np.float32)
    return unsure


def _distance_from(rows: Floats, others: Floats) -> Floats:
    """Returns 1 less the cosine to the nearest of others, 0 to 1, (rows,)."""
    parts = (others[at : at + REFERENCES_AT_ONCE] for at in range(0, len(others), REFERENCES_AT_ONCE))
    nearest = np.max([(rows @ part.T).max(1) for part in parts], axis=0)
    distance: Floats = (1 - nearest).clip(0, 1)
    return distance
