"""A picture's bytes: whether they are a picture that can be trained on, and how large it is."""

import io
import re
import struct
from dataclasses import dataclass

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 100_000_000
# What TensorFlow decodes by itself: format as Pillow names it, to the modes in which it does.
# MPO is what Pillow calls a JPEG with more pictures behind the first, as telephones write it.
TENSORFLOW_READS = {"JPEG": ("L", "RGB"), "MPO": ("L", "RGB"), "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")}
PILLOW_OPENS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
# The major brand of a file in ISO's base media format: ISO/IEC 23008-12, annex B, and the AV1 image file format, section 6.
BRANDS = dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC")
BRANDS |= dict.fromkeys((b"avif", b"avis"), "AVIF")
QUALITY = 95  # of a picture that has to be encoded anew
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
# Markers of a JPEG: ITU-T T.81, table B.1. A 0xff of the pixels has a 0x00 behind it, any other begins a marker.
JPEG_BEGIN, JPEG_MARKER = b"\xff\xd8", re.compile(rb"\xff[^\x00\xff]")
JPEG_SCAN, JPEG_END = 0xDA, 0xD9
JPEG_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
JPEG_BESIDE = (0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE)  # tables, applications' own, comments
JPEG_APP1 = 0xE1  # EXIF or XMP, which may turn a picture
JPEG_FRAME = struct.Struct(">BBHBHHB")  # 0xff, kind, length, and of a frame: bits a sample, height, width, components
JPEG_ALONE = (0x01, *range(0xD0, 0xD8))  # without a length behind it
# Tables, restarts, comments and applications' own may follow the first pixels; frames and what is reserved may not.
JPEG_PIXELS_MAY_HOLD = (*JPEG_ALONE, 0xC4, 0xCC, *range(0xDA, 0xDE), *range(0xE0, 0xF0), 0xFE)
# A scan of ten bytes has all blocks of the picture gone through: a megabyte can keep a core busy for an hour. Real ones have a
# dozen scans, and in a small picture no number of them takes long.
JPEG_SCAN_HEADER, MAX_SCANS = re.compile(b"\xff\xda\0"), 100
QUICK = 10**11  # pixels times bytes, below which a JPEG is decoded within seconds whatever is in it
CHECK_SCALE = 8  # a JPEG is checked at an eighth of its size and in grey: every byte is read, most arithmetic is not done

Image.MAX_IMAGE_PIXELS = None  # Pillow's own bound warns; ours refuses.


class Refused(Exception):
    """Bytes that are no picture to train on; the message is the reason."""


@dataclass(frozen=True)
class Checked:
    """A picture that TensorFlow reads: JPEG or PNG, upright.

    Attributes:
        encoded: its bytes, the original ones where they are read as they are.
        format: `jpeg` or `png`.
        height, width: in pixels.
    """

    encoded: bytes
    format: str
    height: int
    width: int


def checked(encoded: bytes, max_pixels: int = MAX_PIXELS) -> Checked:
    """The picture in `encoded`: as it is where TensorFlow reads it and it stands upright, else as a JPEG in RGB.

    Raises:
        Refused: empty, not a picture, cut off, of more than `max_pixels`, or made to take hours.
    """
    return _checked(encoded, max_pixels, None)[0]


def checked_with_small(encoded: bytes, side: int, max_pixels: int = MAX_PIXELS) -> tuple[Checked, Image.Image]:
    """The picture in `encoded` as `checked` gives it, and its pixels in RGB; cheaper than to decode it once more for them.

    Args:
        encoded: its bytes.
        side: pixels that are wanted of its sides: a JPEG comes at a half, a quarter or an eighth of its size where that does.
        max_pixels: of a larger one nothing is decoded.

    Raises:
        Refused: as `checked` does.
    """
    whole, image = _checked(encoded, max_pixels, side)
    return whole, _in_rgb(image)


