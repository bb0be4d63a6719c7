"""Images are decoded and cropped without TensorFlow to the pixels that the exported model and the training see."""

from functools import cache

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support import odd_images

from kfp_vision.dataset.images import validate_image
from kfp_vision.engines.cropping import crop
from kfp_vision.networks import decoding

MAX_PIXELS = 50_000_000
ROUNDING = 0.51  # levels: rounded to the nearest, of floats that differ in their last digits


@cache
def graph(size: int):
    cropped = tf.function(lambda encoded: decoding.central_crop(encoded, size))
    return cropped.get_concrete_function(tf.TensorSpec((), tf.string))


def seen(encoded: bytes, size: int) -> np.ndarray:
    """What the exported model sees of an image in the server, in floats."""
    return graph(size)(tf.constant(validate_image(encoded, MAX_PIXELS).encoded)).numpy()


def difference(encoded: bytes, size: int) -> np.ndarray:
    cropped = crop(encoded, size, MAX_PIXELS)
    assert (cropped.dtype, cropped.shape) == (np.uint8, (size, size, 3))
    return np.abs(cropped - seen(encoded, size))


def landscape(width: int, height: int) -> Image.Image:
    """Draws coarse coloured noise with finer one on it."""
    random = np.random.default_rng(width * height)
    coarse = Image.fromarray(random.integers(0, 256, (5, 7, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    fine = random.integers(-20, 21, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + fine, 0, 255).astype(np.uint8))


encode = odd_images.encode


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 224, 299])
def test_photographs_give_the_pixels_of_the_exported_model(flower_photos, size):
    files = sorted(flower_photos.glob("*/*.jpg"))
    assert len(files) == 754
    assert max(difference(file.read_bytes(), size).max() for file in files) <= ROUNDING


JPEGS = {
    "colour": {},
    "progressive": {"progressive": True},
    "full colour": {"subsampling": 0},
    "colours halved across": {"subsampling": 1},
    "with restarts": {"restart_marker_blocks": 3},
    "coarse": {"quality": 20},
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize(
    "sides", [(320, 240), (241, 317), (73, 74), (150, 151), (299, 303), (601, 1000), (1, 40), (40, 1), (1, 1)]
)
def test_a_jpeg_gives_the_pixels_of_the_exported_model(kind, sides):
    encoded = encode(landscape(*sides), "JPEG", **JPEGS[kind])
    assert difference(encoded, 32).max() <= ROUNDING
    grey = encode(landscape(*sides).convert("L"), "JPEG", **{**JPEGS[kind], "subsampling": -1})
    assert difference(grey, 32).max() <= ROUNDING
