"""Images of records by number: reads many at once, decodes windows of them, and keeps decoded images in memory."""

import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from kfp_vision.core.errors import DamagedError
from kfp_vision.core.frameworks import tf
from kfp_vision.engines import cropping
from kfp_vision.engines.cropping import PNG_SIGNATURE, Sides, Window
from kfp_vision.engines.resizing import Floats, Pixels
from kfp_vision.networks import decoding
from kfp_vision.records import example
from kfp_vision.records.records_folder import RandomAccessRecords

READERS = 64  # records read at a time from a slow disk: over a thousand a second where opening and reading take 25 ms each
SLOW_READ = 0.003  # seconds, from which a disk is slow; from a fast one, one thread reads sooner than many that take turns
# From so many pixels on, a window of so small a share is decoded alone: decoding the rest would take longer than calling
# TensorFlow, whose decoder can leave it out.
MIN_PIXELS_TO_LEAVE_OUT, MAX_SHARE_DECODED_ALONE = 1_000_000, 0.5
SCRATCH_BYTES = 1 << 22  # memory per thread to decode into, over and over: new memory costs a quarter of the decoding


class RecordImage(NamedTuple):
    """An image of a record.

    Attributes:
        numbers: of its classes, ascending; one, unless images have several labels.
        sides: height and width in pixels.
        encoded: the JPEG or PNG file; empty if it is cached as pixels.
        pixels: (height, width, 3) RGB if it is cached, else None.
        name: path below the root of the data, for messages.
    """

    numbers: tuple[int, ...]
    sides: Sides
    encoded: bytes
    pixels: Pixels | None = None
    name: str = ""


class RecordImages:
    """The images of a folder of records, with a cache of decoded ones; thread-safe. To be closed, as a context manager.

    An image is cached when its record is first read, if it fits. A JPEG that may be decoded at a reduced size is not
    cached: that is fast already, and gives other pixels.

    Args:
        records: random access to the records.
        image_size: height and width of the crops after resizing, in pixels.
        limit: bytes of pixels to cache.
    """

    def __init__(self, records: RandomAccessRecords, image_size: int, limit: int = 0):
        self._records, self._image_size = records, image_size
        self._bytes_left, self._cached = limit, dict[int, RecordImage]()
        self._seen = np.zeros(len(records), bool)  # an image that did not fit once never will: room only shrinks
        self._lock = threading.Lock()
        self._readers = ThreadPoolExecutor(READERS)
        self._thread = threading.local()

    def __len__(self) -> int:
        return len(self._records)

    def __enter__(self) -> "RecordImages":
        return self

    def __exit__(self, *_: object) -> None:
        self._readers.shutdown()

    def read(self, numbers: Iterable[int]) -> list[RecordImage]:
        """Reads images that are not cached one after the other, or from a slow disk many at once.

        Args:
            numbers: of the images, from 0.

        Returns:
            The images in the order of the numbers.

        Raises:
            ValueError: the checksum of a record does not match.
            DamagedError: an image is damaged.
        """
        numbers = list(numbers)
        missing = [number for number in numbers if number not in self._cached]
        read = {
            number: self._parse(number, record) for number, record in zip(missing, self._read_records(missing), strict=True)
        }
        return [read.get(number) or self._cached[number] for number in numbers]

    def crop(self, image: RecordImage, window: Window, out: Floats) -> None:
        """Decodes a window of an image and resizes it as `decoding.central_crop` does, to within 0.01 levels.

        Args:
            image: from `read`.
            window: a part of it.
            out: (size, size, 3) to write the result to.

        Raises:
            DamagedError: the image is damaged.
        """
        with _damage_by_name(image):
            self._crop(image, window, out)

    def _crop(self, image: RecordImage, window: Window, out: Floats) -> None:
        ratio = 1
        pixels = image.pixels
        if pixels is None:
            ratio = 1 if _is_png(image) else cropping.choose_reduction(window, self._image_size)
            share = window.height * window.width / (image.sides[0] * image.sides[1])
            large = image.sides[0] * image.sides[1] >= MIN_PIXELS_TO_LEAVE_OUT
            if large and share <= MAX_SHARE_DECODED_ALONE and not _is_png(image):
                pixels = _decode_window(image, window, self._image_size)
                window, ratio = Window(0, 0, *pixels.shape[:2]), 1
            else:
                pixels = _decode(image, ratio, self._scratch(image))
        cropping.resize_window(pixels, window, self._image_size, ratio, out)

    def _scratch(self, image: RecordImage) -> bytearray | None:
        """Returns this thread's memory to decode into, or None if an image may not fit."""
        if 3 * image.sides[0] * image.sides[1] > SCRATCH_BYTES:
            return None
        if not hasattr(self._thread, "scratch"):
            self._thread.scratch = bytearray(SCRATCH_BYTES)
        scratch: bytearray = self._thread.scratch
        return scratch

    def _read_records(self, numbers: list[int]) -> Iterator[bytes]:
        for done, number in enumerate(numbers, 1):
            start = time.perf_counter()
            record = self._records.read(number)
            slow = time.perf_counter() - start > SLOW_READ
            yield record
            if slow:
                yield from self._readers.map(self._records.read, numbers[done:])
                return

    def _parse(self, number: int, record: bytes) -> RecordImage:
        """Parses a record; caches its image, decoded, if there is room."""
        fields = example.decode_fields(record)
        image = RecordImage(fields.numbers, (fields.height, fields.width), fields.encoded, name=fields.name)
        if self._reserve(number, image):
            with _damage_by_name(image):
                image = self._cached[number] = image._replace(encoded=b"", pixels=_decode(image, 1))
        return image

    def _reserve(self, number: int, image: RecordImage) -> bool:
        """Takes the room that an image needs in the cache; returns whether there is some."""
        full_size = _is_png(image) or min(image.sides) // self._image_size < min(cropping.REDUCTIONS)
        size = 3 * image.sides[0] * image.sides[1]
        with self._lock:
            seen, self._seen[number] = self._seen[number], True
            if seen or not full_size or size > self._bytes_left:
                return False
            self._bytes_left -= size
        return True


@contextmanager
def _damage_by_name(image: RecordImage) -> Iterator[None]:
    """Replaces TensorFlow's error, of some line of its decoder, by one that says which image is damaged."""
    try:
        yield
    except tf.errors.InvalidArgumentError:
        rule = "every image of the records must be whole"
        remedy = "Remove it, or write the records with check_pixels in advanced, which rejects such images."
        raise DamagedError(rule, f"damaged pixels in {image.name}", remedy) from None


def _is_png(image: RecordImage) -> bool:
    return image.encoded.startswith(PNG_SIGNATURE)


def _decode(image: RecordImage, ratio: int, buffer: bytearray | None = None) -> Pixels:
    """Decodes an image, a JPEG into a buffer; with TensorFlow unless it is a JPEG of which libjpeg-turbo reports nothing."""
    with tf.device("CPU"):
        if _is_png(image):
            return np.asarray(tf.io.decode_png(image.encoded, channels=3))
        try:
            return cropping.decode_jpeg(image.encoded, image.sides, ratio, buffer=buffer)
        except ValueError:
            return np.asarray(tf.io.decode_jpeg(image.encoded, channels=3, ratio=ratio))


def _decode_window(image: RecordImage, window: Window, image_size: int) -> Pixels:
    """Decodes a window of a JPEG, reduced, to the pixels that `_decode` gives there."""
    with tf.device("CPU"):
        begin, size = tf.constant(window[:2]), tf.constant(window[2:])
        return np.asarray(decoding.decode_jpeg_window(image.encoded, begin, size, image.sides[1], image_size))
