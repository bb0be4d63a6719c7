"""Converts the bytes of an image to what a record holds: validated, shrunk if asked, and readable by TensorFlow."""

import io

from PIL import ExifTags, Image

from kfp_vision.dataset import table
from kfp_vision.dataset.images import (
    PILLOW_FORMATS,
    TENSORFLOW_MODES,
    Rejected,
    ValidImage,
    check_jpeg_scans,
    check_pixel_count,
    encode_jpeg,
    plain_jpeg_size,
    validate_image,
)
from kfp_vision.dataset.table import ImageRow


def converted(encoded: bytes, row: ImageRow, *, check_pixels: bool = True, max_side: int = 0) -> ValidImage:
    """Converts an image to an upright JPEG or PNG; keeps its original bytes if TensorFlow reads them.

    Args:
        encoded: bytes of the image file.
        row: of the table.
        check_pixels: compare the MD5 with the table, and decode every pixel. If false, only length and header are checked,
            and damaged pixels show up when training reads them.
        max_side: an image with a longer side, in pixels, is shrunk to it and becomes a JPEG; 0 keeps all sizes.

    Returns:
        The image for the record.

    Raises:
        Refused: the bytes are not a usable image, or not those listed in the table.
    """
    unchanged = table.md5_hex(encoded) == row.content_id if check_pixels else len(encoded) == row.bytes
    if not unchanged:
        raise Rejected("changed since it was listed")
    image = validate_image(encoded) if check_pixels else _check_header(encoded)
    return shrunk(image, max_side) if max_side else image


def shrunk(image: ValidImage, max_side: int) -> ValidImage:
    """Shrinks an image whose longer side exceeds a limit, and re-encodes it as RGB JPEG of quality 95.

    Args:
        image: upright.
        max_side: largest side in pixels.

    Returns:
        The shrunk image, or the same one if it is small enough.

    Raises:
        Refused: the image cannot be decoded; does not happen if its pixels were checked.
    """
    if max(image.height, image.width) <= max_side:
        return image
    try:
        with Image.open(io.BytesIO(image.encoded), formats=("JPEG", "PNG")) as opened:
            scale = max_side / max(opened.size)
            size = (max(1, round(opened.width * scale)), max(1, round(opened.height * scale)))
            opened.draft("RGB", size)  # lets libjpeg decode at 1/2, 1/4 or 1/8 of the size, which is faster
            return encode_jpeg(opened, size)
    except (OSError, SyntaxError, ValueError) as error:
        raise Rejected(" ".join(str(error).split()) or type(error).__name__) from None


def _check_header(encoded: bytes) -> ValidImage:
    """Checks the header of an image; decodes, and so checks, the pixels only if it has to be re-encoded."""
    if size := plain_jpeg_size(encoded):
        check_pixel_count(*size)
        check_jpeg_scans(encoded, *size)
        return ValidImage(encoded, "jpeg", *size)
    try:
        with Image.open(io.BytesIO(encoded), formats=PILLOW_FORMATS) as opened:
            readable = opened.mode in TENSORFLOW_MODES.get(opened.format or "", ())
            check_pixel_count(*opened.size)
            if readable and opened.getexif().get(ExifTags.Base.Orientation, 1) == 1:
                return ValidImage(encoded, "png" if opened.format == "PNG" else "jpeg", opened.height, opened.width)
    except (OSError, SyntaxError, ValueError):
        pass  # `checked` finds the reason
    return validate_image(encoded)
