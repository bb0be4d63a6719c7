"""Lays class activation maps over an image: what speaks for a class in colour, on the image in grey."""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from kfp_vision.dataset import images
from kfp_vision.engines.cropping import Sides, Window
from kfp_vision.prediction.explanation import Explanation

COLOUR = (255, 96, 0)  # orange: on grey, it is read by whoever confuses red and green, too
OPACITY = 0.75  # of the strongest place
UNSEEN = 0.4  # brightness of what is outside of the crop
QUALITY = 85  # of the JPEG

Box = tuple[int, int, int, int]  # left, top, right and bottom, as Pillow has them


def lay_over(encoded: bytes, explanation: Explanation, side: int, max_pixels: int = images.MAX_PIXELS) -> list[bytes]:
    """Lays each map of an explanation over its image; what is outside of the crop, which no network sees, is darkened.

    Only what is above zero is drawn, in proportion to the largest value of the map, as Grad-CAM does (Selvaraju et al., 2017,
    arXiv:1610.02391).

    Args:
        encoded: the image, in any format.
        explanation: of it.
        side: height and width of the results are at most this many pixels.
        max_pixels: larger images are rejected.

    Returns:
        For each map a JPEG of the whole image, upright.

    Raises:
        Rejected: the image cannot be decoded.
    """
    with images.open_image(encoded, max_pixels) as image:
        image.draft("RGB", (side, side))  # a JPEG is decoded at a reduced size, of at least this
        shown = images.decode_upright(image, encoded)
    shown.thumbnail((side, side))
    box = _scale(explanation.window, explanation.sides, shown)
    grey = shown.convert("L")
    ground = grey.point([round(UNSEEN * level) for level in range(256)])
    ground.paste(grey.crop(box), box)
    return [_jpeg(_blend(ground.convert("RGB"), box, values)) for values in explanation.maps]


def _scale(window: Window, sides: Sides, shown: Image.Image) -> Box:
    """Returns where a window of an image is in a smaller copy of it, at least a pixel high and wide."""
    rows, columns = shown.height / sides[0], shown.width / sides[1]
    top, left = round(rows * window.top), round(columns * window.left)
    bottom, right = round(rows * (window.top + window.height)), round(columns * (window.left + window.width))
    return left, top, max(right, left + 1), max(bottom, top + 1)


def _blend(ground: Image.Image, box: Box, values: npt.NDArray[np.float32]) -> Image.Image:
    strength = np.maximum(values, 0) / max(float(values.max()), np.finfo(np.float32).tiny)
    mask = Image.fromarray(np.rint(255 * OPACITY * strength).astype(np.uint8))
    width, height = box[2] - box[0], box[3] - box[1]
    ground.paste(COLOUR, box, mask.resize((width, height), Image.Resampling.BICUBIC))
    return ground


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
