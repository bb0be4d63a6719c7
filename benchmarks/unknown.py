"""Measures what the scores of a model are worth: whether they tell images of none of its classes, and mean what they say.

The embeddings of GoogLeNet from Caffe's weights, or of the network that BENCH_NETWORK names, are computed once, and heads are
trained on them: without each class of the photographs in turn, each time with another fifth held out, for the novelty; and
with all classes and each fifth held out in turn, for the calibration.
"""

import io
import json
import os
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks import calibration_errors, learn, networks, photographs
from benchmarks.measure import Figure, report, rounds
from kfp_vision.core import hardware
from kfp_vision.core.advanced import Advanced
from kfp_vision.dataset.images import MAX_PIXELS
from kfp_vision.engines import cropping
from kfp_vision.evaluation import metrics
from kfp_vision.evaluation.left_out import KEPT
from kfp_vision.evaluation.temperature import fit_temperature
from kfp_vision.networks import NETWORKS, pretrained, split_head
from kfp_vision.prediction.likeness import Novelty, normalize, spread
from kfp_vision.prediction.novelty import fit_novelty
from kfp_vision.storage import sample
from kfp_vision.training import features, trainer
from kfp_vision.training.recipe import Recipe

OURS = "ours"
SCORES = {
    "probability": "largest probability (Hendrycks and Gimpel, 2017)",
    "logit": "largest logit (Hendrycks et al., 2022)",
    "energy": "energy (Liu et al., 2020)",
    "means": "cosine to the class means",
    "neighbours": "tenth nearest training image (Sun et al., 2022)",
    "mahalanobis": "Mahalanobis distance to the class means (Lee et al., 2018)",
    "relative": "relative Mahalanobis distance (Ren et al., 2021), half of ours",
    "gaussians": "a Gaussian for each class, half of ours",
}
# What no score without an image of the class left out can be expected to reach: a regression that has seen some.
SHOTS = {
    1: "a regression that has seen one image of the class",
    5: "a regression that has seen five",
    0: "one that has seen all",
}
NEIGHBOURS = 10
DRAWN, PAGES = 100, 25  # images of the drawn sample; of noise, and of one colour
BATCH = 64
REGRESSION_C = 10.0  # of embeddings of length 1
PERFECT_DRAWS = 200  # of labels from the scores themselves

Floats = npt.NDArray[np.float32]


class Photographs(NamedTuple):
    """The embeddings of the photographs, and of images of other kinds.

    Attributes:
        values: of the photographs, (images, width).
        mirrored: of the mirrored photographs, (images, width).
        labels: names of their classes, (images,).
        folds: numbers of their folds, as in `learn.split_folds`, (images,).
        others: of images that are no photographs, by kind.
    """

    values: Floats
    mirrored: Floats
    labels: npt.NDArray[np.str_]
    folds: npt.NDArray[np.int64]
    others: dict[str, Floats]


class Confidence(NamedTuple):
    """How sure a model is of held-out images, and whether it is right; parts of several models may be put together.

    Attributes:
        scaled: score of the predicted class with the temperature, (images,).
        plain: without it, (images,).
        correct: whether the class is right, (images,).
    """

    scaled: Floats
    plain: Floats
    correct: npt.NDArray[np.bool_]


class Part(NamedTuple):
    """The embeddings of one part of the photographs, and their class indices."""

    values: Floats
    labels: npt.NDArray[np.int64]


def run() -> list[Figure]:
    """Runs this benchmark.

    Returns:
        Its figures; none without the weights.
    """
    name = os.environ.get("BENCH_NETWORK", "googlenet")
    weights = networks.find_weights(name)
    if not weights:
        return []
    images = embed(name, weights)
    classes = np.unique(images.labels).tolist()
    told = [_tell_left_out(name, images, at % learn.FOLDS, left_out) for at, left_out in enumerate(classes)]
    calibrated = [_calibrate(name, images, fold) for fold in range(rounds())]
    return _novelty_figures(told) + _calibration_figures(calibrated)


