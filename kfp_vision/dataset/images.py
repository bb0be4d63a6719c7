"""Validates images and re-encodes those that TensorFlow cannot decode."""

import importlib.util
import io
import re
import struct
from dataclasses import dataclass

from PIL import ExifTags, Image, UnidentifiedImageError

MAX_PIXELS = 100_000_000
# Pillow's format names, and the modes of each that TensorFlow decodes. MPO is a JPEG followed by further images (from phones).
TENSORFLOW_MODES = {"JPEG": ("L", "RGB"), "MPO": ("L", "RGB"), "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")}
# Without HEIF, images of iPhones are rejected with the remedy. Of both packages, pi-heif lacks the encoder, which is under the GPL.
HEIF = next((name for name in ("pi_heif", "pillow_heif") if importlib.util.find_spec(name)), "")
if HEIF:
    importlib.import_module(HEIF).register_heif_opener()
PILLOW_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", *(["HEIF"] if HEIF else []))
# Brands of the ISO base media file format: ISO/IEC 23008-12, annex B, and the AV1 Image File Format, section 6.
ISO_BRANDS = dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"), "HEIC")
ISO_BRANDS |= dict.fromkeys((b"avif", b"avis"), "AVIF")
# The first bytes of the supported formats; those of BMP and PPM are so short that what follows them is part of the pattern.
MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF.{4}WEBP|II[*+]\0|MM\0[*+]"
    rb"|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"  # the sizes of the headers that follow
    rb"|P[1-6]\s(?:\s*[0-9]|\s*#)|Pf\s\s*[0-9]",
    re.DOTALL,
)
MAGIC_BYTES = 32  # that tell the format
REENCODING_QUALITY = 95  # of re-encoded images
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
# JPEG markers: ITU-T T.81, table B.1. In entropy-coded data 0xff is followed by 0x00; any other 0xff starts a marker.
JPEG_START, JPEG_MARKER = b"\xff\xd8", re.compile(rb"\xff[^\x00\xff]")
JPEG_SCAN, JPEG_END = 0xDA, 0xD9
JPEG_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
JPEG_METADATA = (0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE)  # tables, application data, comments
JPEG_APP1 = 0xE1  # EXIF or XMP, either of which may hold an orientation
JPEG_FRAME = struct.Struct(">BBHBHHB")  # 0xff, marker, length; in a frame header: bits per sample, height, width, components
JPEG_BARE_MARKERS = (0x01, *range(0xD0, 0xD8))  # markers without a length field
# Tables, restarts, comments and application data may follow the first scan; frame headers and reserved markers may not.
JPEG_MARKERS_IN_SCANS = (*JPEG_BARE_MARKERS, 0xC4, 0xCC, *range(0xDA, 0xDE), *range(0xE0, 0xF0), 0xFE)
# A ten-byte scan makes the decoder visit every block of the image, so 1 MB of scans can take an hour of CPU time. Real images
# have about a dozen; in small images any number is fast.
JPEG_SCAN_HEADER, MAX_SCANS = re.compile(b"\xff\xda\0"), 100
MAX_QUICK_WORK = 10**11  # pixels times bytes; a JPEG below this decodes within seconds, whatever it contains
CHECK_SCALE = 8  # JPEGs are checked in grey at 1/8 size: libjpeg still reads every byte, but skips most of the arithmetic

UPRIGHT = 1  # EXIF orientation: EXIF 2.3, section 4.6.4
TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit only warns; MAX_PIXELS rejects


class Rejected(Exception):
    """An image that is rejected; the message is the reason."""


@dataclass(frozen=True)
class ValidImage:
    """An upright JPEG or PNG that TensorFlow decodes.

    Attributes:
        encoded: encoded bytes; the original ones unless the image was re-encoded.
        format: `jpeg` or `png`.
        height: in pixels.
        width: in pixels.
    """

    encoded: bytes
    format: str
    height: int
    width: int


def looks_like_image(head: bytes) -> bool:
    """Tells by its first bytes whether a file is an image in a supported format, whatever its name.

    Args:
        head: the first `MAGIC_BYTES` bytes of the file, or all.

    Returns:
        Whether it begins as JPEG, PNG, GIF, BMP, WebP, TIFF, PPM (PBM, PGM, PFM), AVIF or HEIC; HEIC also if it cannot be
        decoded here, so that it is rejected with the remedy.
    """
    return bool(MAGIC.match(head)) or bool(_iso_brand(head))


