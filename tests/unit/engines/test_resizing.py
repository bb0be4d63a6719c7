"""Both ways to resize give the pixels of TensorFlow."""

import numpy as np
import pytest

from kfp_vision.core.frameworks import tf
from kfp_vision.engines import resizing

ROUNDING = 0.01  # of floats, in levels of 255
SIDES = [(1, 1), (1, 50), (50, 1), (31, 33), (64, 64), (65, 63), (96, 48), (128, 160), (400, 301)]
SIZE = 64


def noise(*sides: int) -> np.ndarray:
    return np.random.default_rng(sides).integers(0, 256, (*sides, 3), np.uint8)


@pytest.mark.parametrize("resize", [resizing.resize_with_opencv, resizing.resize_with_numpy])
@pytest.mark.parametrize("sides", SIDES)
def test_resizes_as_tensorflow_does(resize, sides):
    pixels = noise(*sides)
    expected = tf.image.resize(pixels, (SIZE, SIZE), "bilinear").numpy()
    resized = resize(pixels, SIZE)
    assert (resized.dtype, resized.shape) == (np.float32, (SIZE, SIZE, 3))
    assert np.abs(resized - expected).max() <= ROUNDING


def test_without_opencv_numpy_resizes(monkeypatch):
    pixels = noise(90, 70)
    monkeypatch.setattr(resizing, "resize_with_opencv", None)
    with pytest.raises(TypeError):
        resizing.resize(pixels, SIZE)
    monkeypatch.setattr(resizing, "cv2", None)
    np.testing.assert_array_equal(resizing.resize(pixels, SIZE), resizing.resize_with_numpy(pixels, SIZE))


def test_a_view_is_resized_and_left_as_it_is():
    pixels = noise(120, 130)
    before, window = pixels.copy(), pixels[7:113, 9:120]
    resized = resizing.resize_with_numpy(window, SIZE)
    np.testing.assert_array_equal(resized, resizing.resize_with_numpy(window.copy(), SIZE))
    np.testing.assert_array_equal(pixels, before)
