"""Validates images and re-encodes those that TensorFlow cannot decode, or would not show as a person sees them.

Pixels of more than 8 bits are scaled to 8, since 12-bit data in a 16-bit file would otherwise be black. Grey images are scaled
by their own range, which also suits numbers without a stated white (32-bit integers and floats): the lowest level becomes
black, the highest white. Colours, and what has an alpha channel, are scaled by the smallest of 8, 10, 12, 14 and 16 bits that
holds the highest level, so that photographs and drawings keep their shades. Where a TIFF says that 0 is white, it is. Of
several images in a file, the first counts (in HEIC the primary one).
"""

import contextlib
import importlib.util
import io
import logging
import math
import re
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile, PngImagePlugin, PpmImagePlugin, TiffImagePlugin, UnidentifiedImageError

MAX_PIXELS = 100_000_000
# Pillow's format names, and the modes of each that TensorFlow decodes. MPO is a JPEG followed by further images (from phones).
TENSORFLOW_MODES = {"JPEG": ("L", "RGB"), "MPO": ("L", "RGB"), "PNG": ("1", "L", "LA", "P", "RGB", "RGBA")}
HEIF = importlib.util.find_spec("pillow_heif") is not None  # without it, images of iPhones are rejected with the remedy
if HEIF:
    importlib.import_module("pillow_heif").register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
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
# The first bytes of files that are not read, but are often met.
UNSUPPORTED = {
    b"%PDF": "a PDF",
    b"8BPS": "a file of Photoshop",
    b"<svg": "SVG",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\1\0": "an icon of Windows",
}
REENCODING_QUALITY, FULL_COLOUR = 95, 0  # of re-encoded JPEGs; without subsampling, so that fine lines keep their colours
MAX_JPEG_SIDE = 65_500  # pixels; a limit of libjpeg
LOSSLESS_FORMATS = ("PNG", "GIF", "BMP")
PNG_EFFORT = 1  # of zlib, for re-encoded PNGs; more takes several times as long for files a tenth smaller
PNG_BITS = 24  # place of the bits per channel in a PNG
GREY_AND_ALPHA = "LA;16B"  # Pillow's name for the pixels of a PNG of grey and alpha with 16 bits each
MAX_PLAIN_PIXELS = 4_000_000  # of a PPM in digits, which takes Pillow a second per million
NEW_SUBFILE_TYPE, DNG_VERSION = 254, 50706  # tags of TIFF 6.0 (1: a reduced image) and of DNG 1.7
WHITE_LEVELS = tuple((1 << bits) - 1 for bits in (8, 10, 12, 14, 16))
BLOCK_ROWS = 256  # of numbers scaled at a time, which bounds the memory
MAX_REASON = 200  # characters
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
# A line for each damaged field would fill the log; what matters is rejected.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)


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
    """Validates an image, and re-encodes it as RGB if TensorFlow cannot decode it, or would not show it as a person sees it.

    What is not upright, not opaque or of more than 8 bits is re-encoded, too. A PNG, GIF, BMP or CMYK JPEG becomes a PNG,
    anything else a JPEG of quality 95.

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


def validate_and_reduce(encoded: bytes) -> tuple[ValidImage, Image.Image]:
    """Validates an image as `validate_image` does, and also returns the pixels that this decodes.

    Args:
        encoded: the file's bytes.

    Returns:
        The valid image, and its pixels in any mode: of a JPEG that keeps its bytes in grey and at 1/8 of the size.

    Raises:
        Rejected: As for `validate_image`.
    """
    return _validate(encoded, MAX_PIXELS, None)


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
    with open_image(encoded, max_pixels) as image:
        width, height = image.size
        if is_kept(image, encoded):
            if side:
                image.draft("RGB", (side, side))
            else:
                image.draft("L", (max(1, width // CHECK_SCALE), max(1, height // CHECK_SCALE)))
            image.load()
            (reject_broken_png if image.format == "PNG" else _reject_broken_jpeg)(encoded)
            return ValidImage(encoded, "png" if image.format == "PNG" else "jpeg", height, width), image
        shown = decode_upright(image, encoded)
        converted = _encode_png(shown) if is_converted_lossless(image) else encode_jpeg(shown, subsampling=FULL_COLOUR)
        return _validate(converted.encoded, max_pixels, side) if side else (converted, shown)


@contextlib.contextmanager
def open_image(encoded: bytes, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Opens an image and checks its header; what then fails in the body, on whatever the file holds, rejects the image.

    Args:
        encoded: the file's bytes, in any format of `PILLOW_FORMATS`.
        max_pixels: upper limit for width times height.

    Yields:
        The image, not decoded yet.

    Raises:
        Rejected: The bytes are empty, not an image, too large or too slow to decode, or the body failed.
    """
    if not encoded:
        raise Rejected("empty")
    try:
        with Image.open(io.BytesIO(encoded), formats=PILLOW_FORMATS) as image:
            check_pixel_count(*image.size, max_pixels)
            _reject_slow(image, encoded)
            yield image
    except UnidentifiedImageError:
        raise Rejected(_describe_unknown(encoded)) from None
    except Rejected:
        raise
    except Exception as error:  # Pillow raises anything on untrusted bytes
        raise Rejected(describe_error(error)) from None


