"""A picture's bytes on their way into a record: looked at or believed, shrunk if asked, and sure to be read by TensorFlow."""

import hashlib
import io
import re

from PIL import ExifTags, Image

from kfp_vision.catalog import Row
from kfp_vision.pictures import PILLOW_OPENS, QUALITY, TENSORFLOW_READS, Checked, Refused, checked

# A marker of a JPEG: not a stuffed 0xFF of the data, not a restart within it. ISO/IEC 10918-1, B.1.1.
MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
END_OF_IMAGE, START_OF_SCAN, PROGRESSIVE = 0xD9, 0xDA, 0xC2


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
    picture = _read_to_the_end(checked(encoded)) if check_pixels else _believed(encoded)
    return shrunk(picture, max_side) if max_side else picture


def shrunk(picture: Checked, max_side: int) -> Checked:
    """The picture as a JPEG in RGB of quality 95 with no side above `max_side` pixels; as it is where none is.

    Raises:
        Refused: it cannot be decoded, which a picture that was checked can.
    """
    if max(picture.height, picture.width) <= max_side:
        return picture
    return _as_jpeg(picture, max_side)


def _as_jpeg(picture: Checked, longest: int) -> Checked:
    try:
        with Image.open(io.BytesIO(picture.encoded), formats=("JPEG", "PNG")) as image:
            return _resized(image, longest)
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


def _read_to_the_end(picture: Checked) -> Checked:
    """The picture, encoded anew where TensorFlow would fail behind the last row, up to which Pillow reads."""
    if picture.format != "jpeg" or _ends_well(picture.encoded):
        return picture
    return _as_jpeg(picture, max(picture.height, picture.width))


def _ends_well(jpeg: bytes) -> bool:
    """Whether the first thing behind the pixels is the end of the picture, as TensorFlow's `jpeg::Uncompress` needs it.

    Of a progressive JPEG Pillow has read every scan itself, and would have refused what TensorFlow refuses.
    """
    at, scanned = 2, False
    while found := MARKER.search(jpeg, at):
        marker = found[1][0]
        if marker == END_OF_IMAGE or scanned:
            return marker == END_OF_IMAGE
        if marker == PROGRESSIVE:
            return True
        scanned = marker == START_OF_SCAN
        at = found.end() + int.from_bytes(jpeg[found.end() : found.end() + 2])
    return False
