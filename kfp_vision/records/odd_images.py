"""Finds images that nobody would train on: black, blank, blurred, tiny beside the others, or odd in shape.

The rules for black and for the shape are those of cleanvision 0.3 (issue_managers/image_property.py), except that the shape is
odd from a ratio of 3. Others are ours, since drawings and digits, which have few shades and much white, are no mistakes: blank
is what has a single shade; blurred what has hardly any detail left at 64 pixels, by the variance of the
Laplacian (Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, 2000); tiny what has less than a quarter of the
usual side.

Only the pixels that the check of an image decodes anyway are looked at, for a JPEG an eighth of each side; and of JPEGs those
with few bits a pixel, which black, blank and blurred ones have.
"""

import io
import math
from collections.abc import Sequence
from statistics import median
from typing import cast

import numpy as np
from PIL import Image

from kfp_vision.dataset.content_ids import map_concurrently
from kfp_vision.dataset.images import PILLOW_FORMATS, ValidImage
from kfp_vision.dataset.table import UnusedImage
from kfp_vision.storage import reading

BLACK, BLANK, BLURRED, TINY, ODD_SHAPE = "black", "blank", "blurred", "tiny", "odd shape"
KEEP, LEAVE_OUT = "keep", "leave_out"  # values of `odd_images` of advanced
LEFT_OUT_AS = "left out as "  # begins the reason of an image that is left out
DARK_LEVEL, BRIGHTER_SHARE = 82, 0.01  # 0.32 of 255: black if fewer pixels than this share reach it
BLANK_LEVELS = 12  # between the darkest and the brightest pixel; what JPEG adds to a single shade is below
LOOKED_AT_SIDE, MIN_SIDE = 64, 8  # pixels, for the blur
# Of 754 photographs, the least variance is 210; of such blurred by 3 % of their side, the most is 96. A standard deviation of
# the Laplacian above 0.3 of that of the shades means a faint image, such as fog, rather than a blurred one.
MAX_BLUR_VARIANCE, MAX_BLUR_SHARE = 100.0, 0.3
# Bits a pixel of a JPEG, above which it holds detail, and its pixels are not looked at; blurred photographs have 0.7 to 1.6.
MAX_ODD_BITS, HEADER_BYTES = 2.0, 2048
TINY_SHARE = 0.25  # of the usual side
ELONGATED_RATIO = 3.0  # longer by shorter side, above which squeezing to a square hides the subject
SAMPLED = 32  # images whose sizes give the usual one


def odd_reason(image: ValidImage, pixels: Image.Image | None, usual_side: float) -> str:
    """Says why nobody would train on an image.

    Args:
        image: the valid image.
        pixels: its pixels, reduced or not; None to judge the size alone.
        usual_side: root of the usual area, in pixels; 0 if it is unknown.

    Returns:
        `black`, `blank`, `blurred`, `tiny` or `odd shape`; empty if nothing is odd.
    """
    if pixels is not None and (reason := _odd_pixels(image, pixels)):
        return reason
    if image.height * image.width < (TINY_SHARE * usual_side) ** 2:
        return TINY
    longer, shorter = max(image.height, image.width), min(image.height, image.width)
    return ODD_SHAPE if longer > ELONGATED_RATIO * shorter else ""


def _odd_pixels(image: ValidImage, pixels: Image.Image) -> str:
    if image.format == "jpeg" and 8 * (len(image.encoded) - HEADER_BYTES) > MAX_ODD_BITS * image.height * image.width:
        return ""
    grey = _small_grey(pixels)
    if sum(grey.histogram()[DARK_LEVEL:]) < BRIGHTER_SHARE * grey.width * grey.height:
        return BLACK
    darkest, brightest = cast("tuple[int, int]", grey.getextrema())
    if brightest - darkest <= BLANK_LEVELS:
        return BLANK
    return BLURRED if min(grey.size) >= MIN_SIDE and _is_blurred(grey) else ""


def _small_grey(pixels: Image.Image) -> Image.Image:
    factor = max(pixels.size) // LOOKED_AT_SIDE
    if pixels.mode in ("1", "P"):  # of which no means can be taken
        pixels = pixels.convert("L")
    if factor > 1:
        pixels = pixels.reduce(factor)
    return pixels if pixels.mode == "L" else pixels.convert("L")


def _is_blurred(grey: Image.Image) -> bool:
    shades = np.asarray(grey).astype(np.float32)
    inner = shades[1:-1, 1:-1]
    laplacian = 4 * inner - shades[:-2, 1:-1] - shades[2:, 1:-1] - shades[1:-1, :-2] - shades[1:-1, 2:]
    variance = float(laplacian.var())
    return variance < MAX_BLUR_VARIANCE and variance < MAX_BLUR_SHARE**2 * float(shades.var())


def usual_side(uris: Sequence[str], reader: reading.Reader) -> float:
    """Computes the usual size of images from a few of them.

    Args:
        uris: of the few; those that cannot be read do not count.
        reader: to read them with.

    Returns:
        The median of the roots of their areas, in pixels; 0 if none can be read.
    """

    def side(uri: str) -> float:
        try:
            with Image.open(io.BytesIO(reader.read(uri)), formats=PILLOW_FORMATS) as image:
                return math.sqrt(image.width * image.height)
        except Exception:  # Pillow raises anything on untrusted bytes; the conversion says what is wrong
            return 0.0

    return float(median([found for found in map_concurrently(side, uris) if found] or [0.0]))


def without_odd(rejects: Sequence[UnusedImage]) -> tuple[list[UnusedImage], list[UnusedImage]]:
    """Separates rejected images from odd ones that were left out; both are in one table.

    Args:
        rejects: the table.

    Returns:
        The rejected images, and the odd ones.
    """
    odd = [reject for reject in rejects if reject[2].startswith(LEFT_OUT_AS)]
    return [reject for reject in rejects if not reject[2].startswith(LEFT_OUT_AS)], odd