def decode_upright(image: Image.Image, encoded: bytes) -> Image.Image:
    """Decodes an image as a person sees it: upright, with transparent pixels on white, and deep pixels scaled to 8 bits.

    Args:
        image: opened with `open_image`.
        encoded: the file's bytes.

    Returns:
        The pixels in RGB.

    Raises:
        Rejected: The image is truncated or damaged.
        Exception: Whatever Pillow raises on damaged bytes; `open_image` turns it into `Rejected`.
    """
    pixels = image
    if is_deep(image, encoded) or _white_of_netpbm(image):
        pixels = _scale_levels(image, encoded)
    image.load()  # Pillow sets a TIFF upright itself, and then reads no orientation
    method = TO_UPRIGHT.get(read_orientation(image))
    shown = _to_rgb(pixels if method is None else pixels.transpose(method))
    if image.format == "PNG":
        reject_broken_png(encoded)
    return shown


def reject_broken_png(encoded: bytes) -> None:
    """Rejects wrong checksums and a missing IEND chunk: Pillow ignores them when it decodes, TensorFlow does not.

    Args:
        encoded: the file's bytes.

    Raises:
        Rejected: The end is missing.
        Exception: Whatever Pillow raises on a wrong checksum; `open_image` turns it into `Rejected`.
    """
    with Image.open(io.BytesIO(encoded), formats=("PNG",)) as image:
        image.verify()
    if PNG_END not in encoded:
        raise Rejected("truncated")


def is_converted_lossless(image: Image.Image) -> bool:
    """Tells whether an image that is re-encoded becomes a PNG, or, for smaller files, a JPEG.

    Args:
        image: opened with `open_image`.

    Returns:
        Whether the exported model reads the original on its own, so that it sees the same, or a JPEG could not hold the image.
    """
    return image.format in LOSSLESS_FORMATS or image.mode == "CMYK" or max(image.size) > MAX_JPEG_SIDE


def describe_error(error: Exception) -> str:
    """Describes what Pillow raised, in one short line.

    Args:
        error: the exception.
    """
    return " ".join(str(error).split())[:MAX_REASON] or type(error).__name__


def is_kept(image: Image.Image, encoded: bytes) -> bool:
    """Tells whether TensorFlow shows an image as a person sees it, so that the file needs no re-encoding.

    Args:
        image: opened with Pillow; decoded by this if it may be transparent.
        encoded: the file's bytes.

    Returns:
        Whether it is an upright opaque JPEG or PNG of 8 bits.
    """
    upright = read_orientation(image) == UPRIGHT
    readable = upright and image.mode in TENSORFLOW_MODES.get(image.format or "", ()) and not is_deep(image, encoded)
    return readable and not _shows_through(image)