def embed(name: str, weights: str) -> Photographs:
    """Computes the embeddings of all images.

    Args:
        name: of the network.
        weights: its checkpoint, or `imagenet`.

    Returns:
        The embeddings. Photographs that exist twice are left out, as in `learn.split_folds`.
    """
    network = NETWORKS[name]
    model = trainer.build_network(name, 1, hardware.precision(), image_size=network.image_size)
    pretrained.load_pretrained(model, network, weights)
    body, _ = split_head(model)

    def compute(encoded: Sequence[bytes], *, mirrored: bool = False) -> Floats:
        crops = np.stack([cropping.crop_floats(one, network.image_size, MAX_PIXELS, network.crop) for one in encoded])
        crops = crops[:, :, ::-1] if mirrored else crops
        parts = [np.asarray(body(crops[at : at + BATCH], training=False), np.float32) for at in range(0, len(crops), BATCH)]
        return np.concatenate(parts).astype(np.float16).astype(np.float32)  # as `features` keeps them

    named = dict(photographs.read_images())
    digests = {key: sha256(encoded).hexdigest() for key, encoded in named.items()}
    copies = Counter(digests.values())
    kept = [key for key in named if copies[digests[key]] == 1]
    encoded = [named[key] for key in kept]
    return Photographs(
        compute(encoded),
        compute(encoded, mirrored=True),
        np.array([key.partition("/")[0] for key in kept]),
        np.array([int(digests[key][8:16], 16) % learn.FOLDS for key in kept]),
        {"drawn": compute(list(_drawn())), "pages": compute(list(_pages()))},
    )


def _novelty_figures(told: list[dict[str, dict[str, float]]]) -> list[Figure]:
    figures = []
    for score, peer in SCORES.items():
        for kind in ("left_out", "drawn", "pages"):
            pairs = [(100 * one[OURS][kind], 100 * one[score][kind]) for one in told]
            figures.append(report(f"unknown_{kind}", peer, "% AUROC", pairs, middle=statistics.mean))
        pairs = [(100 * one[OURS]["false_positives"], 100 * one[score]["false_positives"]) for one in told]
        figures.append(report("unknown_left_out_passes", peer, "%", pairs, less=True, middle=statistics.mean))
    for shots, peer in SHOTS.items():
        pairs = [(100 * one[OURS]["left_out"], 100 * one[f"seen_{shots}"]["left_out"]) for one in told]
        figures.append(report("unknown_left_out", peer, "% AUROC", pairs, middle=statistics.mean))
    kept = [(100 * one[OURS]["kept"], 95.0) for one in told]
    return [*figures, report("unknown_known_kept", "what known_share asks for", "%", kept, middle=statistics.mean)]


def _calibration_figures(parts: list[Confidence]) -> list[Figure]:
    """Reports the calibration error in the mean of the splits, and of all their held-out images together."""
    together = Confidence(*(np.concatenate(values) for values in zip(*parts, strict=True)))
    figures = []
    for benchmark, estimate, measured in (
        ("calibration_error", _calibration_error, parts),
        ("calibration_error_together", _calibration_error, [together]),
        ("calibration_error_sweep", calibration_errors.sweep_error, [together]),
        ("calibration_error_debiased", calibration_errors.debiased_error, [together]),
    ):
        ours = [100 * estimate(one.scaled, one.correct) for one in measured]
        peers = {
            "without the temperature": [100 * estimate(one.plain, one.correct) for one in measured],
            "scores that mean exactly what they say": [
                100 * float(calibration_errors.perfect_scores(estimate, one.scaled, PERFECT_DRAWS).mean()) for one in measured
            ],
        }
        for peer, theirs in peers.items():
            pairs = list(zip(ours, theirs, strict=True))
            figures.append(report(benchmark, peer, "%", pairs, less=True, middle=statistics.mean))
    return figures


