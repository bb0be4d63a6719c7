"""A picture's bytes on their way into a record: looked at or believed, shrunk if asked, and sure to be read by TensorFlow."""

import hashlib
import io

from PIL import ExifTags, Image

from kfp_vision.catalog import Row
from kfp_vision.pictures import PILLOW_OPENS, QUALITY, TENSORFLOW_READS, Checked, Refused, checked


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
    if check_pixels:
        listed = hashlib.md5(encoded, usedforsecurity=False).hexdigest() == row.content_id
    else:
        listed = len(encoded) == row.bytes
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
            return _resized(image, max_side)
    except (OSError, SyntaxError, ValueError) as error:
        raise Refused(" ".join(str(error).split()) or type(error).__name__) from None


def _resized(image: Image.Image, longest: int) -> Checked:
    share = longest / max(image.size)
    width, height = (max(1, round(side * share)) for side in image.size)
    image.draft("RGB", (width, height))  # a JPEG is decoded at half, a quarter or an eighth of its size where that is enough
    if image.mode.startswith("I;16"):  # Pillow would clip it to 8 bits: all white
        image = image.convert("I").point([level >> 8 for level in range(1 << 16)], "L")
    small = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=QUALITY)
    return Checked(file.getvalue(), "jpeg", height, width)


def _believed(encoded: bytes) -> Checked:
    """The picture by its header alone; one that has to be encoded anew is decoded, and so checked, on the way."""
    try:
        with Image.open(io.BytesIO(encoded), formats=PILLOW_OPENS) as image:
            readable = image.mode in TENSORFLOW_READS.get(image.format or "", ())
            if readable and image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
                return Checked(encoded, "png" if image.format == "PNG" else "jpeg", image.height, image.width)
    except (OSError, SyntaxError, ValueError):
        pass  # `checked` says what is wrong
    return checked(encoded)
