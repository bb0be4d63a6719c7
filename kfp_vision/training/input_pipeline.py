"""Reads TFRecord files as batches for training and evaluation: decodes, crops and augments images with TensorFlow.

Batches are (images, labels): float32 (batch, size, size, 3) RGB in 0 to 255, and int64 (batch,).
"""

import itertools
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kfp_vision.core import hardware, threads
from kfp_vision.core.errors import InputError
from kfp_vision.core.frameworks import tf
from kfp_vision.networks import decoding
from kfp_vision.records import example, tf_dataset
from kfp_vision.records.records_folder import RandomAccessRecords, read_records_info
from kfp_vision.training.augmentation import Augmentation, NumberedSeeds, flip_and_distort, mix_up, rand_augment, random_crop

CROP_STREAM, COLOUR_STREAM, OPERATION_STREAM, BLEND_STREAM = range(4)  # streams of random numbers
STREAMS_PER_SEED = 8  # per seed
BATCHES_AHEAD = 2  # finished batches that wait to be used


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
) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
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

    Returns:
        Batches of images as the module says, and labels: int64 (batch,), or with MixUp float32 (batch, classes).

    Raises:
        InputError: batch_size is not divisible by the number of slices, or a shard is damaged.
    """
    cache = DecodedCache(RandomAccessRecords(folder), image_size, memory)
    slice_number, slices = part
    draw = draw_slices(len(cache), batch_size=batch_size, seed=seed, part=part)
    apply_operations = rand_augment(augmentation.rand_augment, augmentation.rand_augment_magnitude)
    blend = mix_up(augmentation.mixup_alpha, len(read_records_info(folder).labels)) if augmentation.mixup_alpha else None

    def prepare(number_and_record: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        number, record = number_and_record
        features = tf_dataset.parse_record(record)
        image = random_crop(features, (STREAMS_PER_SEED * seed + CROP_STREAM, number), image_size, augmentation)
        image = flip_and_distort(image, (STREAMS_PER_SEED * seed + COLOUR_STREAM, number), augmentation)
        if augmentation.rand_augment:
            image = apply_operations(image, NumberedSeeds(STREAMS_PER_SEED * seed + OPERATION_STREAM, number))
        return image, features["image/class/label"]

    image_and_label = (tf.TensorSpec((image_size, image_size, 3), tf.float32), tf.TensorSpec((), tf.int64))

    def prepare_batch(step: tf.Tensor, numbers: tf.Tensor, records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images, labels = tf.map_fn(prepare, (numbers, records), fn_output_signature=image_and_label)
        if not blend:
            return images, labels
        return blend(images, labels, NumberedSeeds(STREAMS_PER_SEED * seed + BLEND_STREAM, step * slices + slice_number))

    prepare_in_graph = tf.function(prepare_batch)

    def read_batch(step: int) -> tuple[tf.Tensor, tf.Tensor]:
        numbers, record_numbers = draw(step)
        with tf.device("CPU"):
            records = tf.constant([cache.read(number) for number in record_numbers])
            images, labels = prepare_in_graph(tf.constant(step, tf.int64), tf.constant(numbers, tf.int64), records)
        return images, labels

    workers = hardware.cores()
    return threads.ordered_map(read_batch, itertools.count(first_step), workers=workers, limit=workers + BATCHES_AHEAD)


class DecodedCache:
    """Records by number, with a cache of decoded images.

    An image is cached when its record is first read, if it fits. A JPEG that `decode_jpeg_window` may decode at a
    reduced size is
    not cached: that is fast already, and gives other pixels.

    Args:
        records: random access to the records.
        image_size: height and width of the crops after resizing, in pixels.
        limit: bytes of pixels to cache.
    """

    def __init__(self, records: RandomAccessRecords, image_size: int, limit: int):
        self._records, self._image_size = records, image_size
        self._bytes_left, self._pixels = limit, dict[int, bytes]()
        self._seen = np.zeros(len(records), bool)  # an image that did not fit once never will: room only shrinks
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._records)

    def read(self, number: int) -> bytes:
        """Reads one record.

        Args:
            number: from 0.

        Returns:
            A serialized example; a cached image has the format `RAW_FORMAT`.

        Raises:
            ValueError: the checksum of the record does not match.
        """
        if number in self._pixels:
            return self._pixels[number]
        record = self._records.read(number)
        with self._lock:
            seen, self._seen[number] = self._seen[number], True
        if seen or self._bytes_left <= 0:
            return record
        features = {name: value.numpy() for name, value in tf_dataset.parse_record(record).items()}
        height, width = int(features["image/height"]), int(features["image/width"])
        size = 3 * height * width
        full_size = features["image/format"] == b"png" or min(height, width) // self._image_size < decoding.JPEG_REDUCTIONS[1]
        with self._lock:
            if not full_size or size > self._bytes_left:
                return record
            self._bytes_left -= size
        decode = tf.io.decode_png if features["image/format"] == b"png" else tf.io.decode_jpeg
        pixels = decode(features["image/encoded"], channels=3).numpy()
        features |= {"image/encoded": pixels.tobytes(), "image/format": decoding.RAW_FORMAT}
        numbers = {name: int(features[name]) for name in ("image/height", "image/width", "image/class/label")}
        self._pixels[number] = b"".join(example.serialize_features(features | numbers))
        return self._pixels[number]


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


def evaluation_batches(folder: Path, *, image_size: int, batch_size: int) -> tf.data.Dataset:
    """Reads every image once, in the order of the shards, cropped as `central_crop` does.

    Args:
        folder: of records.
        image_size: height and width in pixels.
        batch_size: images per batch; the last one may have fewer.

    Returns:
        Batches of images and labels as the module says.
    """

    def prepare(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        features = tf_dataset.parse_record(record)
        begin, size = decoding.central_window(tf.stack([features["image/height"], features["image/width"]]))
        return decoding.crop_record(features, begin, size, image_size), features["image/class/label"]

    # Not AUTOTUNE: one pass is over before it has found the right number of calls.
    images = tf_dataset.encoded_records(folder).map(prepare, num_parallel_calls=2 * hardware.cores(), deterministic=True)
    return images.batch(batch_size).prefetch(tf.data.AUTOTUNE)
