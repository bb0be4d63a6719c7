"""What the networks see of a picture: the pixels that TensorFlow's own functions cut out; where it is large, means of them."""

import io
import random

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kfp_vision import inputs, records, sample
from kfp_vision.catalog import Row
from kfp_vision.pictures import checked

SIZE = 64


def encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def flower(width: int, height: int) -> Image.Image:
    return Image.open(io.BytesIO(sample.draw("starpetal/0003.jpg"))).resize((width, height), Image.Resampling.BICUBIC)


def by_tensorflow(content: bytes, size: int, antialias: bool = False) -> np.ndarray:
    picture = tf.io.decode_image(content, channels=3, expand_animations=False)
    return tf.image.resize(tf.image.central_crop(picture, 0.875), (size, size), antialias=antialias).numpy()


def test_a_photograph_is_cropped_as_tensorflow_does_it(flower_photos):
    for folder in flower_photos.iterdir():
        for photograph in sorted(folder.glob("*.jpg"))[:8]:
            content = photograph.read_bytes()
            assert np.array_equal(inputs.central_crop(content, 224), by_tensorflow(content, 224))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
@pytest.mark.parametrize("sides", [(1, 1), (1, 40), (15, 16), (33, 100), (127, 127), (140, 91)])
def test_a_picture_not_twice_as_large_as_needed_is_cropped_as_tensorflow_does_it(kind, sides):
    content = encoded(flower(*sides), kind)
    # libjpeg smooths colours up to the part's edge only, which may change its last column by a level or two.
    difference = np.abs(inputs.central_crop(content, SIZE) - by_tensorflow(content, SIZE))
    assert difference.max() <= (2 if kind == "JPEG" else 0)
    assert difference.mean() < 0.001


@pytest.mark.parametrize("times", [2, 3, 4, 7, 8, 13])
def test_of_a_large_jpeg_the_same_part_is_seen_with_less_grain(times):
    smooth = flower(times * 80, times * 77)
    grain = Image.effect_noise(smooth.size, 60).convert("RGB")
    grainy = Image.blend(smooth, grain, 0.3)
    assert distances(encoded(smooth, "JPEG"))[0] < 4  # levels of 255
    ours, sampled = distances(encoded(grainy, "JPEG"))
    assert ours < 0.8 * sampled


def distances(content: bytes) -> tuple[float, float]:
    """Mean distance of our crop, and of one that samples, from one that smooths as it shrinks; all three at the same place."""
    smoothed = by_tensorflow(content, SIZE, antialias=True)
    return tuple(np.abs(crop - smoothed).mean() for crop in (inputs.central_crop(content, SIZE), by_tensorflow(content, SIZE)))


def test_any_part_of_a_jpeg_can_be_decoded_at_any_size():
    chance = random.Random(0)
    decode = tf.function(inputs.part_of_jpeg)
    for _ in range(150):
        sides = [chance.randrange(1, 300) for _ in range(2)]
        content = encoded(Image.new("L", sides[::-1], 90), "JPEG")
        size = [chance.randrange(1, side + 1) for side in sides]
        begin = [chance.randrange(side - part + 1) for side, part in zip(sides, size, strict=True)]
        wanted = chance.choice((8, 16, 32))
        part = decode(content, tf.constant(begin), tf.constant(size), tf.constant(wanted)).numpy()
        ratio = max(ratio for ratio in (1, 2, 4, 8) if ratio == 1 or min(size) >= ratio * wanted)
        assert np.abs(np.array(part.shape[:2]) - np.array(size) / ratio).max() < 1
        assert np.abs(part.astype(int) - 90).max() <= 1


def test_the_evaluation_sees_what_the_export_sees(tmp_path):
    contents = [encoded(flower(*sides), kind) for sides in ((90, 70), (300, 401), (700, 900)) for kind in ("JPEG", "PNG")]
    examples = ((Row("", "bellcup", len(content), "", f"{n}"), checked(content)) for n, content in enumerate(contents))
    records.write_shards(tmp_path / "records", "test", examples, ["bellcup"], 10)
    (pictures, _), *rest = inputs.evaluation_batches(tmp_path / "records", image_size=SIZE, batch_size=16)
    assert not rest
    for picture, content in zip(pictures, contents, strict=True):
        assert np.array_equal(picture, inputs.central_crop(content, SIZE))