def _checked(encoded: bytes, max_pixels: int, side: int | None) -> tuple[Checked, Image.Image]:
    """The picture, and what was decoded of it to check it; in grey and far smaller where nobody wants to see it."""
    if not encoded:
        raise Refused("empty")
    try:
        with Image.open(io.BytesIO(encoded), formats=PILLOW_OPENS) as image:
            width, height = image.size
            refuse_huge(width, height, max_pixels)
            if image.format in ("JPEG", "MPO"):
                refuse_endless_jpeg(encoded, width, height)
            upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
            if upright and image.mode in TENSORFLOW_READS.get(image.format or "", ()):
                if side:
                    image.draft("RGB", (side, side))
                else:
                    image.draft("L", (max(1, width // CHECK_SCALE), max(1, height // CHECK_SCALE)))
                image.load()
                (_refuse_broken_png if image.format == "PNG" else _refuse_broken_jpeg)(encoded)
                return Checked(encoded, "png" if image.format == "PNG" else "jpeg", height, width), image
            made = as_jpeg(ImageOps.exif_transpose(image))
            return _checked(made.encoded, max_pixels, side) if side else (made, image)
    except UnidentifiedImageError:
        raise Refused(_what_it_is(encoded)) from None
    except (OSError, SyntaxError, ValueError) as error:
        raise Refused(" ".join(str(error).split()) or type(error).__name__) from None


def refuse_huge(width: int, height: int, max_pixels: int = MAX_PIXELS) -> None:
    """Refuses a picture that would fill the memory: what it claims is believed, decoded or not.

    Raises:
        Refused: of more than `max_pixels`.
    """
    if width * height > max_pixels:
        raise Refused(f"{width} x {height} pixels, more than {max_pixels // 1_000_000} million")


def refuse_endless_jpeg(encoded: bytes, width: int, height: int) -> None:
    """Refuses a JPEG that would keep a core busy for hours.

    Raises:
        Refused: of more scans than any camera or program writes.
    """
    if width * height * len(encoded) > QUICK and (scans := len(JPEG_SCAN_HEADER.findall(encoded))) > MAX_SCANS:
        raise Refused(f"a JPEG of {scans:,} scans, which takes too long to decode")


def size_of_plain_jpeg(encoded: bytes) -> tuple[int, int] | None:
    """Height and width in pixels, by its header, of an upright grey or colour JPEG; None of all else, and where in doubt.

    Follows the segments up to the frame, which costs a quarter of asking Pillow.
    """
    at = len(JPEG_BEGIN)
    while encoded.startswith(JPEG_BEGIN) and at + JPEG_FRAME.size <= len(encoded):
        mark, kind, length, precision, height, width, components = JPEG_FRAME.unpack_from(encoded, at)
        if mark == 0xFF and kind in JPEG_FRAMES and precision == 8 and height and width and components in (1, 3):
            return height, width
        if mark != 0xFF or kind not in JPEG_BESIDE:
            return None
        if kind == JPEG_APP1 and (encoded.startswith(b"Exif", at + 4) or b"Orientation" in encoded[at : at + 2 + length]):
            return None
        at += 2 + length
    return None


def _what_it_is(encoded: bytes) -> str:
    """What bytes are that Pillow does not know, where people often take them for a picture."""
    if encoded[4:8] == b"ftyp" and (brand := BRANDS.get(encoded[8:12])):
        return f"{brand}, which is not supported; convert it to JPEG"
    begin = encoded[:100].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return "not a picture in a known format" + (", but a web page" if begin.startswith((b"<!doctype html", b"<html")) else "")


def _refuse_broken_png(encoded: bytes) -> None:
    """TensorFlow refuses what Pillow passes over when it reads pixels: a wrong checksum of the data, and a missing end."""
    with Image.open(io.BytesIO(encoded), formats=("PNG",)) as image:
        image.verify()
    if PNG_END not in encoded:
        raise Refused("cut off")


def _refuse_broken_jpeg(encoded: bytes) -> None:
    """TensorFlow reads on to the end mark behind the last pixel, Pillow does not: a damaged marker can swallow the mark.

    Follows the markers from segment to segment as libjpeg's `jpeg_finish_decompress` does (jdmarker.c, read_markers), and
    passes over the pixels without decoding them.
    """
    at, in_pixels = len(JPEG_BEGIN), False
    while found := JPEG_MARKER.search(encoded, at):
        kind, at = encoded[found.end() - 1], found.end()
        if kind == JPEG_END:
            return
        if kind not in JPEG_PIXELS_MAY_HOLD and in_pixels:
            break
        if kind not in JPEG_ALONE:
            at += int.from_bytes(encoded[at : at + 2])
        in_pixels = in_pixels or kind == JPEG_SCAN
    raise Refused("a JPEG whose end is missing or damaged")


def as_jpeg(image: Image.Image, size: tuple[int, int] | None = None) -> Checked:
    """An upright image as a JPEG in RGB of quality 95.

    Args:
        image: in any mode of Pillow's; grey of 16 bits keeps its shades.
        size: the width and height to bring it to, in pixels, if not its own.

    Raises:
        Refused: its mode does not say what white is.
    """
    if image.mode in ("I", "F"):
        raise Refused(f"pixels of mode {image.mode}, which do not say what white is")
    clean = _in_rgb(image)
    if size:
        clean = clean.resize(size, Image.Resampling.LANCZOS)
    file = io.BytesIO()
    clean.save(file, "JPEG", quality=QUALITY)
    return Checked(file.getvalue(), "jpeg", clean.height, clean.width)


def _in_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would clip it to 8 bits: all white
        image = image.convert("I").point([level >> 8 for level in range(1 << 16)], "L")
    return image if image.mode == "RGB" else image.convert("RGB")
