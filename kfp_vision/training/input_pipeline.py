"""Reads TFRecord files as batches for training and evaluation: decodes, crops and augments images.

Without TensorFlow's operations where it can: for one image, calling them takes longer than what they do.

Batches are (images, labels): float32 (batch, size, size, 3) RGB in 0 to 255, and int64 (batch,), or where images have several
labels, float32 (batch, classes), 1 for each class of an image.
"""

import itertools
import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kfp_vision.core import hardware, threads
from kfp_vision.core.crop_shapes import STRETCHED
from kfp_vision.core.errors import InputError
from kfp_vision.core.frameworks import tf
from kfp_vision.engines.cropping import Window, central_window
from kfp_vision.engines.resizing import Floats
from kfp_vision.records.records_folder import RandomAccessRecords, RecordsInfo, read_records_info
from kfp_vision.training.augmentation import (
    Augmentation,
    NumberedSeeds,
    draw_augmentation,
    flip_and_distort,
    mix_up,
    rand_augment,
)
from kfp_vision.training.record_images import RecordImage, RecordImages

Batch = tuple[Any, tf.Tensor]
CROP_STREAM, COLOUR_STREAM, OPERATION_STREAM, BLEND_STREAM = range(4)  # streams of random numbers
STREAMS_PER_SEED = 8  # per seed
BATCHES_AHEAD = 2  # finished batches that wait to be used
TENSOR_ALIGNMENT = 64  # bytes; TensorFlow ends the process if a tensor is at another address (EIGEN_MAX_ALIGN_BYTES)