def _iso_brand(head: bytes) -> str:
    """Returns HEIC or AVIF by the brands of the first box; empty if it is another file."""
    if head[4:8] != b"ftyp":
        return ""
    size = min(int.from_bytes(head[:4]), len(head))
    compatible = [head[at : at + 4] for at in range(16, size - 3, 4)]
    if head[8:12] in (b"mif1", b"msf1") and not {b"avif", b"avis"}.isdisjoint(compatible):
        return "AVIF"
    return ISO_BRANDS.get(head[8:12], "")


def validate_image(encoded: bytes, max_pixels: int = MAX_PIXELS) -> ValidImage:
    """Validates an image, and re-encodes it as RGB JPEG if TensorFlow cannot decode it, or it is not upright or not opaque.

    Args:
        encoded: the file's bytes, in any format of `PILLOW_FORMATS`.
        max_pixels: upper limit for width times height.

    Returns:
        The valid image, with its original bytes if possible.

    Raises:
        Rejected: The bytes are empty, not an image, truncated or damaged, or the image is too large or too slow to decode.

    Example:
        image = validate_image(Path("photo.webp").read_bytes())
        image.format, image.height, image.width  # ("jpeg", 480, 640)
    """
    return _validate(encoded, max_pixels, None)[0]


def validate_and_decode(encoded: bytes, side: int, max_pixels: int = MAX_PIXELS) -> tuple[ValidImage, Image.Image]:
    """Validates an image as `validate_image` does, and also returns its pixels, which saves decoding it again.

    Args:
        encoded: the file's bytes.
        side: minimum height and width of the returned pixels; JPEGs are decoded at 1/2, 1/4 or 1/8 size where that suffices.
        max_pixels: upper limit for width times height.

    Returns:
        The valid image, and its pixels in RGB.

    Raises:
        Rejected: As for `validate_image`.
    """
    valid, pixels = _validate(encoded, max_pixels, side)
    return valid, _to_rgb(pixels)


