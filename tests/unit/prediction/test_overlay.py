"""A map laid over an image is in colour where it is above zero, and dark where the network does not look."""

import io

import numpy as np
import pytest
from PIL import Image
from support import colour_model, odd_images

from kfp_vision.dataset.images import Rejected
from kfp_vision.engines.cropping import Window
from kfp_vision.prediction import overlay
from kfp_vision.prediction.classifier import Prediction
from kfp_vision.prediction.explanation import Explanation

SIDES = (160, 320)  # height and width
WINDOW = Window(10, 90, 140, 140)


def explanation(*maps: list[list[float]], sides: tuple[int, int] = SIDES, window: Window = WINDOW) -> Explanation:
    values = np.array(maps, np.float32)
    return Explanation(Prediction("red", 0, [1.0]), sides, window, range(len(maps)), values)


def grey(level: int = 200, sides: tuple[int, int] = SIDES, image_format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", sides[::-1], (level, level, level)).save(file, image_format)
    return file.getvalue()


def pixels(encoded: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(encoded), formats=("JPEG",)) as image:
        return np.asarray(image.convert("RGB"), np.int64)


def saturation(shown: np.ndarray) -> np.ndarray:
    return shown.max(-1) - shown.min(-1)


def test_what_is_above_zero_is_in_colour_and_all_else_in_grey():
    (laid_over,) = overlay.lay_over(grey(), explanation([[3, -5], [-5, 1.5]]), 640)
    shown = pixels(laid_over)
    assert shown.shape == (*SIDES, 3)
    strongest, weaker = shown[30, 110], shown[130, 210]
    assert saturation(strongest) > saturation(weaker) > 60
    assert strongest[0] > strongest[1] > strongest[2]  # orange
    assert saturation(shown[30, 210]) < 12 and abs(shown[30, 210].mean() - 200) < 8
    assert saturation(shown[:, :80]).max() < 12 and abs(shown[80, 40].mean() - 200 * overlay.UNSEEN) < 8
    assert abs(shown[2, 160].mean() - 200 * overlay.UNSEEN) < 8


def test_each_map_has_an_image_of_its_own():
    first, second = overlay.lay_over(grey(), explanation([[1, 0]], [[0, 1]]), 640)
    assert saturation(pixels(first)[80, 100]) > 60 > saturation(pixels(first)[80, 220])
    assert saturation(pixels(second)[80, 220]) > 60 > saturation(pixels(second)[80, 100])


@pytest.mark.parametrize("values", [[[0, 0]], [[-1, -2]]])
def test_nothing_is_in_colour_if_nothing_is_above_zero(values):
    (laid_over,) = overlay.lay_over(grey(), explanation(values), 640)
    assert saturation(pixels(laid_over)).max() < 12


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_large_image_is_reduced_with_its_map(image_format):
    sides, window = (1600, 3200), Window(*(10 * part for part in WINDOW))
    (laid_over,) = overlay.lay_over(grey(200, sides, image_format), explanation([[1, 0]], sides=sides, window=window), 320)
    shown = pixels(laid_over)
    assert shown.shape == (160, 320, 3) and len(laid_over) < 10_000
    assert saturation(shown[80, 110]) > 60 > saturation(shown[80, 210])
    assert abs(shown[80, 40].mean() - 200 * overlay.UNSEEN) < 8


def test_a_window_of_less_than_a_pixel_is_drawn():
    sides = (3, 3000)
    (laid_over,) = overlay.lay_over(grey(200, sides), explanation([[1]], sides=sides, window=Window(0, 1499, 3, 3)), 100)
    assert pixels(laid_over).shape == (1, 100, 3)


def test_an_image_is_shown_upright():
    (laid_over,) = overlay.lay_over(
        odd_images.turned("PNG"), explanation([[-1]], sides=upright_sides(), window=Window(0, 0, *upright_sides())), 640
    )
    with Image.open(io.BytesIO(odd_images.turned("PNG"))) as stored:
        assert pixels(laid_over).shape[:2] == stored.size  # height and width exchanged


def upright_sides() -> tuple[int, int]:
    with Image.open(io.BytesIO(odd_images.turned("PNG"))) as stored:
        return stored.size


def test_a_damaged_image_is_rejected():
    with pytest.raises(Rejected):
        overlay.lay_over(colour_model.picture("red", size=(300, 200))[:400], explanation([[1]]), 640)
