"""TensorFlow reads converted images, and damaged ones are rejected."""

import hashlib
import io
import random
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from PIL import ExifTags, Image

from kfp_vision.dataset.images import Rejected, ValidImage, plain_jpeg_size
from kfp_vision.dataset.table import ImageRow
from kfp_vision.records.convert import convert_image
from kfp_vision.storage import sample

FLOWER = Image.open(io.BytesIO(sample.draw("bellcup/0001.jpg"))).resize((120, 90))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def convert(content: bytes, **how) -> ValidImage:
    row = ImageRow("flower", "bellcup", len(content), hashlib.md5(content).hexdigest(), "bellcup/flower")
    return convert_image(content, row, **how)


def decode(converted: ValidImage) -> np.ndarray:
    pixels = tf.io.decode_image(converted.encoded, channels=3, expand_animations=False).numpy()
    assert pixels.shape == (converted.height, converted.width, 3)
    return pixels


KINDS = {
    "JPEG": encoded(FLOWER, "JPEG"),
    "progressive JPEG": encoded(FLOWER, "JPEG", progressive=True),
    "JPEG with restarts": encoded(FLOWER, "JPEG", restart_marker_blocks=4),
    "grey JPEG": encoded(FLOWER.convert("L"), "JPEG"),
    "PNG": encoded(FLOWER, "PNG"),
    "GIF": encoded(FLOWER, "GIF"),
    "WebP": encoded(FLOWER, "WEBP"),
    "TIFF": encoded(FLOWER, "TIFF"),
}


def damage(content: bytes, rng: random.Random) -> bytes:
    """Damages a file: cuts it off, changes, removes, inserts or blanks bytes, or overwrites two with a JPEG marker."""
    at = rng.randrange(2, len(content))
    changes = (
        lambda: content[:at],
        lambda: content[:at] + rng.randbytes(1) + content[at + 1 :],
        lambda: content[: at % 700] + rng.randbytes(2) + content[at % 700 + 2 :],
        lambda: content[:at] + content[at + rng.choice((1, 2, 16, 500)) :],
        lambda: content[:at] + rng.randbytes(rng.choice((1, 3, 40))) + content[at:],
        lambda: content[:at] + bytes(300) + content[at + 300 :],
        lambda: (
            content[:at]
            + b"\xff"
            + rng.choice((b"\xc0", b"\xc4", b"\xd8", b"\xd9", b"\xda", b"\xe0", b"\xfe"))
            + content[at + 2 :]
        ),
    )
    return rng.choice(changes)()


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns about broken tags
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_image_is_rejected_or_tensorflow_reads_the_result(kind):
    rng, outcomes = random.Random(kind), Counter()
    for _ in range(150):
        try:
            converted = convert(damage(KINDS[kind], rng))
        except Rejected as reason:
            assert str(reason)
            outcomes["refused"] += 1
            continue
        decode(converted)
        outcomes["read"] += 1
    assert outcomes["refused"] > 20


def test_a_jpeg_that_only_pillow_reads_is_rejected():
    content = KINDS["JPEG"]
    damaged = content[:-200] + b"\xff\xe0\xff\xff" + content[-196:]  # a segment whose length exceeds the file
    with pytest.raises(tf.errors.InvalidArgumentError):
        tf.io.decode_image(damaged)
    with Image.open(io.BytesIO(damaged)) as image:
        image.load()
    with pytest.raises(Rejected, match="whose end is missing or damaged"):
        convert(damaged)


@pytest.mark.parametrize("kind", KINDS)
def test_a_valid_image_that_tensorflow_reads_keeps_its_bytes(kind):
    for check_pixels in (True, False):
        converted = convert(KINDS[kind], check_pixels=check_pixels)
        assert (converted.encoded == KINDS[kind]) == (kind.endswith(("JPEG", "PNG", "restarts")))
        assert decode(converted).shape == (90, 120, 3)


def test_photographs_keep_their_bytes(flower_photos):
    for folder in ("daisy", "roses"):
        for photograph in sorted((flower_photos / folder).iterdir())[:20]:
            content = photograph.read_bytes()
            assert convert(content) == convert(content, check_pixels=False)
            assert convert(content).encoded == content


