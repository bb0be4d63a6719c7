"""Measures what the check for drift finds: draws of photographs without a drift, and blurred, darkened and of a new class.

The photographs are embedded once by GoogLeNet with Caffe's weights, or the network that BENCH_NETWORK names. A third of them
teaches a linear head, which names classes, and what tells known images; of the others, one half is the reference, and the
images in use are drawn from the other half. A photograph that exists twice is left out.
"""

import io
import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageFilter

from benchmarks import networks, photographs
from benchmarks.measure import Figure, report
from kfp_vision.collection.drift import LEVEL
from kfp_vision.collection.two_samples import compare_samples
from kfp_vision.core import hardware
from kfp_vision.core.advanced import Advanced
from kfp_vision.dataset.images import MAX_PIXELS
from kfp_vision.engines import cropping
from kfp_vision.networks import NETWORKS, pretrained, split_head
from kfp_vision.prediction.novelty import Novelty, fit_novelty
from kfp_vision.training import trainer

BATCH = 64
FALSE_DRAWS, FALSE_LIMIT = 100, 5  # draws without a drift, and how many of them may be called drifted
DRAWS = 20  # of each drift and number of images
COUNTS = (50, 75, 100, 150, 200)  # images in use
FOUND_SHARE = 0.9  # of the draws, from which on so many images suffice
# Of the images in use, of a class that is new to the model.
NEW_SHARES = {"in_ten": 1 / 10, "in_five": 1 / 5, "in_three": 1 / 3}
BLUR, BRIGHTNESS = 2.0, 0.5  # radius in pixels of an image of 256; of the darkened images
ENOUGH = "the limit"

Floats = npt.NDArray[np.float32]


class Embedded(NamedTuple):
    """The embeddings of all photographs, (images, width) each, and their classes, (images,)."""

    plain: Floats
    blurred: Floats
    darkened: Floats
    labels: npt.NDArray[np.int64]


class Draw(NamedTuple):
    """A reference and the images that may come in use, positions of photographs, a linear head, and what tells known images."""

    reference: npt.NDArray[np.int64]
    others: npt.NDArray[np.int64]
    head: Floats
    novelty: Novelty


def run() -> list[Figure]:
    """Runs this benchmark.

    Returns:
        Its figures; none without the weights.
    """
    name = os.environ.get("BENCH_NETWORK", "googlenet")
    weights = networks.find_weights(name)
    if not weights:
        return []
    images, generator = embed(name, weights), np.random.default_rng(1)
    smallest_third = min(np.sum(images.labels != label) for label in images.labels) // 3  # of the draws without a class
    counts = [count for count in COUNTS if count * (1 - min(NEW_SHARES.values())) <= smallest_third]
    false = sum(is_found(images, images.plain, draw(images, generator), counts[-1], generator) for _ in range(FALSE_DRAWS))
    figures = [report("drift_false", ENOUGH, f"of {FALSE_DRAWS} draws", [(max(false, 0.1), FALSE_LIMIT)], less=True)]
    drifts: dict[str, Callable[[int], bool]] = {
        "blurred": lambda count: is_found(images, images.blurred, draw(images, generator), count, generator),
        "darkened": lambda count: is_found(images, images.darkened, draw(images, generator), count, generator),
    }
    for name, share in NEW_SHARES.items():
        drifts[f"new_{name}"] = partial(finds_new_class, images, share=share, generator=generator)
    for kind, finds in drifts.items():
        shares = {count: sum(finds(count) for _ in range(DRAWS)) / DRAWS for count in counts}
        enough = next((count for count in counts if shares[count] >= FOUND_SHARE), 0)
        figures.append(report(f"drift_{kind}_found", "the share that counts as found", "%", [(100 * max(shares.values()), 90)]))
        if enough:
            figures.append(report(f"drift_{kind}_images", ENOUGH, "images", [(enough, counts[-1])], less=True))
    return figures