def is_deep(image: Image.Image, encoded: bytes) -> bool:
    """Tells whether pixels have more than 8 bits, and so are scaled by their own range.

    Args:
        image: opened with Pillow, not decoded yet.
        encoded: the file's bytes.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return True
    if isinstance(image, PngImagePlugin.PngImageFile):
        return encoded[PNG_BITS] > 8
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return image.mode in ("RGB", "RGBA", "RGBX") and max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (8,))) > 8
    return _white_of_netpbm(image) > 255


def _scale_levels(image: Image.Image, encoded: bytes) -> Image.Image:
    """Decodes pixels of more than 8 bits, and scales them to 8; to be transposed like the image."""
    if white := _white_of_netpbm(image):
        levels = _read_netpbm(image, encoded)
        low, high = (0, white) if white <= 255 else _range(levels) if levels.ndim == 2 else (0, min(white, _full_scale(levels)))
        return Image.fromarray(_scale(levels, low, high))
    if image.mode in ("RGB", "RGBA", "RGBX", "LA"):
        levels = _read_colours(image, encoded)
    else:
        image.load()
        levels = np.asarray(image)
    alpha = None
    if image.mode in ("RGBA", "LA"):
        alpha = (levels[..., -1] >> 8).astype(np.uint8)
        colours = levels[..., :-1] if levels.shape[-1] > 2 else levels[..., 0]
        scaled = _scale(colours, 0, _full_scale(colours[alpha > 0]))
    elif levels.ndim == 3:
        scaled = _scale(levels[..., :3], 0, _full_scale(levels[..., :3]))
    else:
        scaled = _scale(levels, *_range(levels))
    if alpha is None and image.format == "PNG" and (key := image.info.get("transparency")) is not None:
        same = levels == key
        alpha = np.where(same.all(-1) if same.ndim == 3 else same, 0, 255).astype(np.uint8)
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
        scaled = 255 - scaled  # WhiteIsZero
    pixels = Image.fromarray(scaled)
    if alpha is not None:
        pixels.putalpha(Image.fromarray(alpha))
    return pixels


def _range(levels: npt.NDArray[Any]) -> tuple[Any, Any]:
    """Returns the lowest and highest level; of a single level, 0 is the other end."""
    seen = levels[np.isfinite(levels)] if levels.dtype.kind == "f" else levels
    if not seen.size:
        return 0, 0
    low, high = seen.min().item(), seen.max().item()
    return (low, high) if low < high else (min(low, 0), max(high, 0))


def _full_scale(levels: npt.NDArray[Any]) -> int:
    """Returns the white level of as few bits as hold the highest level, of those that cameras have."""
    highest = int(levels.max(initial=0))
    return next(white for white in WHITE_LEVELS if highest <= white)


def _scale(levels: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.uint8]:
    """Scales levels from `low` to 0 and from `high` to 255, rounded half up, as `decoding.scale_levels` does."""
    scaled = np.empty(levels.shape, np.uint8)
    for top in range(0, len(levels), BLOCK_ROWS):
        block = levels[top : top + BLOCK_ROWS]
        if levels.dtype.kind == "f":
            finite = np.nan_to_num(block.astype(np.float64), nan=low, posinf=high, neginf=low)
            shades = np.floor((finite - low) / ((high - low) or 1) * 255 + 0.5)
        else:
            span = int(high - low) or 1
            shades = (510 * (block.astype(np.int64) - int(low)) + span) // (2 * span)
        scaled[top : top + BLOCK_ROWS] = np.clip(shades, 0, 255)
    return scaled


def _read_colours(image: Image.Image, encoded: bytes) -> npt.NDArray[np.uint16]:
    """Reads colours of 16 bits, of which Pillow keeps the upper 8, by decoding the file again for the lower 8."""
    image.load()
    high = np.asarray(image).astype(np.uint16)
    with Image.open(io.BytesIO(encoded), formats=(image.format or "",)) as again:
        assert isinstance(again, ImageFile.ImageFile)
        if again.tile[0].args == GREY_AND_ALPHA:  # whether Pillow calls the image LA or, as it does, RGBA
            again._mode = "RGBA"  # the two bytes of each channel
            again.tile = [tile._replace(args="RGBA") for tile in again.tile]
            both = np.asarray(again).astype(np.uint16)
            return np.left_shift(both[..., ::2], 8, dtype=np.uint16) | both[..., 1::2]
        again.tile = [tile._replace(args=_lower_bytes(tile.args)) for tile in again.tile]
        low: npt.NDArray[np.uint16] = np.asarray(again).astype(np.uint16)
        return np.left_shift(high, 8, dtype=np.uint16) | low


def _lower_bytes(args: Any) -> Any:
    """Returns the arguments of a decoder with which it takes the other byte of each pair."""
    if isinstance(args, tuple):
        return (_lower_bytes(args[0]), *args[1:])
    name, _, order = args.partition(";16")
    if not order:
        raise Rejected(f"16-bit colours stored as {args}")
    return f"{name};16{'L' if order == 'B' else 'B'}"


def _white_of_netpbm(image: Image.Image) -> int:
    """Returns the white level of a binary PPM or PGM for which Pillow decodes pixel by pixel, which is slow; else 0."""
    if isinstance(image, PpmImagePlugin.PpmImageFile) and image.tile and image.tile[0].codec_name == "ppm":
        _, white = cast("tuple[str, int]", image.tile[0].args)
        return white
    return 0


def _read_netpbm(image: Image.Image, encoded: bytes) -> npt.NDArray[Any]:
    """Reads the levels of a binary PPM or PGM, (height, width) or (height, width, 3)."""
    assert isinstance(image, ImageFile.ImageFile)
    kind, at = np.dtype(">u2" if _white_of_netpbm(image) > 255 else "u1"), image.tile[0].offset
    shape = (image.height, image.width, 3) if image.mode == "RGB" else (image.height, image.width)
    if at + kind.itemsize * math.prod(shape) > len(encoded):
        raise Rejected("truncated")
    return np.frombuffer(encoded, kind, math.prod(shape), at).reshape(shape)


def _reject_slow(image: Image.Image, encoded: bytes) -> None:
    """Rejects what takes far longer to decode than its size suggests, and raw files, whose first image is a preview."""
    if image.format in ("JPEG", "MPO"):
        check_jpeg_scans(encoded, *image.size)
    elif isinstance(image, PpmImagePlugin.PpmImageFile):
        in_digits = bool(image.tile) and image.tile[0].codec_name == "ppm_plain"
        if in_digits and image.width * image.height > MAX_PLAIN_PIXELS:
            raise Rejected("a PPM of more than 4 million pixels in digits, which takes too long to decode")
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        preview = image.tag_v2.get(NEW_SUBFILE_TYPE) == 1 and TiffImagePlugin.SUBIFD in image.tag_v2
        if preview or DNG_VERSION in image.tag_v2:
            raise Rejected("a camera's raw file; convert it to JPEG")


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
    if brand := _iso_brand(encoded[:MAGIC_BYTES]):
        if brand == "HEIC" and not HEIF:
            return "HEIC cannot be read here; convert it to JPEG, or install kfp-vision[heif]"
        return f"a damaged or unusual {brand}; convert it to JPEG"
    for magic, name in UNSUPPORTED.items():
        if encoded.startswith(magic):
            return f"not an image in a known format, but {name}; convert it to JPEG or PNG"
    if encoded[128:132] == b"DICM":
        return "not an image in a known format, but DICOM; convert it to PNG"
    if encoded.startswith(JPEG_START) and (bits := _jpeg_bits(encoded)) != 8:
        return f"a JPEG of {bits} bits, which hardly any program reads; convert it to PNG"
    begin = encoded[:100].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return "not an image in a known format" + (", but a web page" if begin.startswith((b"<!doctype html", b"<html")) else "")


def _jpeg_bits(encoded: bytes) -> int:
    """Returns the bits per sample in the frame header of a JPEG; 8 if there is none."""
    at = len(JPEG_START)
    while at + JPEG_FRAME.size <= len(encoded):
        prefix, marker, length, precision, *_ = JPEG_FRAME.unpack_from(encoded, at)
        if prefix == 0xFF and 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int(precision)
        if prefix != 0xFF or marker == JPEG_SCAN:
            break
        at += 2 + length
    return 8


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


def encode_jpeg(image: Image.Image, size: tuple[int, int] | None = None, *, subsampling: int | None = None) -> ValidImage:
    """Encodes an upright image of 8 bits as an RGB JPEG of quality 95, with transparent pixels on white.

    Args:
        image: of 8 bits, in any Pillow mode.
        size: width and height in pixels to resize to; None keeps the image's own.
        subsampling: of the colours, as Pillow numbers it; None for libjpeg's default.

    Returns:
        The encoded image.
    """
    rgb = _to_rgb(image)
    if size:
        rgb = rgb.resize(size, Image.Resampling.LANCZOS)
    file = io.BytesIO()
    rgb.save(file, "JPEG", quality=REENCODING_QUALITY, subsampling=-1 if subsampling is None else subsampling)
    return ValidImage(file.getvalue(), "jpeg", rgb.height, rgb.width)


def _encode_png(rgb: Image.Image) -> ValidImage:
    """Encodes without loss."""
    file = io.BytesIO()
    rgb.save(file, "PNG", compress_level=PNG_EFFORT)
    return ValidImage(file.getvalue(), "png", rgb.height, rgb.width)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Converts to RGB, with transparent pixels on white, as browsers show them."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")