def training_batches(
    folder: Path,
    *,
    image_size: int,
    batch_size: int,
    seed: int,
    augmentation: Augmentation,
    first_step: int = 0,
    part: tuple[int, int] = (0, 1),
    memory: int = 0,
    in_bytes: bool = False,
) -> Iterator[Batch]:
    """Yields endless augmented batches in a random order, with every image once per epoch.

    Not a tf.data dataset: one that calls Python for its records can keep a process from ending, since its threads wait for an
    interpreter that waits for them.

    Order and augmentation of an image depend only on the seed and on the image's number in the whole sequence. So a resumed
    training continues exactly, and several workers together see what one would see. MixUp is the exception: it blends images
    within a worker's slice of the batch.

    Example:
        >>> settings = {"image_size": 224, "batch_size": 32, "seed": 0, "augmentation": Augmentation()}
        >>> batches = training_batches(Path("records/train"), **settings)
        >>> images, labels = next(batches)
        >>> images.shape, labels.shape
        (TensorShape([32, 224, 224, 3]), TensorShape([32]))

    Args:
        folder: of records.
        image_size: height and width in pixels.
        batch_size: images per step, of all workers together.
        seed: from 0 to 4294967295.
        augmentation: of the images.
        first_step: number of the first batch, from 0; earlier batches are not read.
        part: (i, n) for the i-th of n equal slices of each batch, counted from 0.
        memory: bytes for caching decoded images; the batches do not depend on it.
        in_bytes: whether images are cropped only, for `augmentation.augment_on_device`; not with RandAugment and MixUp.

    Returns:
        Batches of images and labels as the module says; with MixUp the labels are always float32 (batch, classes). In bytes,
        the images are a pair: uint8 (batch, size, size, 3), and float32 (batch, 3), numbers from 0 to 1 to augment them by.

    Raises:
        InputError: batch_size is not divisible by the number of slices, or a shard is damaged.
    """
    images, info = RecordImages(RandomAccessRecords(folder), image_size, memory), read_records_info(folder)
    slice_number, slices = part
    draw = draw_slices(len(images), batch_size=batch_size, seed=seed, part=part)
    streams = (STREAMS_PER_SEED * seed + CROP_STREAM, STREAMS_PER_SEED * seed + COLOUR_STREAM)
    draw_in_graph = tf.function(lambda numbers, sides: draw_augmentation(numbers, sides, streams, augmentation))
    apply_operations = rand_augment(augmentation.rand_augment, augmentation.rand_augment_magnitude)
    blend = mix_up(augmentation.mixup_alpha, len(info.labels)) if augmentation.mixup_alpha else None

    def augment_strongly(step: tf.Tensor, numbers: tf.Tensor, batch: tf.Tensor, labels: tf.Tensor) -> Batch:
        def apply(number_and_image: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            number, image = number_and_image
            return apply_operations(image, NumberedSeeds(STREAMS_PER_SEED * seed + OPERATION_STREAM, number))

        if augmentation.rand_augment:
            batch = tf.map_fn(apply, (numbers, batch), fn_output_signature=tf.TensorSpec(batch.shape[1:], tf.float32))
        if not blend:
            return batch, labels
        return blend(batch, labels, NumberedSeeds(STREAMS_PER_SEED * seed + BLEND_STREAM, step * slices + slice_number))

    memory_of_batches = BatchMemory(image_size)
    augment_in_graph = tf.function(augment_strongly) if augmentation.rand_augment or blend else None
    share = batch_size // slices
    with tf.device("CPU"):  # traced before the threads start, each of which TensorFlow would count as a trace
        numbers = tf.TensorSpec((share,), tf.int64)
        draw_in_graph.get_concrete_function(numbers, tf.TensorSpec((share, 2), tf.int64))
        if augment_in_graph:
            pixels = tf.TensorSpec((share, image_size, image_size, 3), tf.float32)
            labels = tf.TensorSpec((share, len(info.labels)), tf.float32) if info.several else numbers
            augment_in_graph.get_concrete_function(tf.TensorSpec((), tf.int64), numbers, pixels, labels)

    def read_batch(step: int) -> Batch:
        positions, numbers = draw(step)
        read = images.read(numbers)
        pixels = memory_of_batches.empty(len(read))
        with tf.device("CPU"):
            tensors = tf.constant(positions, tf.int64), tf.constant([image.sides for image in read], tf.int64)
            windows, uniform = (drawn.numpy() for drawn in draw_in_graph(*tensors))
            for image, window, changes, out in zip(read, windows.tolist(), uniform, pixels, strict=True):
                images.crop(image, Window(*window), out)
                if not in_bytes:
                    flip_and_distort(out, changes, augmentation)
            if in_bytes:
                levels = tf.constant(np.rint(pixels, out=pixels).astype(np.uint8))
                return (levels, tf.constant(uniform)), _labels_of(read, info)
            batch = _as_batch(pixels, read, info)
            return augment_in_graph(tf.constant(step, tf.int64), tensors[0], *batch) if augment_in_graph else batch

    return _read_ahead(images, read_batch, itertools.count(first_step))


class BatchMemory:
    """Memory for batches, each used again once the tensor before is gone: new memory costs as much as resizing into it.

    Args:
        image_size: height and width in pixels.
    """

    def __init__(self, image_size: int):
        self._image_size = image_size
        self._free: list[npt.NDArray[np.uint8]] = []

    def empty(self, images: int) -> Floats:
        """Returns an uninitialized array (images, size, size, 3) at an address that TensorFlow accepts for a tensor."""
        shape = (images, self._image_size, self._image_size, 3)
        size = 4 * math.prod(shape)
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(0, np.uint8)
        if len(memory) < size + TENSOR_ALIGNMENT:
            memory = np.empty(size + TENSOR_ALIGNMENT, np.uint8)
        first = -memory.ctypes.data % TENSOR_ALIGNMENT
        pixels = memory[first : first + size].view(np.float32).reshape(shape)
        weakref.finalize(pixels, self._free.append, memory).atexit = False
        return pixels


def _as_batch(pixels: Floats, images: Sequence[RecordImage], info: RecordsInfo) -> Batch:
    """Returns pixels from a `BatchMemory` as a tensor, without copying them, and the labels of the images."""
    tensor = tf.experimental.dlpack.from_dlpack(pixels.__dlpack__())
    return tensor, _labels_of(images, info)


def _labels_of(images: Sequence[RecordImage], info: RecordsInfo) -> tf.Tensor:
    return tf.constant(info.label_array([image.numbers for image in images]))


def _read_ahead(images: RecordImages, read_batch: Callable[[int], Batch], steps: Iterable[int]) -> Iterator[Batch]:
    """Yields batches that are read in threads, ahead of their use; closes the images in the end."""
    workers = hardware.cores()
    with images:
        yield from threads.ordered_map(read_batch, steps, workers=workers, limit=workers + BATCHES_AHEAD)


def draw_slices(count: int, *, batch_size: int, seed: int, part: tuple[int, int]) -> Callable[[int], tuple[range, list[int]]]:
    """Draws which items are in each batch: all once per epoch, in an order that depends on the seed and the epoch only.

    Args:
        count: number of items.
        batch_size: items per step, of all slices together.
        seed: from 0 to 4294967295.
        part: (i, n) for the i-th of n equal slices of each batch, counted from 0.

    Returns:
        A function from the number of a step to a slice of its batch: positions in the whole sequence, and item numbers.

    Raises:
        InputError: batch_size is not divisible by the number of slices.
    """
    slice_number, slices = part
    if batch_size % slices:
        remedy = f"Set batch_size to {max(1, round(batch_size / slices)) * slices}, for example."
        raise InputError(f"batch_size must be divisible by the number of workers, {slices}", batch_size, remedy)
    share = batch_size // slices

    @lru_cache(maxsize=2)  # a batch may begin in one epoch and end in the next
    def order(epoch: int) -> npt.NDArray[np.int64]:
        return np.random.default_rng((seed, epoch)).permutation(count)

    def draw(step: int) -> tuple[range, list[int]]:
        first = step * batch_size + slice_number * share
        positions = range(first, first + share)
        return positions, [order(position // count)[position % count] for position in positions]

    return draw


class EvaluationBatches:
    """Every image once, in the order of the shards, cropped as `central_crop` does. Iterable many times.

    Args:
        folder: of records.
        image_size: height and width in pixels.
        batch_size: images per batch; the last one may have fewer.
        max_images: images after which to stop; by default none.
        crop: what to show of an image, see `crop_shapes`.
    """

    def __init__(self, folder: Path, *, image_size: int, batch_size: int, max_images: int | None = None, crop: str = STRETCHED):
        self._crop, self._info = crop, read_records_info(folder)
        self._records, self._image_size, self._batch_size = RandomAccessRecords(folder), image_size, batch_size
        self._memory = BatchMemory(image_size)
        self._images = len(self._records) if max_images is None else min(max_images, len(self._records))

    def __iter__(self) -> Iterator[Batch]:
        """Yields batches of images and labels as the module says."""
        images = RecordImages(self._records, self._image_size)

        def read_batch(first: int) -> Batch:
            read = images.read(range(first, min(first + self._batch_size, self._images)))
            pixels = self._memory.empty(len(read))
            for image, out in zip(read, pixels, strict=True):
                images.crop(image, central_window(image.sides, self._crop), out)
            with tf.device("CPU"):
                return _as_batch(pixels, read, self._info)

        return _read_ahead(images, read_batch, range(0, self._images, self._batch_size))
