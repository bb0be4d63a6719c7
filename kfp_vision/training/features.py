"""Features of frozen layers, computed once to train the layers after them."""

import itertools
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kfp_vision.core.crop_shapes import STRETCHED
from kfp_vision.core.frameworks import tf
from kfp_vision.records.records_folder import read_records_info
from kfp_vision.storage import mapped_arrays
from kfp_vision.training import input_pipeline, monitoring
from kfp_vision.training.frozen_layers import Forward
from kfp_vision.training.padding import even_batch_size

MAX_FEATURE_BATCH = 64  # images per forward pass
LARGEST_FEATURE = 65504  # of float16


class CachedFeatures(NamedTuple):
    """The features and labels of images.

    Attributes:
        values: float16 (images, width) of a whole network, (images, rows, columns, channels) of its first blocks; memory-mapped
            from a file.
        labels: int64 (images,), or where images have several, float32 (images, classes).
        overflowing: number of rows with a feature that is no number, or beyond `LARGEST_FEATURE`. After a few steps from
            random weights, batch norm's statistics are far from those of the images, and features grow from layer to layer.
    """

    values: npt.NDArray[np.float16]
    labels: npt.NDArray[np.int64] | npt.NDArray[np.float32]
    overflowing: int = 0


def compute_features(
    forward: Forward,
    folder: Path,
    image_size: int,
    scratch: Path,
    *,
    mirrored: bool,
    crop: str = STRETCHED,
    max_images: int | None = None,
) -> CachedFeatures:
    """Computes the features of all images of a folder of records, cropped as in the evaluation.

    Args:
        forward: computes the features of a batch of images, see `frozen_layers`.
        folder: folder of records.
        image_size: height and width of the images in pixels.
        scratch: folder for the file of features.
        mirrored: also compute the features of every image mirrored.
        crop: what the network sees of an image, see `crop_shapes`.
        max_images: images after which to stop; by default none.

    Returns:
        The features, in the order of the records; a mirrored batch follows the batch that it mirrors.
    """
    images = read_records_info(folder).images
    if max_images is not None:
        images = min(images, max_images)
    batch_size = even_batch_size(images, MAX_FEATURE_BATCH) if images else 1
    batches = input_pipeline.EvaluationBatches(
        folder, image_size=image_size, batch_size=batch_size, crop=crop, max_images=max_images
    )
    views = ((view, labels) for batch, labels in batches for view in ((batch, batch[:, :, ::-1]) if mirrored else (batch,)))
    return cache_features(forward, views, images * (2 if mirrored else 1), scratch)


def cache_features(
    forward: Forward, batches: Iterable[tuple[tf.Tensor, tf.Tensor]], count: int, scratch: Path
) -> CachedFeatures:
    """Computes the features of the first images of some batches, and prints every few seconds how many have theirs.

    Args:
        forward: computes the features of a batch of images, see `frozen_layers`.
        batches: images, and labels as in `input_pipeline`; at least `count` images.
        count: number of images.
        scratch: folder for the file of features.

    Returns:
        The features, in the order of the batches.

    Raises:
        OSError: the disk has no room for them.
    """
    file = Path(tempfile.mkdtemp(dir=scratch), "features.npy")
    cached = CachedFeatures(np.empty((0, 0), np.float16), np.empty(0, np.int64))
    done = overflowing = 0
    start = last_line = time.monotonic()
    for images, batch_labels in batches:
        values, labels = forward(images)[: count - done], batch_labels.numpy()[: count - done]
        if not done:
            table = mapped_arrays.create(file, np.float16, (count, *values.shape[1:]))
            cached = CachedFeatures(table, np.empty((count, *labels.shape[1:]), labels.dtype))
        end = done + len(labels)
        cached.values[done:end], cached.labels[done:end] = values, labels
        overflowing += int((~np.isfinite(values).all(tuple(range(1, values.ndim)))).sum())
        done = end
        if done == count:
            break
        if (now := time.monotonic()) - last_line >= monitoring.SECONDS_BETWEEN_LINES:
            print(monitoring.features_line(done, count, now - start), flush=True)
            last_line = now
    return cached._replace(overflowing=overflowing)


def training_batches(
    cached: CachedFeatures, *, batch_size: int, seed: int, first_step: int, part: tuple[int, int] = (0, 1)
) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """Yields endless batches in a seeded random order, every image once per epoch.

    Args:
        cached: features of all images.
        batch_size: images per batch, over all slices.
        seed: seed of the order.
        first_step: number of batches to skip.
        part: (i, n) for the i-th of n equal slices of every batch.

    Yields:
        float32 features (slice, ...), and labels (slice, ...).
    """
    draw = input_pipeline.draw_slices(len(cached.labels), batch_size=batch_size, seed=seed, part=part)
    for step in itertools.count(first_step):
        _, places = draw(step)
        yield tf.constant(cached.values[places], tf.float32), tf.constant(cached.labels[places])


class ValidationBatches:
    """All features once, in order. Iterable many times.

    Args:
        cached: features of all images.

    Yields:
        float32 features (batch, ...), and labels; the last batch may be smaller.
    """

    def __init__(self, cached: CachedFeatures):
        self._cached = cached

    def __iter__(self) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        values, labels = self._cached.values, self._cached.labels
        for start in range(0, len(labels), MAX_FEATURE_BATCH):
            batch = slice(start, start + MAX_FEATURE_BATCH)
            yield tf.constant(values[batch], tf.float32), tf.constant(labels[batch])
