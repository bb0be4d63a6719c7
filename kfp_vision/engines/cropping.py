"""Decodes and crops images without TensorFlow, as the exported model and the training do (`networks.decoding`).

JPEGs, which are most images, are decoded by the library that TensorFlow uses (libjpeg-turbo, with its fast cosine transform),
to the same pixels. One pass decodes and checks: what libjpeg-turbo reads without a warning needs no other check, and of
anything else `dataset.images` decides whether it is rejected, and why.
"""

import contextlib
import io
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from kfp_vision.core.crop_shapes import SQUARE, STRETCHED, WHOLE
from kfp_vision.dataset import images
from kfp_vision.dataset.images import Rejected
from kfp_vision.engines import resizing
from kfp_vision.engines.resizing import Floats, Pixels, resize

MARGIN = 16  # the window leaves out 1/16 of a side at each end, and so keeps `decoding.CENTRAL_FRACTION`
REDUCTIONS = (8, 4, 2)  # the factors of `decoding.JPEG_REDUCTIONS`
# EXIF orientations (EXIF 2.3, section 4.6.4) set upright by exchanging rows and columns, then by reversing either.
TRANSPOSED, UPSIDE_DOWN, MIRRORED = (5, 6, 7, 8), (3, 4, 7, 8), (2, 3, 6, 7)
# PNG 1.2, section 3; and what Pillow reads an orientation from.
PNG_SIGNATURE, PNG_CHUNK = b"\x89PNG\r\n\x1a\n", 12  # bytes of a chunk besides its content
PNG_ORIENTATION_FIELDS = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}

Sides = tuple[int, int]  # height and width


class Window(NamedTuple):
    """A part of an image, in pixels.

    Attributes:
        top: rows above it.
        left: columns on its left.
        height: its rows.
        width: its columns.
    """

    top: int
    left: int
    height: int
    width: int


def crop(encoded: bytes, size: int, max_pixels: int, shape: str = STRETCHED) -> Pixels:
    """Decodes, crops, resizes and turns an image as `crop_floats` does, and rounds to whole levels.

    Rounding alone may move a score: of an EfficientNet-Lite0 of 1000 classes by up to 0.06 on photographs of flowers.

    Args:
        encoded: the file's bytes, in any format of `dataset.images.PILLOW_FORMATS`.
        size: height and width of the result in pixels.
        max_pixels: upper limit for width times height.
        shape: of the crop before it is resized; see `central_window`.

    Returns:
        (size, size, 3) RGB, at most 0.51 levels from those of `crop_floats`.

    Raises:
        Rejected: as for `crop_floats`.
    """
    return np.rint(crop_floats(encoded, size, max_pixels, shape)).astype(np.uint8)


def crop_floats(encoded: bytes, size: int, max_pixels: int, shape: str = STRETCHED) -> Floats:
    """Decodes an image, crops its centre, resizes the crop, and sets it upright; thread-safe, mostly without the GIL.

    Every pixel is within 0.01 levels of that which `decoding.central_crop` makes of what `validate_image` returns. Only a
    JPEG that EXIF turns, which is not encoded again here, differs from that copy as a JPEG of quality 95 does from its
    original: by 1.2 levels in the mean, and 99.9% of the values by at most 12, on photographs whose sides are multiples of 8.

    Args:
        encoded: the file's bytes, in any format of `dataset.images.PILLOW_FORMATS`.
        size: height and width of the result in pixels.
        max_pixels: upper limit for width times height.
        shape: of the crop before it is resized; see `central_window`.

    Returns:
        (size, size, 3) RGB from 0 to 255.

    Raises:
        Rejected: as for `dataset.images.validate_image`, with its reasons, or a PNG is damaged where TensorFlow rejects it.
    """
    return crop_and_measure(encoded, size, max_pixels, shape)[0]