def test_without_check_pixels_only_header_and_length_are_checked():
    cut = KINDS["JPEG"][: len(KINDS["JPEG"]) // 2]
    assert convert(cut, check_pixels=False) == ValidImage(cut, "jpeg", 90, 120)
    with pytest.raises(Rejected, match="runcated"):
        convert(cut)
    with pytest.raises(Rejected, match="but a web page"):
        convert(b"<html>", check_pixels=False)
    longer = ImageRow("flower", "bellcup", len(cut) + 1, "", "flower")
    with pytest.raises(Rejected, match="changed since it was listed"):
        convert_image(cut, longer, check_pixels=False)


SHADES = Image.fromarray(np.linspace(0, 65535, 120 * 90).astype("uint16").reshape(90, 120))


@pytest.mark.parametrize("kind", [*KINDS, "PNG of 16 bits"])
@pytest.mark.parametrize("check_pixels", [True, False])
def test_an_image_above_max_side_is_resized_and_shows_the_same(kind, check_pixels):
    content = KINDS.get(kind) or encoded(SHADES, "PNG")
    converted = convert(content, check_pixels=check_pixels, max_side=40)
    assert (converted.format, converted.height, converted.width) == ("jpeg", 30, 40)
    averages = tf.image.resize(decode(convert(content)), (30, 40), "area").numpy()
    assert abs(decode(converted) - averages).mean() < 6


@pytest.mark.parametrize("max_side", [0, 120, 500])
def test_an_image_within_max_side_keeps_its_bytes(max_side):
    assert convert(KINDS["PNG"], max_side=max_side).encoded == KINDS["PNG"]


def test_resizing_keeps_at_least_one_pixel_of_the_shorter_side():
    converted = convert(encoded(Image.new("RGB", (900, 2), "red"), "PNG"), max_side=100)
    assert (converted.height, converted.width) == (1, 100)


HEADERS = {
    **{kind: KINDS[kind] for kind in ("JPEG", "progressive JPEG", "JPEG with restarts", "grey JPEG", "PNG", "GIF")},
    "JPEG with a comment and a profile": encoded(FLOWER, "JPEG", comment=b"\xff\xc0 no frame", icc_profile=bytes(70_000)),
    "JPEG on its side": encoded(
        FLOWER, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    ),
    "CMYK JPEG": encoded(FLOWER.convert("CMYK"), "JPEG"),
    "JPEG in RGB": encoded(FLOWER, "JPEG", keep_rgb=True),
}
HEADERS |= {
    f"JPEG {name}": encoded(FLOWER, "JPEG", xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:Description %s/></x:xmpmeta>" % what)
    for name, what in (("that XMP turns", b'tiff:Orientation="6"'), ("with XMP", b'tiff:Make="a camera"'))
}
PLAIN = {"JPEG", "progressive JPEG", "JPEG with restarts", "grey JPEG", "JPEG in RGB", "JPEG with XMP"}
PLAIN |= {"JPEG with a comment and a profile"}


@pytest.mark.parametrize("kind", HEADERS)
def test_the_size_of_an_upright_jpeg_is_read_from_its_header(kind):
    assert plain_jpeg_size(HEADERS[kind]) == ((90, 120) if kind in PLAIN else None)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns about broken tags
@pytest.mark.parametrize("kind", HEADERS)
def test_the_size_from_a_damaged_header_equals_that_of_pillow(kind):
    rng, sizes_read = random.Random(kind), 0
    head = min(len(HEADERS[kind]), 300)
    for _ in range(400):
        at = rng.randrange(head)
        damaged = HEADERS[kind][:at] + rng.randbytes(rng.choice((1, 2, 4))) + HEADERS[kind][at + rng.choice((1, 2, 4)) :]
        size = plain_jpeg_size(damaged)
        try:
            with Image.open(io.BytesIO(damaged)) as image:
                upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
                assert size is None or (size == (image.height, image.width) and image.mode in ("L", "RGB") and upright)
        except (OSError, SyntaxError, ValueError, TypeError):
            continue
        sizes_read += size is not None
    assert (sizes_read > 50) == (kind in PLAIN)


def test_an_image_with_too_many_pixels_is_rejected_by_its_header():
    content = bytearray(KINDS["JPEG"])
    frame = content.index(b"\xff\xc0")  # marker, length (2 bytes), precision (1), height (2), width (2)
    content[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(Rejected, match="65535 x 65535 pixels, more than 100 million"):
        convert(bytes(content), check_pixels=False)


def test_a_jpeg_of_too_many_scans_is_rejected_without_decoding():
    file = io.BytesIO()
    Image.new("RGB", (4000, 4000)).save(file, "JPEG")
    content = file.getvalue()
    scan = b"\xff\xda\0\x08\x01\x01\0\0\x3f\0"  # ITU-T T.81, B.2.3: only the first component, all coefficients
    endless = content[: content.index(b"\xff\xda")] + scan * 5000 + b"\xff\xd9"
    with pytest.raises(Rejected, match="a JPEG of 5,000 scans, which takes too long to decode"):
        convert(endless, check_pixels=False)
