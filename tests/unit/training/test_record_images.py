"""Windows of images have TensorFlow's pixels, however they are decoded; images are read many at once, and kept if they fit."""

import io
import random
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support import odd_images

from kfp_vision.core.errors import DamagedError
from kfp_vision.dataset.images import validate_image
from kfp_vision.dataset.table import ImageRow
from kfp_vision.engines.cropping import Window
from kfp_vision.networks import decoding
from kfp_vision.records import convert
from kfp_vision.records.records_folder import RandomAccessRecords
from kfp_vision.storage import sample
from kfp_vision.training import record_images
from kfp_vision.training.record_images import RecordImage, RecordImages

IMAGES = 45
FLOATS = 0.01  # levels
SIZE = 24


def flower(width: int, height: int) -> Image.Image:
    return Image.open(io.BytesIO(sample.draw("starpetal/0003.jpg"))).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def numbered(tmp_path_factory) -> Path:
    """Writes records of images, each of its own class and size, every other one a PNG, in shards of ten."""
    folder = tmp_path_factory.mktemp("numbered") / "records"
    contents = (odd_images.encode(flower(60 + n, 90 - n), "PNG" if n % 2 else "JPEG") for n in range(IMAGES))
    labels = [f"{n:02}" for n in range(IMAGES)]
    examples = ((ImageRow("", labels[n], 0, "", f"{n}"), validate_image(content)) for n, content in enumerate(contents))
    convert.write_shards(folder, "train", examples, labels, 10)
    return folder


