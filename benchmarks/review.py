"""Measures how many labels `review` saves: accuracy by number of labels, of images that it chose against others at random.

The embeddings of EfficientNet-Lite0, or of the network that BENCH_NETWORK names, are computed once. A round holds out a fifth
of the photographs, labels a hundred at random, and then fifty more at a time: those that are chosen by the head that was
trained on the labels so far. The head is a logistic regression on the embeddings. 600 labels are all that is not held out.
"""

import json
import os
import statistics
import sys

import numpy as np
import numpy.typing as npt

from benchmarks import networks, unknown
from benchmarks.measure import Figure, report, rounds
from kfp_vision.prediction.likeness import spread
from kfp_vision.review.choose import choose_images, margin_unsure

FIRST, STEP, LAST = 100, 50, 400  # labels
ALL = 600
HELD_OUT = 0.2
LENGTH = 10.0  # of an embedding: the weight decay of the regression is for numbers of about this size

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]


def run() -> list[Figure]:
    """Runs this benchmark.

    Returns:
        Its figures; none without the weights.
    """
    name = os.environ.get("BENCH_NETWORK", "efficientnet_lite0")
    weights = networks.find_weights(name)
    if not weights:
        return []
    images = unknown.embed(name, weights)
    labels = np.unique(images.labels, return_inverse=True)[1]
    drawn = [label_in_steps(images.values, labels, seed) for seed in range(rounds())]
    return [_figure(drawn, count, count) for count in (200, 300, LAST)] + [_figure(drawn, count, ALL) for count in (300, LAST)]


def label_in_steps(embeddings: Floats, labels: Numbers, seed: int) -> dict[str, dict[int, float]]:
    """Labels more and more images, chosen or at random, from the same first ones.

    Args:
        embeddings: of all images, float32 (images, width).
        labels: their class indices, (images,).
        seed: of the draw.

    Returns:
        The accuracy on the images held out by number of labels, of `review` and of `random`.
    """
    rows = spread(embeddings)
    order = np.random.default_rng(seed).permutation(len(labels))
    held_out, pool = np.split(order, [round(HELD_OUT * len(order))])
    found: dict[str, dict[int, float]] = {"random": {}, "review": {}}
    for count in [*range(FIRST, LAST + 1, STEP), ALL]:
        head = Head(embeddings, labels, pool[:count])
        found["random"][count] = head.accuracy(held_out)
    chosen = list(pool[:FIRST])
    while True:
        head = Head(embeddings, labels, np.array(chosen))
        found["review"][len(chosen)] = head.accuracy(held_out)
        if len(chosen) >= LAST:
            break
        rest = np.setdiff1d(pool, chosen)
        unsure = margin_unsure(head.probabilities(rest))
        added = choose_images(rows[rest], unsure, rows[chosen], min(STEP, LAST - len(chosen)))
        chosen += [int(rest[choice.position]) for choice in added]
    print(json.dumps({"draw": seed, **found}), file=sys.stderr, flush=True)
    return found


class Head:
    """A logistic regression on embeddings.

    Args:
        embeddings: of all images, float32 (images, width).
        labels: their class indices, (images,).
        training: positions of the images to train on.
    """

    def __init__(self, embeddings: Floats, labels: Numbers, training: Numbers):
        from sklearn.linear_model import LogisticRegression

        self._values = LENGTH * embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        self._labels = labels
        self._fitted = LogisticRegression(max_iter=1000).fit(self._values[training], labels[training])

    def probabilities(self, positions: Numbers) -> Floats:
        """Returns the probabilities of all classes, float32 (positions, classes)."""
        found: Floats = self._fitted.predict_proba(self._values[positions]).astype(np.float32)
        return found

    def accuracy(self, positions: Numbers) -> float:
        """Returns the share of images that are classified right."""
        return float(self._fitted.score(self._values[positions], self._labels[positions]))


def _figure(drawn: list[dict[str, dict[int, float]]], ours: int, theirs: int) -> Figure:
    pairs = [(100 * one["review"][ours], 100 * one["random"][theirs]) for one in drawn]
    return report(f"review_{ours}_labels", f"{theirs} labels at random", "% accuracy", pairs, middle=statistics.mean)
