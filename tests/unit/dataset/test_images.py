"""Valid images are upright, of the reported size, and decodable by TensorFlow; all others are rejected with a reason."""

import contextlib
import io
import itertools
import random
import re
import resource
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support import data_page, mutate_images, odd_images

from kfp_vision.dataset.images import MAGIC_BYTES, Rejected, looks_like_image, validate_and_decode, validate_image

WIDTH, HEIGHT = 60, 40
RED, GREEN, BLUE, WHITE = (220, 20, 20), (20, 200, 20), (20, 20, 220), (250, 250, 250)
ORIENTATION = 0x0112  # EXIF 2.3, section 4.6.4


def four_quarters() -> Image.Image:
    """Draws 60 x 40 pixels: red and green above, blue and white below."""
    image = Image.new("RGB", (WIDTH, HEIGHT), WHITE)
    image.paste(RED, (0, 0, WIDTH // 2, HEIGHT // 2))
    image.paste(GREEN, (WIDTH // 2, 0, WIDTH, HEIGHT // 2))
    image.paste(BLUE, (0, HEIGHT // 2, WIDTH // 2, HEIGHT))
    return image


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def decoded(validated) -> np.ndarray:
    """Decodes the pixels as the training does, and checks the reported size and format."""
    pixels = tf.io.decode_image(validated.encoded, channels=3, expand_animations=False).numpy()
    assert pixels.shape == (validated.height, validated.width, 3)
    assert validated.encoded.startswith({"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG"}[validated.format])
    return pixels


def grey_of_16_bits() -> Image.Image:
    return Image.fromarray(np.linspace(0, 65535, WIDTH * HEIGHT).astype("uint16").reshape(HEIGHT, WIDTH))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_that_claims(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")


def jpeg_that_claims(width: int, height: int) -> bytes:
    content = bytearray(encoded(four_quarters(), "JPEG"))
    frame = content.index(b"\xff\xc0")  # start of frame: marker, length (2), precision (1), height (2), width (2)
    content[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def jpeg_of_many_scans(side: int, scans: int) -> bytes:
    """Makes a progressive JPEG that repeats its last scan."""
    content = encoded(Image.new("L", (side, side), 100), "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * scans + content[-2:]


def jpeg_of_scans_without_pixels(side: int, scans: int) -> bytes:
    """Makes a JPEG of the given number of empty scans."""
    content = encoded(Image.new("RGB", (side, side)), "JPEG")
    headers = content[: content.index(b"\xff\xda")]
    scan = b"\xff\xda\0\x08\x01\x01\0\0\x3f\0"  # ITU-T T.81, B.2.3: only the first component, all coefficients
    return headers + scan * scans + b"\xff\xd9"


def other_that_claims(kind: str, width: int, height: int) -> bytes:
    """Makes a small image whose header claims another size."""
    content = bytearray(encoded(four_quarters(), kind))
    at, pattern = {"GIF": (6, "<HH"), "BMP": (18, "<ii")}[kind]
    content[at : at + struct.calcsize(pattern)] = struct.pack(pattern, width, height)
    return bytes(content)


def png_with_a_bomb(kind: bytes, prefix: bytes) -> bytes:
    """Makes a small PNG with a chunk that inflates to 200 MB."""
    content = encoded(four_quarters(), "PNG")
    header = 8 + 25  # the signature and the first chunk
    return content[:header] + chunk(kind, prefix + zlib.compress(bytes(200_000_000))) + content[header:]


def tiff_that_claims(width: int, height: int) -> bytes:
    content = encoded(four_quarters(), "TIFF")
    for tag, size, claimed in ((256, WIDTH, width), (257, HEIGHT, height)):  # TIFF 6.0: ImageWidth, ImageLength
        content = content.replace(struct.pack("<HHII", tag, 4, 1, size), struct.pack("<HHII", tag, 4, 1, claimed))
    return content


def boxed(brand: bytes, compatible: bytes) -> bytes:
    """Makes the first box of an ISO base media file (ISO/IEC 14496-12, section 4.3), followed by zeros."""
    return struct.pack(">I", 16 + len(compatible)) + b"ftyp" + brand + bytes(4) + compatible + bytes(1000)


KEPT = {
    "JPEG": encoded(four_quarters(), "JPEG"),
    "progressive JPEG": encoded(four_quarters(), "JPEG", progressive=True),
    "grey JPEG": encoded(four_quarters().convert("L"), "JPEG"),
    "JPEG that says it is upright": encoded(four_quarters(), "JPEG", exif=turned(1)),
    "JPEG of a telephone, with more pictures behind": encoded(
        four_quarters(), "MPO", save_all=True, append_images=[Image.new("RGB", (6, 4))]
    ),
    "JPEG with bytes behind its end": encoded(four_quarters(), "JPEG") + bytes(100),
    "PNG": encoded(four_quarters(), "PNG"),
    "PNG with transparency": encoded(four_quarters().convert("RGBA"), "PNG"),
    "PNG with a palette": encoded(four_quarters().quantize(4), "PNG"),
    "grey PNG": encoded(four_quarters().convert("L"), "PNG"),
    "grey PNG with transparency": encoded(four_quarters().convert("LA"), "PNG"),
    "black and white PNG": encoded(four_quarters().convert("1"), "PNG"),
}


@pytest.mark.parametrize("kind", KEPT)
def test_images_that_tensorflow_reads_keep_their_bytes(kind):
    validated = validate_image(KEPT[kind])
    assert validated.encoded == KEPT[kind]
    assert validated.format == ("png" if "PNG" in kind else "jpeg")
    assert (validated.height, validated.width) == (HEIGHT, WIDTH)
    decoded(validated)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 200), (200, 7)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_tiny_image_keeps_its_bytes(kind, size):
    small = encoded(Image.new("RGB", size, RED), kind)
    validated = validate_image(small)
    assert validated.encoded == small
    assert decoded(validated).shape == (size[1], size[0], 3)


def test_photographs_keep_their_bytes(flower_photos):
    for folder in ("daisy", "tulips"):
        original = min((flower_photos / folder).iterdir()).read_bytes()
        validated = validate_image(original)
        assert validated.encoded == original
        decoded(validated)


REENCODED = {
    "CMYK JPEG": encoded(four_quarters().convert("CMYK"), "JPEG", quality=95),
    "GIF": encoded(four_quarters(), "GIF"),
    "moving GIF": encoded(four_quarters(), "GIF", save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))]),
    "moving WebP": encoded(four_quarters(), "WEBP", quality=95, save_all=True, append_images=[Image.new("RGB", (60, 40))]),
    "WebP with transparency": encoded(four_quarters().convert("RGBA"), "WEBP", quality=95),
    "GIF with a palette": encoded(four_quarters().quantize(4), "GIF"),
    "BMP with a palette": encoded(four_quarters().quantize(4), "BMP"),
    "CMYK TIFF": encoded(four_quarters().convert("CMYK"), "TIFF"),
    "BMP": encoded(four_quarters(), "BMP"),
    "WebP": encoded(four_quarters(), "WEBP", quality=95),
    "TIFF": encoded(four_quarters(), "TIFF"),
    "TIFF with LZW": encoded(four_quarters(), "TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("kind", REENCODED)
def test_other_formats_become_rgb_with_the_same_colours(kind):
    validated = validate_image(REENCODED[kind])
    lossless = "CMYK" in kind or "GIF" in kind or "BMP" in kind
    assert validated.format == ("png" if lossless else "jpeg")
    assert (validated.height, validated.width) == (HEIGHT, WIDTH)
    with Image.open(io.BytesIO(validated.encoded)) as image:
        assert (image.format, image.mode) == ("PNG" if lossless else "JPEG", "RGB")
    pixels = decoded(validated).astype(int)
    corners = [pixels[10, 15], pixels[10, 45], pixels[30, 15], pixels[30, 45]]
    np.testing.assert_allclose(corners, [RED, GREEN, BLUE, WHITE], atol=12)


# Colours at top left, top right, bottom left and bottom right after applying the EXIF orientation.
UPRIGHT = {
    2: (GREEN, RED, WHITE, BLUE),
    3: (WHITE, BLUE, GREEN, RED),
    4: (BLUE, WHITE, RED, GREEN),
    5: (RED, BLUE, GREEN, WHITE),
    6: (BLUE, RED, WHITE, GREEN),
    7: (WHITE, GREEN, BLUE, RED),
    8: (GREEN, WHITE, RED, BLUE),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_rotated_image_is_set_upright(kind, orientation):
    validated = validate_image(encoded(four_quarters(), kind, exif=turned(orientation)))
    assert (validated.height, validated.width) == ((WIDTH, HEIGHT) if orientation >= 5 else (HEIGHT, WIDTH))
    pixels = decoded(validated).astype(int)
    down, right = validated.height // 4, validated.width // 4
    corners = [pixels[down, right], pixels[down, -right], pixels[-down, right], pixels[-down, -right]]
    np.testing.assert_allclose(corners, UPRIGHT[orientation], atol=12)
    with Image.open(io.BytesIO(validated.encoded)) as image:
        assert ORIENTATION not in image.getexif()


def on_nothing(mode: str) -> Image.Image:
    """Draws a red quarter above left on transparent black."""
    image = Image.new("RGBA", (WIDTH, HEIGHT))
    image.paste((*RED, 255), (0, 0, WIDTH // 2, HEIGHT // 2))
    if mode != "P":
        return image.convert(mode)
    palette = image.convert("RGB").quantize(4)
    palette.info["transparency"] = palette.getpixel((WIDTH - 1, HEIGHT - 1))
    return palette


@pytest.mark.parametrize("side", [0, 10, 100])
@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGBA"), ("PNG", "LA"), ("PNG", "P"), ("GIF", "P"), ("WEBP", "RGBA"), ("TIFF", "RGBA")]
)
def test_transparent_pixels_become_white(kind, mode, side):
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    content = encoded(on_nothing(mode), kind, **options)
    picture, small = validate_and_decode(content, side) if side else (validate_image(content), None)
    for pixels in [decoded(picture)] + ([np.asarray(small)] if small else []):
        height, width, _ = pixels.shape
        assert pixels[3 * height // 4 :].min() > 240  # JPEG rings a little
        first = pixels[height // 4, width // 4].astype(int)
        assert np.abs(first - (RED if mode != "LA" else first[0])).max() < 12
        assert first.max() < 230


def exif_of(*entries: tuple[int, int, int, bytes]) -> bytes:
    """Makes an EXIF block (TIFF 6.0, section 2) of an orientation of 6 and other entries: tag, type, count, bytes."""
    every = sorted([(ORIENTATION, 3, 1, struct.pack("<H", 6)), *entries])
    fields, beside = b"", b""
    for tag, kind, count, value in every:
        if len(value) > 4:
            value, beside = struct.pack("<I", 8 + 2 + 12 * len(every) + 4 + len(beside)), beside + value
        fields += struct.pack("<HHI4s", tag, kind, count, value)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(every)) + fields + bytes(4) + beside


BROKEN_BESIDE = {
    "a signed rational of -1/0": (0x011A, 10, 1, struct.pack("<ii", -1, 0)),
    "a rational of 1/0": (0x011A, 5, 1, struct.pack("<II", 1, 0)),
    "not a number": (0x011A, 12, 1, struct.pack("<d", float("nan"))),
    "a text for a resolution": (0x011A, 2, 4, b"abc\0"),
    "bytes for GPS": (0x8825, 1, 4, b"\xff\xff\xff\xff"),
    "GPS behind the end": (0x8825, 4, 1, b"\xff\xff\xff\x7f"),
}


@pytest.mark.parametrize("kind", BROKEN_BESIDE)
def test_a_broken_field_beside_the_orientation_does_not_matter(kind):
    for image_format in ("JPEG", "PNG", "WEBP"):
        picture = validate_image(encoded(four_quarters(), image_format, exif=exif_of(BROKEN_BESIDE[kind])))
        assert (picture.height, picture.width) == (WIDTH, HEIGHT)
        corners = [decoded(picture)[at].astype(int) for at in ((15, 10), (15, 30), (45, 10), (45, 30))]
        np.testing.assert_allclose(corners, UPRIGHT[6], atol=12)


@pytest.mark.parametrize("block", [b"", b"no TIFF block", b"II*\0", exif_of()[6:14]])
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of what it passes over
def test_exif_data_that_cannot_be_read_turn_nothing(block):
    content = encoded(four_quarters(), "JPEG", exif=b"Exif\0\0" + block)
    assert validate_image(content).encoded == content


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of what it passes over
def test_nothing_but_a_rejection_comes_out_of_damaged_exif_data():
    whole = encoded(four_quarters(), "JPEG", exif=exif_of(*BROKEN_BESIDE.values()))
    for at in range(20, 200):
        for value in (0, 0x55, 0xFF):
            with contextlib.suppress(Rejected):
                decoded(validate_image(whole[:at] + bytes([value]) + whole[at + 1 :]))


@pytest.mark.parametrize(("kind", "options"), [("TIFF", {}), ("PNG", {"exif": turned(3)})])
def test_16_bit_grey_keeps_its_shades(kind, options):
    pixels = decoded(validate_image(encoded(grey_of_16_bits(), kind, **options))).astype(int)
    assert pixels.mean() == pytest.approx(127.5, abs=1)
    assert (pixels.min(), pixels.max()) == (0, 255)


@pytest.mark.parametrize("side", [10, 100])
@pytest.mark.parametrize("kind", [*KEPT, *REENCODED, "JPEG that lies on its side"])
def test_the_reduced_pixels_show_the_same_image(kind, side):
    on_its_side = {"JPEG that lies on its side": encoded(four_quarters(), "JPEG", exif=turned(6))}
    content = (KEPT | REENCODED | on_its_side)[kind]
    validated, small = validate_and_decode(content, side)
    assert validated == validate_image(content)
    assert small.mode == "RGB"
    assert small.width >= min(side, validated.width) and small.height >= min(side, validated.height)
    if side == 10 and validated.format == "jpeg":
        assert small.size == (validated.width // 4, validated.height // 4)
    quarters = [image.resize((2, 2), Image.Resampling.BOX) for image in (small, Image.fromarray(decoded(validated)))]
    np.testing.assert_allclose(*(np.asarray(quarter, int) for quarter in quarters), atol=24)


DAMAGED = {
    "empty": (b"", "empty"),
    "a web page": (
        b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "not an image in a known format, but a web page",
    ),
    "a web page behind empty lines": (b"\xef\xbb\xbf\r\n<html><p>gone", "not an image in a known format, but a web page"),
    "HEIC": (boxed(b"heic", b"mif1heic"), "^a damaged or unusual HEIC; convert it to JPEG$"),
    "HEIC of a sequence": (boxed(b"msf1", b"hevc"), "^a damaged or unusual HEIC; convert it to JPEG$"),
    "AVIF": (boxed(b"avif", b"mif1miaf"), "^a damaged or unusual AVIF; convert it to JPEG$"),
    "a film": (boxed(b"isom", b"mp41"), "not an image in a known format"),
    "a text": ("花".encode() * 1000, "not an image in a known format"),
    "a format of no picture": (b"%PDF-1.7\n" + bytes(1000), "not an image in a known format"),
    "zeros": (bytes(10_000), "not an image in a known format"),
    "half a JPEG": (KEPT["JPEG"][: len(KEPT["JPEG"]) // 2], "Truncated"),
    "a JPEG without its last byte": (KEPT["JPEG"][:-1], "truncated"),
    "half a progressive JPEG": (KEPT["progressive JPEG"][: len(KEPT["progressive JPEG"]) // 2], "truncated"),
    "the first bytes of a JPEG": (KEPT["JPEG"][:20], "not an image in a known format"),
    "half a PNG": (KEPT["PNG"][: len(KEPT["PNG"]) // 2], "truncated"),
    "a PNG without its last byte": (KEPT["PNG"][:-1], "truncated"),
    "half a GIF": (REENCODED["GIF"][: len(REENCODED["GIF"]) // 2], "truncated"),
    "half a TIFF": (REENCODED["TIFF"][: len(REENCODED["TIFF"]) // 2], "truncated"),
    "half a WebP": (REENCODED["WebP"][: len(REENCODED["WebP"]) // 2], "could not create decoder"),
    "half a BMP": (REENCODED["BMP"][: len(REENCODED["BMP"]) // 2], "truncated"),
    "a PNG of 60000 x 60000": (png_that_claims(60_000, 60_000), "60000 x 60000 pixels, more than 100 million"),
    "a JPEG of 60000 x 60000": (jpeg_that_claims(60_000, 60_000), "60000 x 60000 pixels, more than 100 million"),
    "a GIF of 60000 x 60000": (other_that_claims("GIF", 60_000, 60_000), "60000 x 60000 pixels, more than 100 million"),
    "a BMP of 60000 x 60000": (other_that_claims("BMP", 60_000, 60_000), "60000 x 60000 pixels, more than 100 million"),
    "a TIFF of 60000 x 60000": (tiff_that_claims(60_000, 60_000), "60000 x 60000 pixels, more than 100 million"),
    "a PNG with 200 MB of text": (png_with_a_bomb(b"zTXt", b"text\0\0"), "too large"),
    "a PNG with 200 MB of colour profile": (png_with_a_bomb(b"iCCP", b"name\0\0"), "too large"),
    "a JPEG of many scans": (jpeg_of_many_scans(4000, 3000), r"a JPEG of 3,0\d\d scans, which takes too long to decode"),
    "a JPEG of scans without pixels": (jpeg_of_scans_without_pixels(6000, 20_000), "a JPEG of 20,000 scans, which takes too"),
    "a PNG with fewer pixels than it says": (png_that_claims(3_000, 3_000), "truncated"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_image_is_rejected_with_a_reason_quickly_and_in_little_memory(kind):
    content, reason = DAMAGED[kind]
    largest, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(Rejected, match=reason) as refusal:
        validate_image(content)
    assert str(refusal.value)
    assert "\n" not in str(refusal.value)
    with pytest.raises(Rejected, match=f"^{re.escape(str(refusal.value))}$"):
        validate_and_decode(content, 128)
    assert time.process_time() - start < 60  # decoded, the slowest would take an hour
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - largest < 100_000  # KiB


def test_a_large_photograph_with_an_ordinary_number_of_scans_keeps_its_bytes():
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    large = encoded(Image.fromarray(noise).resize((2400, 1800)), "JPEG", progressive=True, quality=95)
    assert len(large) * 2400 * 1800 > 10**11
    assert validate_image(large).encoded == large


def test_a_png_with_a_wrong_checksum_is_rejected_as_tensorflow_does():
    damaged = bytearray(KEPT["PNG"])
    damaged[damaged.index(b"IEND") - 8] ^= 1  # the first byte of the checksum of the pixels
    with pytest.raises(tf.errors.InvalidArgumentError):
        tf.io.decode_image(bytes(damaged))
    with pytest.raises(Rejected, match="checksum"):
        validate_image(bytes(damaged))


@pytest.mark.parametrize("kind", ["PNG", "PNG with a palette", "grey PNG"])
def test_a_png_with_any_damaged_byte_is_rejected_or_decodable(kind):
    content = KEPT[kind]
    for position in range(0, len(content), max(1, len(content) // 150)):
        damaged = content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :]
        try:
            validated = validate_image(damaged)
        except Rejected:
            continue
        decoded(validated)


DAMAGES = {
    "a byte": lambda content, at, chance: content[:at] + chance.randbytes(1) + content[at + 1 :],
    "zeros": lambda content, at, _: content[:at] + bytes(500) + content[at + 500 :],
    "noise": lambda content, at, chance: content[:at] + chance.randbytes(500) + content[at + 500 :],
    "a gap": lambda content, at, _: content[:at] + content[at + 500 :],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", ["baseline", "progressive", "with restarts"])
def test_a_jpeg_with_any_damage_is_rejected_or_decodable(kind, damage):
    chance = random.Random(f"{kind} {damage}")
    noise = Image.frombytes("RGB", (160, 120), chance.randbytes(160 * 120 * 3))
    options = {"progressive": {"progressive": True}, "with restarts": {"restart_marker_rows": 1}}.get(kind, {})
    content = encoded(noise, "JPEG", **options)
    accepted = 0
    for _ in range(150):
        damaged = DAMAGES[damage](content, chance.randrange(2, len(content)), chance)
        try:
            validated = validate_image(damaged)
        except Rejected:
            continue
        decoded(validated)
        accepted += 1
    assert accepted > 5, "hardly any was accepted: the test shows little"


def test_a_jpeg_segment_beyond_the_end_is_rejected_as_by_tensorflow():
    content = KEPT["JPEG"]
    marker_at = content.rindex(b"\xff\xd9") - 20
    damaged = content[:marker_at] + b"\xff\xe5\xff\xff" + content[marker_at + 4 :]  # an application's segment of 65,535 bytes
    with pytest.raises(tf.errors.InvalidArgumentError):
        tf.io.decode_image(damaged)
    with pytest.raises(Rejected, match="a JPEG whose end is missing or damaged"):
        validate_image(damaged)


def seen(content: bytes) -> np.ndarray:
    """The pixels that the training sees of an image, in grey."""
    return decoded(validate_image(content)).astype(int).mean(axis=2)


def largest_difference(content: bytes, expected: Image.Image | None = None) -> float:
    return np.abs(seen(content) - np.asarray(expected or odd_images.scene()).astype(int)).max()


SCENE, COLOURS = odd_images.scene(), odd_images.scene().convert("RGB")
OTHER = Image.new("L", SCENE.size, 60)
FEW_SHADES = 30  # of 255, by which lossy formats differ near edges
# Each line of the documentation's table, with an image, and what a person sees of it.
CASES = {
    "JPEG (also .jfif, .jpe, MPO)": [
        (odd_images.encode(COLOURS, "JPEG", quality=95), None),
        (odd_images.encode(COLOURS, "MPO", quality=95, save_all=True, append_images=[OTHER.convert("RGB")]), None),
    ],
    "PNG": [(odd_images.encode(COLOURS, "PNG"), None), (odd_images.encode(SCENE.convert("P"), "PNG"), None)],
    "GIF": [
        (odd_images.encode(SCENE, "GIF"), None),
        (odd_images.encode(SCENE, "GIF", save_all=True, append_images=[OTHER]), None),
    ],
    "BMP": [(odd_images.encode(COLOURS, "BMP"), None), (odd_images.encode(SCENE, "BMP"), None)],
    "WebP": [(odd_images.encode(COLOURS, "WEBP", lossless=True, save_all=True, append_images=[OTHER.convert("RGB")]), None)],
    "TIFF": [
        (odd_images.encode(COLOURS, "TIFF", compression="tiff_lzw"), None),
        (odd_images.encode(SCENE, "TIFF", save_all=True, append_images=[OTHER]), None),
    ],
    "PPM, PGM, PBM, PFM": [
        (odd_images.netpbm(255, "P6"), None),
        (odd_images.netpbm(100), None),
        (odd_images.netpbm(255, "P3"), None),
        (odd_images.encode(SCENE.point([0] + 255 * [255]).convert("1"), "PPM"), SCENE.point([0] + 255 * [255])),
        (odd_images.encode(Image.fromarray(np.asarray(SCENE).astype("float32")), "PPM"), None),
    ],
    "AVIF": [(odd_images.encode(COLOURS, "AVIF", quality=95, save_all=True, append_images=[OTHER.convert("RGB")]), None)],
    "HEIC": [
        (odd_images.encode(COLOURS, "HEIF", quality=95), None),
        (odd_images.turned("HEIF"), None),
        (odd_images.encode(COLOURS, "HEIF", quality=95, save_all=True, append_images=[OTHER.convert("RGB")]), None),
    ],
    "transparent pixels": [
        *((odd_images.transparent("PNG", mode), None) for mode in ("RGBA", "LA", "P", "L", "RGB")),
        *((odd_images.transparent(kind, "RGBA"), None) for kind in ("WEBP", "TIFF", "AVIF", "HEIF")),
        (odd_images.transparent("GIF", "P"), None),
        (odd_images.transparent_stroke(), SCENE.point([0] + 255 * [255])),
        (odd_images.deep_transparent(), None),
    ],
    "grey of more than 8 bits": [
        *((odd_images.deep(kind, bits=bits), None) for kind in ("png", "tif", "pgm") for bits in (10, 12, 16)),
        (odd_images.netpbm(4095), None),
        (odd_images.netpbm(1000, "P2"), None),
        (odd_images.encode(Image.fromarray(odd_images.levels() + np.uint16(30_000)), "PNG"), None),
        (odd_images.encode(Image.fromarray(odd_images.levels().astype("int32") - 1000), "TIFF"), None),
        (odd_images.encode(Image.fromarray(odd_images.levels().astype("float32") / 1000 - 1), "TIFF"), None),
        (odd_images.encode(Image.fromarray(odd_images.levels()), "TIFF", tiffinfo={262: 0}), SCENE.point(range(255, -1, -1))),
    ],
    "colours of more than 8 bits": [
        *((odd_images.deep(kind, 3, bits), None) for kind in ("png", "tif", "ppm") for bits in (12, 16)),
        (odd_images.deep("png", 4), None),
        (odd_images.deep("tif", 4), None),
        *((odd_images.deep_grey_and_alpha(bits), None) for bits in (12, 16)),
        (odd_images.netpbm(4095, "P6"), None),
    ],
    "CMYK": [
        (odd_images.cmyk(), None),
        (odd_images.ycck(), None),
        (odd_images.cmyk(adobe=False), None),
        (odd_images.encode(COLOURS.convert("CMYK"), "TIFF"), None),
    ],
    "EXIF orientation": [(odd_images.turned(kind), None) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")],
    "damaged metadata": [
        (odd_images.encode(COLOURS, "JPEG", quality=95, exif=b"Exif\0\0" + mutate_images.exif_block()), "turned")
    ],
    "camera raw files": [(odd_images.encode(COLOURS, "TIFF", tiffinfo={50706: b"\1\4\0\0"}), "a camera's raw file")],
    "JPEG of 12 bits": [(KEPT["JPEG"].replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c"), "a JPEG of 12 bits")],
    "SVG, PDF, DICOM, JPEG 2000, JPEG XL": [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"%PDF-1.7\n" + bytes(100), "a PDF"),
        (bytes(128) + b"DICM" + bytes(100), "DICOM"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100), "JPEG 2000"),
        (b"\xff\x0a" + bytes(100), "JPEG XL"),
    ],
}


def test_every_line_of_the_documentation_has_its_cases():
    assert list(CASES) == data_page.first_cells("Image formats")


@pytest.mark.parametrize("line", CASES)
def test_an_image_is_read_as_documented(line):
    for number, (content, expected) in enumerate(CASES[line]):
        if expected == "turned":
            expected = SCENE.transpose(Image.Transpose.ROTATE_270)
        if isinstance(expected, str):
            with pytest.raises(Rejected, match=expected):
                validate_image(content)
            continue
        assert largest_difference(content, expected) < FEW_SHADES, number
        assert looks_like_image(content[:MAGIC_BYTES]), number


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_images_keep_the_shades_between_the_levels_of_8_bits(channels):
    narrow = np.tile(np.arange(96, dtype=np.uint16) + 20_000, (64, 1))  # within half a level of 8 bits
    if channels == 1:
        shades = seen(odd_images.encode(Image.fromarray(narrow), "PNG"))
        np.testing.assert_allclose(shades[0], np.arange(96) * 255 / 95, atol=0.51)
    else:
        shades = seen(odd_images.png(np.dstack([narrow - 19_900] * 3)))  # of 0 to 255
        np.testing.assert_allclose(shades[0], np.arange(96) + 100, atol=0.01)


@pytest.mark.parametrize(("level", "shade"), [(0, 0), (7, 255), (65535, 255)])
def test_an_image_of_a_single_level_is_black_only_if_the_level_is_0(level, shade):
    assert (seen(odd_images.encode(Image.fromarray(np.full((8, 9), level, np.uint16)), "PNG")) == shade).all()


def test_numbers_that_are_not_finite_do_not_matter():
    levels = odd_images.levels().astype("float32")
    levels[0, :3] = np.nan, np.inf, -np.inf
    shades = seen(odd_images.encode(Image.fromarray(levels), "TIFF"))
    assert np.abs(shades - np.asarray(SCENE))[8:].max() < FEW_SHADES
    assert (seen(odd_images.encode(Image.fromarray(np.full((8, 8), np.nan, "float32")), "TIFF")) == 0).all()


NO_IMAGES = {
    "a text": b"BMW and P5 are not images\n",
    "another text": b"P1 is the first of them",
    "a film": boxed(b"isom", b"mp41"),
    "sound": b"RIFF\x24\0\0\0WAVEfmt ",
    "empty": b"",
}


@pytest.mark.parametrize("kind", NO_IMAGES)
def test_what_is_no_image_does_not_look_like_one(kind):
    assert not looks_like_image(NO_IMAGES[kind][:MAGIC_BYTES])


@pytest.mark.parametrize(("major", "compatible"), [(b"heic", b""), (b"mif1", b"heic"), (b"mif1", b"avif"), (b"avis", b"")])
def test_an_image_of_a_telephone_looks_like_one_by_its_brand(major, compatible):
    assert looks_like_image(boxed(major, compatible)[:MAGIC_BYTES])


def test_without_the_library_for_heic_the_remedy_is_named():
    heic = odd_images.encode(COLOURS, "HEIF")
    program = (
        "import importlib.util, sys; found = importlib.util.find_spec; "
        "importlib.util.find_spec = lambda name, *rest: None if name == 'pillow_heif' else found(name, *rest)\n"
        "from kfp_vision.dataset.images import Rejected, validate_image\n"
        "try: validate_image(sys.stdin.buffer.read())\n"
        "except Rejected as reason: print(reason)"
    )
    done = subprocess.run([sys.executable, "-c", program], input=heic, stdout=subprocess.PIPE, check=True)
    assert done.stdout.decode().strip() == "HEIC cannot be read here; convert it to JPEG, or install kfp-vision[heif]"


def test_warnings_about_damaged_fields_do_not_fill_the_log():
    damaged = odd_images.encode(COLOURS, "JPEG", exif=b"Exif\0\0" + mutate_images.exif_block()[:60])
    program = "import sys; from kfp_vision.dataset.images import validate_image; validate_image(sys.stdin.buffer.read())"
    command = [sys.executable, "-W", "always", "-c", program]
    done = subprocess.run(command, input=damaged, stderr=subprocess.PIPE, check=True)
    assert b"Warning" not in done.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # pytest resets the filters
def test_nothing_but_a_rejection_comes_out_of_thousands_of_damaged_images():
    outcomes: dict[str, set[str]] = {}
    for number, (kind, damaged) in enumerate(itertools.islice(mutate_images.mutations(seed=7), 4000)):
        try:
            valid = validate_image(damaged, max_pixels=1_000_000)
        except Rejected as reason:
            assert str(reason).isprintable() and str(reason)
            outcomes.setdefault(kind, set()).add("rejected")
            continue
        outcomes.setdefault(kind, set()).add("valid")
        if number % 10 == 0:
            decoded(valid)
    assert sum(found == {"rejected", "valid"} for found in outcomes.values()) >= 20, outcomes