KINDS = {
    "JPEG": ("RGB", "JPEG", {}),
    "progressive JPEG": ("RGB", "JPEG", {"progressive": True}),
    "JPEG with all colours": ("RGB", "JPEG", {"subsampling": 0}),
    "grey JPEG": ("L", "JPEG", {}),
    "PNG": ("RGB", "PNG", {}),
    "grey PNG": ("L", "PNG", {}),
    "PNG with a palette": ("P", "PNG", {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_has_the_pixels_of_tensorflow(numbered, kind, monkeypatch):
    mode, image_format, options = KINDS[kind]
    chance = random.Random(kind)
    out = np.empty((SIZE, SIZE, 3), np.float32)
    # From so few pixels on, a small window of a JPEG is decoded alone.
    monkeypatch.setattr(record_images, "MIN_PIXELS_TO_LEAVE_OUT", 20_000)
    with RecordImages(RandomAccessRecords(numbered), SIZE) as images:
        for _ in range(40):
            sides = chance.randrange(1, 300), chance.randrange(1, 300)
            height, width = (chance.randrange(1, side + 1) for side in sides)
            top, left = chance.randrange(sides[0] - height + 1), chance.randrange(sides[1] - width + 1)
            content = odd_images.encode(flower(*sides[::-1]).convert(mode), image_format, **options)
            images.crop(RecordImage((0,), sides, content), Window(top, left, height, width), out)
            assert np.abs(out - crop_with_tensorflow(content, (top, left), (height, width), sides[1])).max() <= FLOATS


def crop_with_tensorflow(content: bytes, begin: tuple[int, int], size: tuple[int, int], width: int) -> np.ndarray:
    """Returns what the exported model would see of a window."""
    if content.startswith(b"\x89PNG"):
        part = tf.image.crop_to_bounding_box(tf.io.decode_png(content, channels=3), *begin, *size)
    else:
        part = decoding.decode_jpeg_window(content, tf.constant(begin), tf.constant(size), width, SIZE)
    return tf.image.resize(part, (SIZE, SIZE)).numpy()


def test_a_jpeg_of_which_libjpeg_warns_is_decoded_by_tensorflow(numbered):
    content = odd_images.encode(flower(40, 30), "JPEG")
    end = content.index(b"\xff\xda")
    warned = content[:end] + b"\x00\x00\x00" + content[end:]  # extraneous bytes before a marker
    whole = Window(0, 0, 30, 40)
    plain, odd = (np.empty((SIZE, SIZE, 3), np.float32) for _ in range(2))
    with RecordImages(RandomAccessRecords(numbered), SIZE) as images:
        images.crop(RecordImage((0,), (30, 40), content), whole, plain)
        images.crop(RecordImage((0,), (30, 40), warned), whole, odd)
        with pytest.raises(DamagedError):
            images.crop(RecordImage((0,), (30, 40), content[:100]), whole, odd)
    assert np.array_equal(odd, plain)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
@pytest.mark.parametrize("memory", [0, 1 << 20])
def test_a_damaged_image_is_named(tmp_path, image_format, memory):
    whole = validate_image(odd_images.encode(flower(40, 30), image_format))
    half = replace(whole, encoded=whole.encoded[: len(whole.encoded) // 2])
    convert.write_shards(tmp_path / "records", "train", [(ImageRow("", "a", 0, "", "a/7"), half)], ["a"], 10)
    out = np.empty((SIZE, SIZE, 3), np.float32)
    with (
        RecordImages(RandomAccessRecords(tmp_path / "records"), SIZE, memory) as images,
        pytest.raises(DamagedError, match=r"must be whole; got damaged pixels in a/7\. Remove it, or .* check_pixels"),
    ):
        images.crop(images.read([0])[0], Window(0, 0, 30, 40), out)


def test_an_image_larger_than_the_scratch_memory_is_decoded(numbered, monkeypatch):
    content = odd_images.encode(flower(40, 30), "JPEG")
    expected, out = (np.empty((SIZE, SIZE, 3), np.float32) for _ in range(2))
    with RecordImages(RandomAccessRecords(numbered), SIZE) as images:
        images.crop(RecordImage((0,), (30, 40), content), Window(0, 0, 30, 40), expected)
    monkeypatch.setattr(record_images, "SCRATCH_BYTES", 3 * 30 * 40 - 1)
    with RecordImages(RandomAccessRecords(numbered), SIZE) as images:
        images.crop(RecordImage((0,), (30, 40), content), Window(0, 0, 30, 40), out)
    assert np.array_equal(out, expected)


def test_images_on_a_slow_disk_are_read_many_at_once(numbered, monkeypatch):
    together = threading.Barrier(16)
    plain = RandomAccessRecords.read

    def read(self, number):
        if number == 44:
            time.sleep(10 * record_images.SLOW_READ)
        else:
            together.wait(timeout=60)  # broken, and so an error, unless sixteen wait at the same time
        return plain(self, number)

    monkeypatch.setattr(RandomAccessRecords, "read", read)
    with RecordImages(RandomAccessRecords(numbered), SIZE) as images:
        assert [image.numbers for image in images.read(range(44, 27, -1))] == [(number,) for number in range(44, 27, -1)]


def test_images_on_a_fast_disk_are_read_by_the_caller(numbered, monkeypatch):
    monkeypatch.setattr(record_images, "SLOW_READ", 60)
    readers = set()
    plain = RandomAccessRecords.read
    monkeypatch.setattr(
        RandomAccessRecords, "read", lambda self, number: readers.add(threading.get_ident()) or plain(self, number)
    )
    with RecordImages(RandomAccessRecords(numbered), SIZE) as images:
        assert [image.numbers for image in images.read(range(16))] == [(number,) for number in range(16)]
    assert readers == {threading.get_ident()}


def test_the_cache_holds_as_many_decoded_images_as_fit(numbered, monkeypatch):
    read: list[int] = []
    plain = RandomAccessRecords.read
    monkeypatch.setattr(RandomAccessRecords, "read", lambda self, number: read.append(number) or plain(self, number))
    sizes = [3 * (60 + n) * (90 - n) for n in range(IMAGES)]
    for limit, image_size, expected in ((sum(sizes), 200, IMAGES), (sum(sizes) // 2, 200, None), (sum(sizes), 20, None)):
        with RecordImages(RandomAccessRecords(numbered), image_size, limit) as images:
            first = images.read(range(IMAGES))
            read.clear()
            again = images.read(range(IMAGES))
        assert (
            [image.numbers for image in first] == [image.numbers for image in again] == [(number,) for number in range(IMAGES)]
        )
        in_memory = set(range(IMAGES)) - set(read)
        assert in_memory == {number for number, image in enumerate(again) if image.pixels is not None}
        assert all(again[number].pixels.shape == (90 - number, 60 + number, 3) for number in in_memory)
        assert not any(again[number].encoded for number in in_memory)
        assert sum(sizes[number] for number in in_memory) <= limit
        if expected:
            assert len(in_memory) == expected
        elif image_size == 20:  # each JPEG may be decoded at half its size
            assert in_memory == {number for number in range(IMAGES) if number % 2}
        else:
            assert IMAGES // 3 < len(in_memory) < IMAGES