def _validate(encoded: bytes, max_pixels: int, side: int | None) -> tuple[ValidImage, Image.Image]:
    """Returns the valid image and its decoded pixels, which are grey and reduced if `side` is None."""
    if not encoded:
        raise Rejected("empty")
    try:
        with Image.open(io.BytesIO(encoded), formats=PILLOW_FORMATS) as image:
            width, height = image.size
            check_pixel_count(width, height, max_pixels)
            if image.format in ("JPEG", "MPO"):
                check_jpeg_scans(encoded, width, height)
            upright = read_orientation(image) == UPRIGHT
            if upright and image.mode in TENSORFLOW_MODES.get(image.format or "", ()) and not _shows_through(image):
                if side:
                    image.draft("RGB", (side, side))
                else:
                    image.draft("L", (max(1, width // CHECK_SCALE), max(1, height // CHECK_SCALE)))
                image.load()
                (_reject_broken_png if image.format == "PNG" else _reject_broken_jpeg)(encoded)
                return ValidImage(encoded, "png" if image.format == "PNG" else "jpeg", height, width), image
            image.load()  # Pillow sets a TIFF upright itself, and then reads no orientation
            method = TO_UPRIGHT.get(read_orientation(image))
            converted = encode_jpeg(image if method is None else image.transpose(method))
            return _validate(converted.encoded, max_pixels, side) if side else (converted, image)
    except UnidentifiedImageError:
        raise Rejected(_describe_unknown(encoded)) from None
    except Rejected:
        raise
    except Exception as error:  # Pillow raises anything on untrusted bytes
        raise Rejected(" ".join(str(error).split()) or type(error).__name__) from None


def read_orientation(image: Image.Image) -> int:
    """Reads the EXIF orientation alone, whatever other fields hold.

    Args:
        image: opened with Pillow; decoded by this if it is a PNG, whose EXIF data may follow the pixels.

    Returns:
        1 to 8; 1 if there is none that can be read.

    Raises:
        OSError: the pixels of a PNG are damaged.
    """
    if image.format == "PNG" and "exif" not in image.info:
        image.load()
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow raises anything on damaged EXIF data, which do not concern the pixels
        return UPRIGHT
    return orientation if isinstance(orientation, int) and orientation in TO_UPRIGHT else UPRIGHT


def _shows_through(image: Image.Image) -> bool:
    """Returns whether any pixel is not opaque."""
    if not image.has_transparency_data or image.mode.startswith("I"):
        return False
    alpha = image.getchannel("A") if "A" in image.getbands() else image.convert("RGBA").getchannel("A")
    return bool(alpha.getextrema() != (255, 255))


def check_pixel_count(width: int, height: int, max_pixels: int = MAX_PIXELS) -> None:
    """Rejects an image whose header claims too many pixels, before memory is allocated for them.

    Args:
        width: in pixels.
        height: in pixels.
        max_pixels: upper limit for width times height.

    Raises:
        Rejected: The image is larger.
    """
    if width * height > max_pixels:
        raise Rejected(f"{width} x {height} pixels, more than {max_pixels // 1_000_000} million")


def check_jpeg_scans(encoded: bytes, width: int, height: int) -> None:
    """Rejects a JPEG crafted to take hours to decode.

    Args:
        encoded: the file's bytes.
        width: in pixels.
        height: in pixels.

    Raises:
        Rejected: The JPEG is large and has more scans than any camera or program writes.
    """
    if width * height * len(encoded) > MAX_QUICK_WORK and (scans := len(JPEG_SCAN_HEADER.findall(encoded))) > MAX_SCANS:
        raise Rejected(f"a JPEG of {scans:,} scans, which takes too long to decode")


def plain_jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    """Reads the size of an upright 8-bit grey or colour JPEG from its header, four times faster than Pillow.

    Args:
        encoded: the file's bytes.

    Returns:
        Height and width in pixels; None for any other image, and in case of doubt.
    """
    at = len(JPEG_START)
    while encoded.startswith(JPEG_START) and at + JPEG_FRAME.size <= len(encoded):
        prefix, marker, length, precision, height, width, components = JPEG_FRAME.unpack_from(encoded, at)
        if prefix == 0xFF and marker in JPEG_FRAMES and precision == 8 and height and width and components in (1, 3):
            return height, width
        if prefix != 0xFF or marker not in JPEG_METADATA:
            return None
        if marker == JPEG_APP1 and (encoded.startswith(b"Exif", at + 4) or b"Orientation" in encoded[at : at + 2 + length]):
            return None
        at += 2 + length
    return None


def _describe_unknown(encoded: bytes) -> str:
    """Names the file types that are often taken for supported images."""
    if encoded[4:8] == b"ftyp" and (brand := ISO_BRANDS.get(encoded[8:12])):
        return f"{brand} is not supported; convert it to JPEG"
    begin = encoded[:100].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return "not an image in a known format" + (", but a web page" if begin.startswith((b"<!doctype html", b"<html")) else "")


def _reject_broken_png(encoded: bytes) -> None:
    """Rejects wrong checksums and a missing IEND chunk: Pillow ignores them when it decodes, TensorFlow does not."""
    with Image.open(io.BytesIO(encoded), formats=("PNG",)) as image:
        image.verify()
    if PNG_END not in encoded:
        raise Rejected("truncated")


def _reject_broken_jpeg(encoded: bytes) -> None:
    """Rejects a JPEG without an end marker: TensorFlow reads up to it, Pillow stops at the last pixel.

    A damaged segment length can swallow the end marker, so this follows the segments as libjpeg's `jpeg_finish_decompress`
    does (jdmarker.c, read_markers), without decoding the pixels.
    """
    at, in_pixels = len(JPEG_START), False
    while match := JPEG_MARKER.search(encoded, at):
        marker, at = encoded[match.end() - 1], match.end()
        if marker == JPEG_END:
            return
        if marker not in JPEG_MARKERS_IN_SCANS and in_pixels:
            break
        if marker not in JPEG_BARE_MARKERS:
            at += int.from_bytes(encoded[at : at + 2])
        in_pixels = in_pixels or marker == JPEG_SCAN
    raise Rejected("a JPEG whose end is missing or damaged")


def encode_jpeg(image: Image.Image, size: tuple[int, int] | None = None) -> ValidImage:
    """Encodes an upright image as an RGB JPEG of quality 95, with transparent pixels on white.

    Args:
        image: in any Pillow mode; 16-bit grey is scaled to 8 bits.
        size: width and height in pixels to resize to; None keeps the image's own.

    Returns:
        The encoded image.

    Raises:
        Rejected: The mode (32-bit integer or float) does not define a white level.
    """
    if image.mode in ("I", "F"):
        raise Rejected(f"pixels of mode {image.mode}, whose white level is unknown")
    rgb = _to_rgb(image)
    if size:
        rgb = rgb.resize(size, Image.Resampling.LANCZOS)
    file = io.BytesIO()
    rgb.save(file, "JPEG", quality=REENCODING_QUALITY)
    return ValidImage(file.getvalue(), "jpeg", rgb.height, rgb.width)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Converts to RGB, with transparent pixels on white, as browsers show them."""
    if image.mode.startswith("I;16"):  # Pillow would clip it to 8 bits: all white
        image = image.convert("I").point([level >> 8 for level in range(1 << 16)], "L")
        image.info.pop("transparency", None)  # a level of 16 bits
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")