def crop_and_measure(encoded: bytes, size: int, max_pixels: int, shape: str = STRETCHED) -> tuple[Floats, Sides]:
    """Crops an image as `crop_floats` does, and measures it.

    Args:
        encoded: the file's bytes, in any format of `dataset.images.PILLOW_FORMATS`.
        size: height and width of the crop in pixels.
        max_pixels: upper limit for width times height.
        shape: of the crop before it is resized; see `central_window`.

    Returns:
        The crop, and height and width of the whole image in pixels, upright.

    Raises:
        Rejected: as for `crop_floats`.
    """
    with images.open_image(encoded, max_pixels) as image:
        if image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB"):
            return _crop_jpeg(image, encoded, size, max_pixels, shape)
        if image.format == "PNG":
            pixels = _decode_png(image, encoded, max_pixels)
        else:
            shown = images.decode_upright(image, encoded)
            if not images.is_converted_lossless(image):
                # As in the training, whose copy is reduced as any JPEG, and has lost as much.
                copy = images.encode_jpeg(shown, subsampling=images.FULL_COLOUR)
                sides = (copy.height, copy.width)
                window = central_window(sides, shape)
                ratio = choose_reduction(window, size)
                return resize_window(decode_jpeg(copy.encoded, sides, ratio), window, size, ratio), sides
            pixels = np.asarray(shown)
        sides = (pixels.shape[0], pixels.shape[1])
        return resize_window(pixels, central_window(sides, shape), size, 1), sides


def _crop_jpeg(image: Image.Image, encoded: bytes, size: int, max_pixels: int, shape: str) -> tuple[Floats, Sides]:
    """Crops a JPEG; one of which libjpeg-turbo reports anything is checked as all images are, and cropped if it passes."""
    sides = (image.height, image.width)
    ratio = choose_reduction(central_window(sides, shape), size)
    orientation = images.read_orientation(image)
    try:
        pixels = decode_jpeg(encoded, sides, ratio)
    except ValueError:
        valid = images.validate_image(encoded, max_pixels)
        orientation, sides = images.UPRIGHT, (valid.height, valid.width)
        pixels = _decode_unusual_jpeg(valid.encoded, sides, ratio)
    # Turned before the window is cut, which is rounded to reduced pixels.
    upright = sides[::-1] if orientation in TRANSPOSED else sides
    return resize_window(_turn_upright(pixels, orientation), central_window(upright, shape), size, ratio), upright


def decode_jpeg(encoded: bytes, sides: Sides, ratio: int, *, strict: bool = True, buffer: bytearray | None = None) -> Pixels:
    """Decodes a JPEG to the pixels of `tf.io.decode_jpeg`; thread-safe, without the GIL.

    Args:
        encoded: the file's bytes.
        sides: of the image, as it is stored.
        ratio: factor by which to reduce it while decoding, one of `decoding.JPEG_REDUCTIONS`.
        strict: whether a warning of libjpeg-turbo is an error.
        buffer: memory for the result, large enough; by default new memory, which takes a quarter longer.

    Returns:
        (height, width, 3) RGB; the sides divided by the ratio, rounded up.

    Raises:
        ValueError: libjpeg-turbo rejects the file, or it has other sides.
    """
    height, width = _reduce(sides, ratio)
    # The smallest of libjpeg-turbo's factors that gives these sides is 1 / ratio.
    pixels: Pixels = simplejpeg.decode_jpeg(
        encoded, "RGB", fastdct=True, min_height=height, min_width=width, min_factor=1, strict=strict, buffer=buffer
    )
    if pixels.shape[:2] != (height, width):
        raise ValueError(f"{pixels.shape[:2]} pixels instead of {(height, width)}")
    return pixels