def _tell_left_out(name: str, images: Photographs, fold: int, left_out: str) -> dict[str, dict[str, float]]:
    """Trains without a class; returns by score how it tells held-out images from those of the class and from other kinds."""
    training, validation, test, classes = _split(images, fold, left_out)
    logits = _train_head(name, training, classes)
    novelty = fit_novelty(training.values, training.labels, classes, validation.values, Advanced().known_share)
    photographs_only = training.values[: len(training.values) // 2], training.labels[: len(training.labels) // 2]
    halves = {name: partial(_measure, novelty, at) for at, name in enumerate(("gaussians", "relative"))}
    candidates = _candidates(logits, *photographs_only) | halves | {OURS: novelty.known_scores}
    unknown = {"left_out": images.values[images.labels == left_out], **images.others}
    found = {}
    for score, function in candidates.items():
        known = function(test.values)
        others = {kind: function(values) for kind, values in unknown.items()}
        found[score] = {kind: _auroc(known, other) for kind, other in others.items()}
        found[score]["false_positives"] = float((others["left_out"] >= np.quantile(known, 1 - KEPT)).mean())
        if score == OURS:
            found[score]["kept"] = float((known >= novelty.threshold).mean())
    for shots in SHOTS:
        found[f"seen_{shots}"] = {"left_out": _tell_seen(images, fold, left_out, photographs_only, test, shots)}
    print(json.dumps({"fold": fold, "left_out": left_out, **found}), file=sys.stderr, flush=True)
    return found


def _calibrate(name: str, images: Photographs, fold: int) -> Confidence:
    """Trains on all classes; returns how sure the model is of the held-out images."""
    from scipy import special

    training, validation, test, classes = _split(images, fold, "")
    logits = _train_head(name, training, classes)
    temperature = fit_temperature(logits(validation.values), validation.labels)
    plain = special.softmax(logits(test.values), axis=1)
    scaled = special.softmax(logits(test.values) / temperature, axis=1)
    found = Confidence(scaled.max(1), plain.max(1), plain.argmax(1) == test.labels)
    line = {"fold": fold, "temperature": temperature, "accuracy": float(found.correct.mean()), "images": len(test.labels)}
    print(json.dumps(line), file=sys.stderr, flush=True)
    return found


def _split(images: Photographs, fold: int, left_out: str) -> tuple[Part, Part, Part, int]:
    """Returns training images, with their mirror images after them, validation and test images, and the number of classes."""
    known = np.unique(images.labels[images.labels != left_out])
    labels = np.searchsorted(known, images.labels)
    validates = (fold + 1) % learn.FOLDS
    held_out, validating = images.folds == fold, images.folds == validates
    kept = images.labels != left_out
    chosen = kept & ~held_out & ~validating
    both = np.concatenate([images.values[chosen], images.mirrored[chosen]])
    parts = [Part(images.values[kept & which], labels[kept & which]) for which in (validating, held_out)]
    return Part(both, np.tile(labels[chosen], 2)), parts[0], parts[1], len(known)


def _train_head(name: str, training: Part, classes: int) -> Callable[[Floats], Floats]:
    """Trains a classification head alone; returns the function from embeddings to logits."""
    recipe = Recipe(
        network=name,
        fine_tune=True,
        checkpoint_uri="",
        train_last_layer_only=True,
        batch_size=64,
        train_steps=1500,
        optimizer="momentum",
        learning_rate=0.03,
        learning_rate_schedule="cosine",
        image_size=0,
        gpu_count=0,
        model_name="benchmark",
        advanced=Advanced(weight_decay=0.01),
    )
    _, head = split_head(trainer.build_network(name, classes, "float32", image_size=NETWORKS[name].image_size))
    learner = trainer.Trainer(head, recipe, len(training.labels) / recipe.batch_size)
    cached = features.CachedFeatures(training.values.astype(np.float16), training.labels)
    batches = features.training_batches(cached, batch_size=recipe.batch_size, seed=0, first_step=0)
    for _ in learner.run(batches, None):
        pass
    return lambda values: np.asarray(head(values, training=False))


def _candidates(logits: Callable[[Floats], Floats], known: Floats, labels: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Returns the scores that ours is compared with: functions of embeddings, larger for what is more known."""
    from scipy import special
    from sklearn.covariance import LedoitWolf

    references = normalize(known)
    means = np.stack([references[labels == label].mean(0) for label in np.unique(labels)])
    precision = LedoitWolf(assume_centered=True).fit(references - means[labels]).precision_

    def mahalanobis(values: Floats) -> Floats:
        distances = [(((normalize(values) - mean) @ precision) * (normalize(values) - mean)).sum(1) for mean in means]
        nearest: Floats = -np.min(distances, axis=0)
        return nearest

    return {
        "probability": lambda values: special.softmax(logits(values), axis=1).max(1),
        "logit": lambda values: logits(values).max(1),
        "energy": lambda values: special.logsumexp(logits(values), axis=1),
        "means": lambda values: (normalize(values) @ normalize(means).T).max(1),
        "neighbours": lambda values: np.sort(normalize(values) @ references.T, axis=1)[:, -NEIGHBOURS],
        "mahalanobis": mahalanobis,
    }


def _measure(novelty: Novelty, at: int, values: Floats) -> Floats:
    best: Floats = novelty.measures(spread(values))[at].max(1)
    return best


def _tell_seen(
    images: Photographs, fold: int, left_out: str, known: tuple[Floats, npt.NDArray[np.int64]], test: Part, shots: int
) -> float:
    """Returns how a logistic regression that has seen images of the class left out tells its other ones; 0 shots: all folds."""
    from sklearn.linear_model import LogisticRegression

    of_class = np.flatnonzero(images.labels == left_out)
    folds = images.folds[of_class]
    training = ~np.isin(folds, (fold, (fold + 1) % learn.FOLDS))
    seen = np.random.default_rng(fold).permutation(of_class)[:shots] if shots else of_class[training]
    unseen = np.setdiff1d(of_class, seen) if shots else of_class[folds == fold]
    rows = np.concatenate([spread(known[0]), spread(images.values[seen])])
    labels = np.concatenate([known[1], np.full(len(seen), known[1].max() + 1)])
    regression = LogisticRegression(C=REGRESSION_C, class_weight="balanced", max_iter=1000).fit(rows, labels)
    scores = [-regression.predict_log_proba(spread(values))[:, -1] for values in (test.values, images.values[unseen])]
    return _auroc(*scores)


def _calibration_error(scores: Floats, correct: npt.NDArray[np.bool_]) -> float:
    error: float = metrics.bin_scores(scores, correct)["expected_calibration_error"]
    return error


def _auroc(known: Floats, unknown: Floats) -> float:
    from sklearn.metrics import roc_auc_score

    truth = np.repeat([1, 0], [len(known), len(unknown)])
    return float(roc_auc_score(truth, np.concatenate([known, unknown])))


def _drawn() -> Iterator[bytes]:
    names = [name for name in sample.image_names() if name.endswith(".jpg")]
    for name in names[:: max(1, len(names) // DRAWN)][:DRAWN]:
        yield sample.draw(name)


def _pages() -> Iterator[bytes]:
    """Yields noise, coarse or fine, and pages of one colour."""
    generator = np.random.default_rng(0)
    for _ in range(PAGES):
        noise = generator.integers(0, 256, (*generator.integers(4, 300, 2), 3), np.uint8)
        yield _png(Image.fromarray(noise).resize((400, 300), Image.Resampling.BICUBIC))
        yield _png(Image.new("RGB", (400, 300), tuple(generator.integers(0, 256, 3).tolist())))


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
