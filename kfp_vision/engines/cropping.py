"""Decodes and crops images without TensorFlow, as the exported model and the training do (`networks.decoding`).

JPEGs, which are most images, are decoded by the library that TensorFlow uses (libjpeg-turbo, with its fast cosine transform),
to the same pixels. One pass decodes and checks: what libjpeg-turbo reads without a warning needs no other check, and of
anything else `dataset.images` decides whether it is rejected, and why.
"""

import numpy as np
import simplejpeg
from PIL import Image

from kfp_vision.dataset import images
from kfp_vision.dataset.images import Rejected
from kfp_vision.engines.resizing import Pixels, resize

MARGIN = 16  # the window leaves out 1/16 of a side at each end, and so keeps `decoding.CENTRAL_FRACTION`
REDUCTIONS = (8, 4, 2)  # the factors of `decoding.JPEG_REDUCTIONS`


def crop(encoded: bytes, size: int, max_pixels: int) -> Pixels:
    """Decodes an image, crops its centre, resizes the crop, and sets it upright; thread-safe, mostly without the GIL.

    Args:
        encoded: the file's bytes, in any format of `dataset.images.PILLOW_FORMATS`.
        size: height and width of the result in pixels.
        max_pixels: upper limit for width times height.

    Returns:
        (size, size, 3) RGB, rounded to whole levels.

    Raises:
        Rejected: as for `dataset.images.validate_image`, or the pixels are damaged.
    """
    with images.open_image(encoded, max_pixels) as image:
        if image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB"):
            return _crop_jpeg(image, encoded, size, max_pixels)
        pixels = images.decode_upright(image, encoded)
        width, height = pixels.size
        # Of anything else a JPEG is made for the training, which is reduced as any JPEG.
        ratio = 1 if images.is_converted_lossless(image) else _choose_reduction(height, width, size)
        return _resize_window(np.asarray(pixels.reduce(ratio) if ratio > 1 else pixels), height, width, size, ratio)


def _crop_jpeg(image: Image.Image, encoded: bytes, size: int, max_pixels: int) -> Pixels:
    """Crops a JPEG; one of which libjpeg-turbo reports anything is checked as all images are, and cropped if it passes."""
    width, height = image.size
    ratio = _choose_reduction(height, width, size)
    method = images.TO_UPRIGHT.get(images.read_orientation(image))
    try:
        pixels = _decode_jpeg(encoded, height, width, ratio, strict=True)
    except ValueError:
        valid = images.validate_image(encoded, max_pixels)  # upright
        method, ratio = None, _choose_reduction(valid.height, valid.width, size)
        height, width = valid.height, valid.width
        try:
            pixels = _decode_jpeg(valid.encoded, height, width, ratio, strict=False)
        except ValueError as error:
            raise Rejected(f"damaged ({images.describe_error(error)[:100]})") from None
    cropped = _resize_window(pixels, height, width, size, ratio)
    # Turned last: the window and the result are symmetric, and the result is small.
    return cropped if method is None else np.asarray(Image.fromarray(cropped).transpose(method))


def _decode_jpeg(encoded: bytes, height: int, width: int, ratio: int, *, strict: bool) -> Pixels:
    """Decodes a JPEG, reduced by a ratio; raises ValueError if that fails, with `strict` also on a warning."""
    # The smallest of libjpeg-turbo's factors that gives these sides is 1 / ratio.
    sides = (-(-height // ratio), -(-width // ratio))
    pixels: Pixels = simplejpeg.decode_jpeg(
        encoded, "RGB", fastdct=True, min_height=sides[0], min_width=sides[1], min_factor=1, strict=strict
    )
    if pixels.shape[:2] != sides:
        raise ValueError(f"{pixels.shape[:2]} pixels instead of {sides}")
    return pixels


def _choose_reduction(height: int, width: int, size: int) -> int:
    """Returns by how much an image can be reduced so that its window still has the size."""
    shorter = min(side - 2 * (side // MARGIN) for side in (height, width))
    return next((ratio for ratio in REDUCTIONS if shorter // size >= ratio), 1)


def _resize_window(pixels: Pixels, height: int, width: int, size: int, ratio: int) -> Pixels:
    """Resizes the centre of an image of (height, width) that has been reduced by a ratio."""
    return resize(pixels[_central_part(height, ratio), _central_part(width, ratio)], size)


def _central_part(side: int, ratio: int) -> slice:
    begin = side // MARGIN
    return slice((begin + ratio // 2) // ratio, (side - begin + ratio // 2) // ratio)
