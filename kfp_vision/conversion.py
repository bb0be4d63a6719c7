"""A picture's bytes on their way into a record: looked at or believed, shrunk if asked, and sure to be read by TensorFlow."""

import io

from PIL import ExifTags, Image

from kfp_vision import catalog
from kfp_vision.catalog import Row
from kfp_vision.pictures import (
    PILLOW_OPENS,
    TENSORFLOW_READS,
    Checked,
    Refused,
    as_jpeg,
    checked,
    refuse_endless_jpeg,
    refuse_huge,
    size_of_plain_jpeg,
)


def converted(encoded: bytes, row: Row, *, check_pixels: bool = True, max_side: int = 0) -> Checked:
    """The picture as it goes into its record: JPEG or PNG, upright, its original bytes wherever TensorFlow reads them.

    Args:
        encoded: its bytes.
        row: what the table says of it.
        check_pixels: whether its bytes are compared with the table and every pixel is decoded. Otherwise its header and its
            length are looked at, and what is broken further down shows when the training reads it.
        max_side: a picture with a longer side in pixels is shrunk to it and becomes a JPEG; 0 for none.

    Raises:
        Refused: it is no picture to train on, or not the one that was listed.
    """
    listed = catalog.md5(encoded) == row.content_id if check_pixels else len(encoded) == row.bytes
    if not listed:
        raise Refused("not the picture that was listed: its bytes have changed")
    picture = checked(encoded) if check_pixels else _believed(encoded)
    return shrunk(picture, max_side) if max_side else picture


def shrunk(picture: Checked, max_side: int) -> Checked:
    """The picture as a JPEG in RGB of quality 95 with no side above `max_side` pixels; as it is where none is.

    Raises:
        Refused: it cannot be decoded, which a picture that was checked can.
    """
    if max(picture.height, picture.width) <= max_side:
        return picture
    try:
        with Image.open(io.BytesIO(picture.encoded), formats=("JPEG", "PNG")) as image:
            share = max_side / max(image.size)
            size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
            image.draft("RGB", size)  # a JPEG is decoded at half, a quarter or an eighth of its size where that is enough
            return as_jpeg(image, size)
    except (OSError, SyntaxError, ValueError) as error:
        raise Refused(" ".join(str(error).split()) or type(error).__name__) from None


def _believed(encoded: bytes) -> Checked:
    """The picture by its header alone; one that has to be encoded anew is decoded, and so checked, on the way."""
    if size := size_of_plain_jpeg(encoded):
        refuse_huge(*size)
        refuse_endless_jpeg(encoded, *size)
        return Checked(encoded, "jpeg", *size)
    try:
        with Image.open(io.BytesIO(encoded), formats=PILLOW_OPENS) as image:
            readable = image.mode in TENSORFLOW_READS.get(image.format or "", ())
            refuse_huge(*image.size)
            if readable and image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
                return Checked(encoded, "png" if image.format == "PNG" else "jpeg", image.height, image.width)
    except (OSError, SyntaxError, ValueError):
        pass  # `checked` says what is wrong
    return checked(encoded)