def embed(name: str, weights: str) -> Embedded:
    """Computes the embeddings of the photographs.

    Args:
        name: of the network.
        weights: its checkpoint, or `imagenet`.

    Returns:
        Those of the photographs as they are, blurred, and darkened.
    """
    network = NETWORKS[name]
    model = trainer.build_network(name, 1, hardware.precision(), image_size=network.image_size)
    pretrained.load_pretrained(model, network, weights)
    body, _ = split_head(model)

    def compute(encoded: Sequence[bytes], change: Callable[[Image.Image], Image.Image] | None = None) -> Floats:
        changed = [_change(one, change) if change else one for one in encoded]
        parts = []
        for at in range(0, len(changed), BATCH):
            crops = [
                cropping.crop_floats(one, network.image_size, MAX_PIXELS, network.crop) for one in changed[at : at + BATCH]
            ]
            parts.append(np.asarray(body(np.stack(crops), training=False), np.float32))
        return np.concatenate(parts).astype(np.float16).astype(np.float32)  # as they are collected

    named = dict(photographs.read_images())
    copies = Counter(named.values())
    named = {key: encoded for key, encoded in named.items() if copies[encoded] == 1}
    classes = sorted({key.partition("/")[0] for key in named})
    labels = np.array([classes.index(key.partition("/")[0]) for key in named])
    blurred = compute(list(named.values()), lambda image: image.filter(ImageFilter.GaussianBlur(BLUR * image.height / 256)))
    darkened = compute(list(named.values()), lambda image: ImageEnhance.Brightness(image).enhance(BRIGHTNESS))
    return Embedded(compute(list(named.values())), blurred, darkened, labels)


def draw(images: Embedded, generator: np.random.Generator, left_out: int = -1) -> Draw:
    """Draws a reference, and what a model is made of.

    Args:
        images: the photographs.
        generator: draws.
        left_out: class of which neither the reference nor the model gets an image; -1 for none.

    Returns:
        A third of the photographs each for the model, the reference, and those in use.
    """
    order = generator.permutation(np.flatnonzero(images.labels != left_out))
    taught, reference, others = np.array_split(order, 3)
    rows = np.c_[images.plain[taught], np.ones(len(taught), np.float32)]
    targets = np.eye(images.labels.max() + 1, dtype=np.float32)[images.labels[taught]]
    products = rows @ rows.T
    ridge = np.trace(products) / len(products) * np.eye(len(products), dtype=np.float32)
    head = rows.T @ np.linalg.solve(products + ridge, targets)
    known = (images.plain[taught], images.labels[taught], len(targets[0]), images.plain[reference])
    return Draw(reference, others, head, fit_novelty(*known, Advanced().known_share))


def is_found(images: Embedded, values: Floats, drawn: Draw, count: int, generator: np.random.Generator) -> bool:
    """Returns whether images in use count as drifted.

    Args:
        images: the photographs, from which the reference is.
        values: embeddings of which the images in use are.
        drawn: the reference and the head.
        count: number of images in use.
        generator: draws them.
    """
    return _drifts(images.plain[drawn.reference], values[generator.choice(drawn.others, count, replace=False)], drawn)


def finds_new_class(images: Embedded, count: int, *, share: float, generator: np.random.Generator) -> bool:
    """Returns whether images in use count as drifted of which some are of a new class, any of the five.

    Args:
        images: the photographs.
        count: number of images in use.
        share: of the images in use, those of the new class.
        generator: draws them.
    """
    left_out = int(generator.integers(images.labels.max() + 1))
    drawn, new = draw(images, generator, left_out), round(share * count)
    known = generator.choice(drawn.others, count - new, replace=False)
    unseen = generator.choice(np.flatnonzero(images.labels == left_out), new, replace=False)
    return _drifts(images.plain[drawn.reference], images.plain[np.concatenate([known, unseen])], drawn)


def _drifts(reference: Floats, used: Floats, drawn: Draw) -> bool:
    both = np.concatenate([reference, used])
    named = np.eye(drawn.head.shape[1], dtype=bool)[(np.c_[both, np.ones(len(both))] @ drawn.head).argmax(1)]
    at, known = len(reference), drawn.novelty.known_scores(both)
    return compare_samples(reference, used, named[:at], named[at:], known).smallest_p < LEVEL


def _change(encoded: bytes, change: Callable[[Image.Image], Image.Image]) -> bytes:
    file = io.BytesIO()
    change(Image.open(io.BytesIO(encoded)).convert("RGB")).save(file, "JPEG", quality=95)
    return file.getvalue()
