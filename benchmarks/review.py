"""Measures how many labels `review` saves: accuracy by number of labels, of images that it chose against others at random.

The embeddings of EfficientNet-Lite0, or of the network that BENCH_NETWORK names, are computed once. A round takes five splits,
so that each photograph is held out once; of the others, about 600, a hundred are labelled at random, and then fifty more at a
time: those that are chosen by the head that was trained on the labels so far. The head is a logistic regression on the
embeddings. The rounds differ in the first hundred. The 95 % interval of a difference, on stderr, is over the photographs, of
whose correct answers the mean of all rounds is taken.
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
ALL = 600  # about as many are not held out
COUNTS = tuple(range(FIRST, LAST + 1, STEP))
PEERS = {
    "random": "at random",
    "margin": "of the smallest margins",
    "entropy": "of the largest entropies",
    "core_set": "far from all labelled ones (Sener and Savarese, 2018)",
}
RULES = ("review", *PEERS)
COMPARED = [(count, "random", count) for count in (200, 300, LAST)] + [(count, "random", ALL) for count in (300, LAST)]
COMPARED += [(count, rule, count) for rule in list(PEERS)[1:] for count in (200, 300, LAST)]
INTERVAL = 1.96  # standard errors on each side, of 95 %
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
    found = label_all(images.values, labels, images.folds, rounds())
    return [_figure(found, *compared) for compared in COMPARED]


def label_all(embeddings: Floats, labels: Numbers, folds: Numbers, draws: int) -> dict[str, dict[int, Floats]]:
    """Labels more and more images by each rule, each fold held out once, from several first images.

    Args:
        embeddings: of all images, float32 (images, width).
        labels: their class indices, (images,).
        folds: number of the fold of each image, (images,).
        draws: of the first images.

    Returns:
        By rule and number of labels, which images were classified right while they were held out, (draws, images).
    """
    rows = spread(embeddings)
    found = {rule: {count: np.zeros((draws, len(labels)), np.float32) for count in COUNTS} for rule in RULES}
    found["random"][ALL] = np.zeros((draws, len(labels)), np.float32)
    for draw in range(draws):
        for fold in np.unique(folds):
            held_out = np.flatnonzero(folds == fold)
            pool = np.random.default_rng([draw, int(fold)]).permutation(np.flatnonzero(folds != fold))
            found["random"][ALL][draw, held_out] = Head(embeddings, labels, pool).is_right(held_out)
            for rule in RULES:
                chosen = pool[:FIRST]
                for count in COUNTS:
                    head = Head(embeddings, labels, chosen)
                    found[rule][count][draw, held_out] = head.is_right(held_out)
                    rest = pool[~np.isin(pool, chosen)]
                    chosen = np.concatenate([chosen, rest[_choose(rule, head, rows, rest, chosen)]])
    return found


def _choose(rule: str, head: "Head", rows: Floats, rest: Numbers, chosen: Numbers) -> Numbers:
    """Returns which of the rest get a label next, `STEP` positions."""
    if rule == "random":
        return np.arange(STEP)
    probabilities = head.probabilities(rest)
    if rule == "entropy":
        return np.argsort((probabilities * np.log(np.maximum(probabilities, 1e-9))).sum(1), kind="stable")[:STEP]
    unsure = margin_unsure(probabilities)
    if rule == "margin":
        return np.argsort(-unsure, kind="stable")[:STEP]
    unsure = np.ones_like(unsure) if rule == "core_set" else unsure
    return np.array([choice.position for choice in choose_images(rows[rest], unsure, rows[chosen], STEP)])


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

    def is_right(self, positions: Numbers) -> npt.NDArray[np.bool_]:
        """Returns which images are classified right, (positions,)."""
        right: npt.NDArray[np.bool_] = self._fitted.predict(self._values[positions]) == self._labels[positions]
        return right


def _figure(found: dict[str, dict[int, Floats]], ours: int, rule: str, theirs: int) -> Figure:
    right, others = found["review"][ours], found[rule][theirs]
    differences = 100 * (right - others).mean(0)
    half = INTERVAL * differences.std(ddof=1) / len(differences) ** 0.5
    line = {"review": ours, rule: theirs, "points": round(float(differences.mean()), 2), "95 %": round(float(half), 2)}
    print(json.dumps(line), file=sys.stderr, flush=True)
    peer = f"{theirs} labels {PEERS[rule]}"
    pairs = [(100 * float(mine), 100 * float(other)) for mine, other in zip(right.mean(1), others.mean(1), strict=True)]
    return report(f"review_{ours}_labels", peer, "% accuracy", pairs, middle=statistics.mean)