def _decode_unusual_jpeg(encoded: bytes, sides: Sides, ratio: int) -> Pixels:
    """Decodes a JPEG that has passed the checks although libjpeg-turbo has warned of something."""
    with contextlib.suppress(ValueError):
        return decode_jpeg(encoded, sides, ratio, strict=False)
    # A warning in the header is an error for simplejpeg, whatever is asked. Pillow's cosine transform is the slow one.
    with Image.open(io.BytesIO(encoded), formats=("JPEG", "MPO")) as image:
        image.draft("RGB", (sides[1] // ratio, sides[0] // ratio))
        pixels = np.asarray(image.convert("RGB"))
    if pixels.shape[:2] != _reduce(sides, ratio):
        raise Rejected(f"damaged ({pixels.shape[:2]} pixels)")
    return pixels


def _reduce(sides: Sides, ratio: int) -> Sides:
    return -(-sides[0] // ratio), -(-sides[1] // ratio)


def _decode_png(image: Image.Image, encoded: bytes, max_pixels: int) -> Pixels:
    """Decodes a PNG as a person sees it; one that the export reads as it is with libpng, which is as strict there."""
    plain, trailed = _strip_png(encoded)
    may_turn = trailed or not PNG_ORIENTATION_FIELDS.isdisjoint(image.info)
    if may_turn or image.has_transparency_data or images.is_deep(image, encoded):
        shown = images.decode_upright(image, encoded)
        if not images.is_kept(image, encoded):
            return np.asarray(shown)
    with contextlib.suppress(Exception):  # Pillow raises anything on damaged files
        images.reject_broken_png(encoded)
        return _decode_plain_png(plain)
    images.validate_image(encoded, max_pixels)  # says of most what is wrong
    raise Rejected("damaged (Invalid PNG data)")


def _decode_plain_png(encoded: bytes) -> Pixels:
    """Decodes an opaque PNG of 8 bits with OpenCV, or in an image without it with Pillow, which is less strict."""
    if not resizing.cv2:
        with Image.open(io.BytesIO(encoded), formats=("PNG",)) as image:
            return np.asarray(image.convert("RGB"))
    pixels = resizing.cv2.imdecode(np.frombuffer(encoded, np.uint8), resizing.cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        raise ValueError("no PNG that libpng reads")
    return np.asarray(pixels)


def _strip_png(encoded: bytes) -> tuple[bytes, bool]:
    """Returns a PNG without its ancillary chunks, for each odd one of which libpng writes a line to stderr.

    Args:
        encoded: the PNG file.

    Returns:
        The file, empty if its end is missing; and whether ancillary chunks follow the pixels, where Pillow has not read yet.
    """
    at, chunks, in_pixels, trailed = len(PNG_SIGNATURE), [PNG_SIGNATURE], False, False
    while at + PNG_CHUNK <= len(encoded):
        kind, end = encoded[at + 4 : at + 8], at + PNG_CHUNK + int.from_bytes(encoded[at : at + 4])
        if kind[:1].isupper():
            chunks.append(encoded[at:end])
        else:
            trailed |= in_pixels
        if kind == b"IEND":
            return b"".join(chunks), trailed
        at, in_pixels = end, in_pixels or kind == b"IDAT"
    return b"", trailed


def _turn_upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turns and mirrors an image as its EXIF orientation says, without copying its pixels."""
    if orientation in TRANSPOSED:
        pixels = pixels.transpose(1, 0, 2)
    rows = -1 if orientation in UPSIDE_DOWN else 1
    columns = -1 if orientation in MIRRORED else 1
    return pixels[::rows, ::columns]


def central_window(sides: Sides, shape: str = STRETCHED) -> Window:
    """Returns the window of an image of these sides that `decoding.central_window` returns, with a shape of `crop_shapes`."""
    margins = [0 if shape == WHOLE else side // MARGIN for side in sides]
    if shape == SQUARE:
        length = min(side - 2 * margin for side, margin in zip(sides, margins, strict=True))
        margins = [(side - length) // 2 for side in sides]
    top, left = margins
    return Window(top, left, sides[0] - 2 * top, sides[1] - 2 * left)


def choose_reduction(window: Window, size: int) -> int:
    """Returns by how much an image can be reduced so that a window of it still has a size."""
    shorter = min(window.height, window.width)
    return next((ratio for ratio in REDUCTIONS if shorter // size >= ratio), 1)


def resize_window(pixels: Pixels, window: Window, size: int, ratio: int, out: Floats | None = None) -> Floats:
    """Resizes a window of an image to a square.

    Args:
        pixels: the image, reduced by the ratio.
        window: of the image before it was reduced.
        size: height and width of the result in pixels.
        ratio: by how much the image was reduced.
        out: (size, size, 3) to write the result to; by default a new array.

    Returns:
        (size, size, 3) RGB from 0 to 255.
    """
    rows, columns = (
        slice((first + ratio // 2) // ratio, (first + side + ratio // 2) // ratio)
        for first, side in (window[::2], window[1::2])
    )
    return resize(pixels[rows, columns], size, out)
