"""From TFRecord files to batches: reading, decoding, cropping, augmenting, with tf.data.

Batches are (pictures, labels): float32 (batch, size, size, 3) RGB in 0 to 255, and int64 (batch,).
"""

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import tensorflow as tf

from kfp_vision import examples, hardware, parallel
from kfp_vision.augmentations import Seeds, mix_up, rand_augment
from kfp_vision.errors import InputError
from kfp_vision.records import Numbered, read_about

CENTRAL_FRACTION = 0.875  # of each side, as TF-Slim and Caffe evaluate
RATIOS = (1, 2, 4, 8)  # at which libjpeg decodes without computing more
RAW = b"raw"  # the format of a picture that is kept as pixels: uint8 (height, width, 3)
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
CROPS, COLOURS, OPERATIONS, BLENDS = range(4)  # what is drawn at random: each from numbers of its own
STREAMS = 8
BATCHES_AHEAD = 2  # beside those that are being made


@dataclass(frozen=True)
class Augmentation:
    """How a training picture is varied: TF-Slim's Inception preprocessing, with its names and defaults but for one.

    Attributes:
        min_crop_area: smallest share of the picture that a crop keeps. TF-Slim says 0.05, which needs tens of thousands of
            steps to pay; 0.3 learns faster in a few hundred.
        min_aspect_ratio, max_aspect_ratio: width by height of a crop.
        max_brightness_delta: largest shift, as a share of white.
        lower_saturation, upper_saturation: range of the factor by which colours move away from grey.
        flip: mirror every other picture.
        rand_augment: how many operations of RandAugment follow; 0 for none.
        rand_augment_magnitude: how strong they are, from 0 to 1: 0.3 is the paper's magnitude 9 of 30, for ResNet-50.
        mixup_alpha: pictures are blended with others of their batch, by shares from Beta(alpha, alpha); 0 for none.
    """

    min_crop_area: float = 0.3
    min_aspect_ratio: float = 0.75
    max_aspect_ratio: float = 1.33
    max_brightness_delta: float = 32 / 255
    lower_saturation: float = 0.5
    upper_saturation: float = 1.5
    flip: bool = True
    rand_augment: int = 0
    rand_augment_magnitude: float = 0.3
    mixup_alpha: float = 0.0


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
    """Endless augmented batches in a random order: every picture once an epoch.

    Not a dataset of tf.data: one that calls Python for its records can keep a process from ending, as its threads wait for an
    interpreter that waits for them.

    What a picture is, and how it is varied, follows from the seed and its number in the whole sequence alone. So a training
    goes on where it stopped, and several that share the work see together what one would see. MixUp alone blends pictures of
    the same slice: those of the others are not read.

    Args:
        folder: of records.
        image_size: height and width in pixels.
        batch_size: pictures a step, of all parts together.
        seed: from 0 to 4294967295.
        augmentation: how pictures are varied.
        first_step: number of the first batch, from 0; nothing of those before it is read.
        part: (i, n) for the i-th of n equal slices of each batch, counted from 0.
        memory: bytes in which decoded pictures may be kept, so that none is decoded twice; the batches are the same.

    Returns:
        Pictures as the module says, and labels: int64 (batch,), or with MixUp float32 (batch, classes of the label map).

    Raises:
        InputError: batch_size cannot be divided into so many parts, or a file of records is damaged.
    """
    kept = Decoded(Numbered(folder), image_size, memory)
    slice_number, slices = part
    drawn = random_slices(len(kept), batch_size=batch_size, seed=seed, part=part)
    augmented = rand_augment(augmentation.rand_augment, augmentation.rand_augment_magnitude)
    blended = mix_up(augmentation.mixup_alpha, len(read_about(folder).labels)) if augmentation.mixup_alpha else None

    def prepare(numbered: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        number, record = numbered
        features = parse(record)
        picture = random_crop(features, (STREAMS * seed + CROPS, number), image_size, augmentation)
        picture = vary(picture, (STREAMS * seed + COLOURS, number), augmentation)
        if augmentation.rand_augment:
            picture = augmented(picture, Seeds(STREAMS * seed + OPERATIONS, number))
        return picture, features["image/class/label"]

    picture_and_label = (tf.TensorSpec((image_size, image_size, 3), tf.float32), tf.TensorSpec((), tf.int64))

    def prepare_all(step: tf.Tensor, numbers: tf.Tensor, records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pictures, labels = tf.map_fn(prepare, (numbers, records), fn_output_signature=picture_and_label)
        if not blended:
            return pictures, labels
        return blended(pictures, labels, Seeds(STREAMS * seed + BLENDS, step * slices + slice_number))

    prepared = tf.function(prepare_all)

    def of_step(step: int) -> tuple[tf.Tensor, tf.Tensor]:
        numbers, places = drawn(step)
        with tf.device("CPU"):
            records = tf.constant([kept.read(place) for place in places])
            return prepared(tf.constant(step, tf.int64), tf.constant(numbers, tf.int64), records)

    workers = hardware.cores()
    return parallel.mapped(of_step, itertools.count(first_step), workers=workers, limit=workers + BATCHES_AHEAD)


class Decoded:
    """Records by their number, of which those that fit keep their picture as pixels from when they are first read.

    A JPEG that may be decoded at a fraction of its size, see `part_of_jpeg`, is not kept: it gives other pixels then, and fast.

    Args:
        kept: the records as they lie in their files.
        image_size: height and width of what is made of a part of a picture.
        limit: bytes of pixels to keep.
    """

    def __init__(self, kept: Numbered, image_size: int, limit: int):
        self._kept, self._image_size = kept, image_size
        self._left, self._pixels = limit, dict[int, bytes]()
        self._looked_at = np.zeros(len(kept), bool)  # what is not kept then is never kept: there is only less room later
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def read(self, number: int) -> bytes:
        """One record, a serialised example; its picture is in the format `RAW` where it is kept.

        Raises:
            ValueError: its bytes are not those that were written.
        """
        if number in self._pixels:
            return self._pixels[number]
        record = self._kept.read(number)
        with self._lock:
            looked_at, self._looked_at[number] = self._looked_at[number], True
        if looked_at or self._left <= 0:
            return record
        features = {name: value.numpy() for name, value in parse(record).items()}
        height, width = int(features["image/height"]), int(features["image/width"])
        size = 3 * height * width
        whole = features["image/format"] == b"png" or min(height, width) // self._image_size < RATIOS[1]
        with self._lock:
            if not whole or size > self._left:
                return record
            self._left -= size
        decode = tf.io.decode_png if features["image/format"] == b"png" else tf.io.decode_jpeg
        pixels = decode(features["image/encoded"], channels=3).numpy()
        features |= {"image/encoded": pixels.tobytes(), "image/format": RAW}
        numbers = {name: int(features[name]) for name in ("image/height", "image/width", "image/class/label")}
        self._pixels[number] = b"".join(examples.serialised(features | numbers))
        return self._pixels[number]


def random_slices(count: int, *, batch_size: int, seed: int, part: tuple[int, int]) -> Callable[[int], tuple[range, list[int]]]:
    """Of each step, the numbers in the whole sequence of a slice of its batch, and which of `count` things stand there.

    Everything comes once an epoch, in an order that follows from the seed and the epoch's number alone.

    Raises:
        InputError: batch_size cannot be divided into so many parts.
    """
    slice_number, slices = part
    if batch_size % slices:
        remedy = f"Set batch_size to {max(1, round(batch_size / slices)) * slices}, say."
        raise InputError(f"batch_size must be divisible by the number of workers, {slices}", batch_size, remedy)
    share = batch_size // slices

    @lru_cache(maxsize=2)  # a batch may begin in one epoch and end in the next
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng((seed, epoch)).permutation(count)

    def drawn(step: int) -> tuple[range, list[int]]:
        first = step * batch_size + slice_number * share
        numbers = range(first, first + share)
        return numbers, [order(number // count)[number % count] for number in numbers]

    return drawn


def evaluation_batches(folder: Path, *, image_size: int, batch_size: int) -> tf.data.Dataset:
    """Every picture once, in the files' order, as `central_crop` shows it; the last batch may be smaller."""

    def prepare(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        features = parse(record)
        begin, size = _middle(tf.stack([features["image/height"], features["image/width"]]))
        return part_of(features, begin, size, image_size), features["image/class/label"]

    # A pass is over before tf.data's own tuning has found how many it takes.
    pictures = encoded_records(folder).map(prepare, num_parallel_calls=2 * hardware.cores(), deterministic=True)
    return pictures.batch(batch_size).prefetch(tf.data.AUTOTUNE)


def encoded_records(folder: Path) -> tf.data.Dataset:
    """The serialised examples of a folder of records, in the files' order."""
    return tf.data.TFRecordDataset([str(folder / shard) for shard in read_about(folder).shards])


def parse(record: tf.Tensor) -> dict[str, tf.Tensor]:
    """The fields of a serialised example that a classifier needs."""
    text, number = tf.io.FixedLenFeature((), tf.string), tf.io.FixedLenFeature((), tf.int64)
    wanted = {"image/encoded": text, "image/format": text, "image/filename": text, "image/class/label": number}
    return tf.io.parse_single_example(record, wanted | {"image/height": number, "image/width": number})


def central_crop(encoded: tf.Tensor, image_size: int) -> tf.Tensor:
    """The centre of an encoded picture: float32 (size, size, 3) in 0 to 255.

    The crop is that of `tf.image.central_crop`. Uses no operation that TensorFlow 2.6 lacks, since the export holds it.
    """

    def jpeg() -> tf.Tensor:
        sides = tf.image.extract_jpeg_shape(encoded)[:2]
        return part_of_jpeg(encoded, *_middle(sides), sides[1], image_size)

    def any_other() -> tf.Tensor:
        picture = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        return _sliced(picture, *_middle(tf.shape(picture)[:2]))

    return resize(tf.cond(tf.io.is_jpeg(encoded), jpeg, any_other), image_size)


def _middle(sides: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(top, left) and (height, width) of the middle of a picture of (height, width), as `tf.image.central_crop` rounds them."""
    begin = tf.cast(tf.cast(sides, tf.float32) * ((1 - CENTRAL_FRACTION) / 2), sides.dtype)
    return begin, sides - 2 * begin


def part_of(features: dict[str, tf.Tensor], begin: tf.Tensor, size: tf.Tensor, image_size: int) -> tf.Tensor:
    """A part of a record's picture: float32 (size, size, 3). Of a JPEG only that part is decoded.

    Args:
        features: the fields of a record.
        begin, size: (top, left) and (height, width) of the part in pixels.
        image_size: height and width of the result.
    """
    encoded = features["image/encoded"]

    def jpeg() -> tf.Tensor:
        top_left, sides, width = (tf.cast(one, tf.int32) for one in (begin, size, features["image/width"]))
        return part_of_jpeg(encoded, top_left, sides, width, image_size)

    def png() -> tf.Tensor:
        return _sliced(tf.io.decode_png(encoded, channels=3), begin, size)

    def raw() -> tf.Tensor:
        shape = tf.stack([features["image/height"], features["image/width"], 3])
        return _sliced(tf.reshape(tf.io.decode_raw(encoded, tf.uint8), shape), begin, size)

    kind = features["image/format"]
    return resize(tf.case([(kind == RAW, raw), (kind == b"png", png)], default=jpeg), image_size)


def _sliced(picture: tf.Tensor, begin: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    return tf.slice(picture, tf.pad(begin, [[0, 1]]), tf.pad(size, [[0, 1]], constant_values=-1))


def part_of_jpeg(encoded: tf.Tensor, begin: tf.Tensor, size: tf.Tensor, width: tf.Tensor, image_size: int) -> tf.Tensor:
    """A part of an encoded JPEG: uint8 (height, width, 3), at half, a quarter or an eighth of its size if that is enough.

    What is far larger than needed is decoded several times as fast so, and its pixels are means instead of samples. Otherwise
    they are those of the whole picture decoded: libjpeg smooths colours beyond the edge of what it is asked for, so that it
    is asked for a column more on either side.

    Args:
        encoded: its bytes.
        begin, size: (top, left) and (height, width) of the part in pixels, int32.
        width: of the whole picture, int32.
        image_size: what the sides of the result may shrink to, give or take one for rounding.
    """
    choice = tf.reduce_sum(tf.cast(tf.reduce_min(size) // image_size >= RATIOS[1:], tf.int32))
    ratio = tf.gather(RATIOS, choice)
    first, last = (begin + ratio // 2) // ratio, (begin + size + ratio // 2) // ratio
    left, right = tf.maximum(first[1] - 1, 0), tf.minimum(last[1] + 1, (width + ratio - 1) // ratio)
    window = tf.stack([first[0], left, last[0] - first[0], right - left])
    # The ratio is an attribute of the operation: one operation a ratio, of which one runs.
    decoders = [partial(tf.io.decode_and_crop_jpeg, encoded, window, channels=3, ratio=ratio) for ratio in RATIOS]
    return tf.switch_case(choice, decoders)[:, first[1] - left : last[1] - left]


def random_crop(features: dict[str, tf.Tensor], seed: tuple[int, tf.Tensor], image_size: int, how: Augmentation) -> tf.Tensor:
    """A random part of a record's picture: float32 (size, size, 3); of a JPEG only that part is decoded."""
    shape = tf.stack([features["image/height"], features["image/width"], tf.constant(3, tf.int64)])
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        bounding_boxes=tf.zeros((1, 0, 4)),
        seed=tf.cast(tf.stack(seed), tf.int64),
        min_object_covered=0.0,
        aspect_ratio_range=(how.min_aspect_ratio, how.max_aspect_ratio),
        area_range=(how.min_crop_area, 1.0),
        max_attempts=100,
        use_image_if_no_bounding_boxes=True,
    )
    return part_of(features, begin[:2], size[:2], image_size)


def resize(picture: tf.Tensor, image_size: int) -> tf.Tensor:
    """Float32 (size, size, 3), bilinear as `tf.image.resize` does it; faster than that by what it asks of the shape."""
    pictures = tf.cast(picture, tf.float32)[None]  # the operation is faster on floats, the casting included
    size = (image_size, image_size)
    return tf.ensure_shape(tf.raw_ops.ResizeBilinear(images=pictures, size=size, half_pixel_centers=True)[0], (*size, 3))


def vary(picture: tf.Tensor, seed: tuple[int, tf.Tensor], how: Augmentation) -> tf.Tensor:
    """A picture perhaps mirrored, and of random brightness and saturation: TF-Slim's fast mode."""
    flip, shift, factor = tf.unstack(tf.random.stateless_uniform((3,), tf.cast(tf.stack(seed), tf.int64)))
    if how.flip:
        # Reversing is several times as fast as slicing with a step of -1.
        picture = tf.cond(flip < 0.5, lambda: tf.reverse(picture, [1]), lambda: picture)
    shift = (2 * shift - 1) * 255 * how.max_brightness_delta
    factor = how.lower_saturation + factor * (how.upper_saturation - how.lower_saturation)
    # grey + factor * (colour - grey), in one pass over the picture instead of four
    saturation = factor * tf.eye(3) + (1 - factor) * tf.constant(LUMA)[:, None]
    return tf.clip_by_value(tf.tensordot(picture, saturation, 1) + shift, 0.0, 255.0)
