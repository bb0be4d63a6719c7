"""What a network that is not trained makes of each picture, computed once: all that its class layer has to learn from."""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from kfp_vision import inputs, records

BATCH = 64  # pictures at a time through the network


class Features(NamedTuple):
    """Features (number, width) in float16, in a file rather than in memory, and labels (number,)."""

    values: np.ndarray
    labels: np.ndarray


def features(body: Any, folder: Path, image_size: int, scratch: Path, *, mirrored: bool) -> Features:
    """The features of all pictures of a folder of records, as the evaluation shows them.

    Args:
        body: pictures to features.
        folder: of records.
        image_size: height and width of the pictures in pixels.
        scratch: a folder for a file of them.
        mirrored: whether every picture counts a second time, left and right changed about.
    """
    images = records.read_about(folder).images * (2 if mirrored else 1)
    file = Path(tempfile.mkdtemp(dir=scratch), "features.npy")
    values = np.lib.format.open_memmap(file, "w+", "float16", (images, body.output.shape[-1]))
    labels = np.empty(images, "int64")
    forward = tf.function(lambda pictures: tf.cast(body(pictures, training=False), tf.float16))
    at = 0
    for pictures, numbers in inputs.evaluation_batches(folder, image_size=image_size, batch_size=BATCH):
        for shown in (pictures, pictures[:, :, ::-1]) if mirrored else (pictures,):
            end = at + len(numbers)
            values[at:end], labels[at:end] = forward(shown).numpy(), numbers.numpy()
            at = end
    return Features(values, labels)


def training_batches(
    features: Features, *, batch_size: int, seed: int, first_step: int, part: tuple[int, int] = (0, 1)
) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """Endless batches in a random order that the seed decides, every picture once an epoch.

    Args:
        features: of all pictures.
        batch_size: of all parts together.
        seed: of the order.
        first_step: how many batches are passed over.
        part: which of how many equal slices of every batch.
    """
    drawn = inputs.random_slices(len(features.labels), batch_size=batch_size, seed=seed, part=part)
    for step in itertools.count(first_step):
        _, places = drawn(step)
        yield tf.constant(features.values[places], tf.float32), tf.constant(features.labels[places])


def batches(features: Features) -> tf.data.Dataset:
    """Every picture's features once, in order."""
    dataset = tf.data.Dataset.from_tensor_slices((np.asarray(features.values), features.labels)).batch(BATCH)
    return dataset.map(lambda values, numbers: (tf.cast(values, tf.float32), numbers))
