"""The exported SavedModel alone sees an image as a person does: set upright by EXIF, transparent pixels on white."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageDraw, ImageOps
from support import place_model

from kfp_vision.networks import decoding, orientation

ORIENTATION, SHORT, LONG = 0x0112, 3, 4  # EXIF 2.3, section 4.6.4; TIFF 6.0, section 2
SIZE = place_model.SIZE


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    """The probabilities that the SavedModel gives for an encoded image."""
    folder = place_model.write_version(tmp_path_factory.mktemp("exported") / "1")
    loaded = tf.saved_model.load(str(folder))
    return lambda encoded: loaded.signatures["serving_default"](image_bytes=tf.constant([encoded]))["probabilities"][0].numpy()


def landscape() -> Image.Image:
    noise = np.random.default_rng(3).integers(0, 256, (3, 4, 3), np.uint8)
    return Image.fromarray(noise).resize((60, 44), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}), **options)
    return file.getvalue()


def directory(order: str, *entries: tuple[int, int, int, bytes], count: int | None = None, start: int = 8) -> bytes:
    """A TIFF block; an entry is tag, type, count and four bytes."""
    mark = "<" if order == "II" else ">"
    fields = b"".join(struct.pack(f"{mark}HHI4s", *entry) for entry in entries)
    head = order.encode() + struct.pack(f"{mark}HI", 42, start)
    return head + struct.pack(f"{mark}H", len(entries) if count is None else count) + fields + bytes(4)


def short(order: str, value: int) -> bytes:
    return struct.pack("<H2x" if order == "II" else ">H2x", value)


def block(order: str, value: int) -> bytes:
    """EXIF as cameras write it, with other fields around the orientation."""
    entries = [(0x0106, 2), (ORIENTATION, value), (0x0128, 2)]
    return directory(order, *((tag, SHORT, 1, short(order, content)) for tag, content in entries))


def with_exif(jpeg: bytes, tiff: bytes, before: bytes = b"", behind_jfif: bool = False) -> bytes:
    segment = b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff
    at = 4 + int.from_bytes(jpeg[4:6]) if behind_jfif else 2
    return jpeg[:at] + before + segment + jpeg[at:]


def with_chunk(png: bytes, kind: bytes, content: bytes) -> bytes:
    """Puts a chunk right before the pixels."""
    at = png.index(b"IDAT") - 4
    return (
        png[:at] + struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content)) + png[at:]
    )


def upright(encoded: bytes) -> bytes:
    """What Pillow reads in EXIF and sets upright, without loss, of pixels that TensorFlow decodes: JPEGs differ by a shade."""
    image = Image.fromarray(tf.io.decode_image(encoded, channels=3).numpy())
    with Image.open(io.BytesIO(encoded)) as opened:
        image.info["exif"] = opened.getexif().tobytes()
    return encode(ImageOps.exif_transpose(image), "PNG")


@pytest.mark.parametrize("order", ["II", "MM"])
@pytest.mark.parametrize("value", range(1, 9))
def test_every_orientation_is_set_upright(answer, value, order):
    jpeg = encode(landscape(), "JPEG")
    turned = {
        "JPEG": with_exif(jpeg, block(order, value)),
        "JPEG, behind JFIF": with_exif(jpeg, block(order, value), behind_jfif=True),
        "JPEG, behind another APP1 and fill bytes": with_exif(jpeg, block(order, value), b"\xff\xff\xff\xe1\0\x06xmp\0"),
        "PNG": with_chunk(encode(landscape(), "PNG"), b"eXIf", block(order, value)),
    }
    for kind, encoded in turned.items():
        assert np.abs(answer(encoded) - answer(upright(encoded))).max() < 1e-3, kind
        if value != 1:
            assert np.abs(answer(encoded) - answer(encode(landscape(), "PNG"))).max() > 1e-2, "the test shows nothing"


BROKEN = {
    "0": block("II", 0),
    "9": block("MM", 9),
    "a number of two": directory("II", (ORIENTATION, SHORT, 2, struct.pack("<HH", 6, 6))),
    "bytes": directory("II", (ORIENTATION, 1, 1, b"\6\0\0\0")),
    "a rational": directory("MM", (ORIENTATION, 5, 1, b"\0\0\0\6")),
    "a long beyond": directory("MM", (ORIENTATION, LONG, 1, b"\0\1\0\6")),
    "no bytes": b"",
    "no directory": b"MM\0*\0\0\0\x08",
    "half a header": b"II*",
    "an unknown byte order": b"XX" + block("II", 6)[2:],
    "a directory behind the end": directory("II", (ORIENTATION, SHORT, 1, short("II", 6)), start=5000),
    "a directory far behind the end": directory("MM", (ORIENTATION, SHORT, 1, short("MM", 6)), start=0xFFFFFFF0),
    "half an entry": directory("II", (ORIENTATION, SHORT, 1, short("II", 6)))[:18],
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_orientation_counts_as_upright(answer, kind):
    jpeg, png = encode(landscape(), "JPEG"), encode(landscape(), "PNG")
    assert np.array_equal(answer(with_exif(jpeg, BROKEN[kind])), answer(jpeg))
    assert np.array_equal(answer(with_chunk(png, b"eXIf", BROKEN[kind])), answer(png))


def test_an_orientation_counts_where_the_directory_says_more_entries_than_it_has(answer):
    jpeg = encode(landscape(), "JPEG")
    cut = directory("MM", (ORIENTATION, SHORT, 1, short("MM", 6)), count=60_000)
    long = directory("MM", (ORIENTATION, LONG, 1, b"\0\0\0\6"))
    for tiff in (cut, long):
        assert np.array_equal(answer(with_exif(jpeg, tiff)), answer(with_exif(jpeg, block("II", 6))))


@pytest.mark.slow
def test_any_byte_of_the_headers_may_be_wrong():
    read = tf.function(orientation.jpeg_orientation, input_signature=[tf.TensorSpec((), tf.string)])
    look = tf.function(orientation.png_properties, input_signature=[tf.TensorSpec((), tf.string)])
    jpeg = with_exif(encode(landscape(), "JPEG"), block("MM", 6))
    png = with_chunk(encode(landscape().quantize(8), "PNG"), b"eXIf", block("II", 6))
    for at in range(200):
        for value in (0, 0x55, 0xFF):
            assert 1 <= read(tf.constant(jpeg[:at] + bytes([value]) + jpeg[at + 1 :])) <= 8
            assert 1 <= look(tf.constant(png[:at] + bytes([value]) + png[at + 1 :]))[0] <= 8
        assert 1 <= read(tf.constant(jpeg[:at])) <= 8
        assert 1 <= look(tf.constant(png[:at]))[0] <= 8


def test_a_file_of_many_segments_is_not_walked_to_its_end():
    read = tf.function(orientation.jpeg_orientation, input_signature=[tf.TensorSpec((), tf.string)])
    jpeg = encode(landscape(), "JPEG")
    assert read(tf.constant(with_exif(jpeg, block("II", 6), b"\xff\xfe\0\2" * 50))) == 6
    assert read(tf.constant(with_exif(jpeg, block("II", 6), b"\xff\xfe\0\2" * 1_000_000))) == 1


def crop_without_orientation(encoded: bytes) -> np.ndarray:
    """What exports did before they looked at EXIF and transparency."""
    if tf.io.is_jpeg(encoded):
        sides = tf.image.extract_jpeg_shape(encoded)[:2]
        window = decoding.decode_jpeg_window(encoded, *decoding.central_window(sides), sides[1], SIZE)
    else:
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        window = tf.image.central_crop(image, decoding.CENTRAL_FRACTION)
    return decoding.resize(window, SIZE).numpy()


PLAIN = {
    "JPEG": encode(landscape(), "JPEG"),
    "JPEG that says it is upright": with_exif(encode(landscape(), "JPEG"), block("MM", 1)),
    "large JPEG": encode(landscape().resize((900, 601)), "JPEG"),
    "progressive grey JPEG": encode(landscape().convert("L"), "JPEG", progressive=True),
    "PNG": encode(landscape(), "PNG"),
    "PNG with a palette": encode(landscape().quantize(16), "PNG"),
    "opaque PNG with alpha": encode(landscape().convert("RGBA"), "PNG"),
    "grey PNG": encode(landscape().convert("L"), "PNG"),
    "GIF": encode(landscape(), "GIF"),
    "BMP": encode(landscape(), "BMP"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLAIN)
def test_an_upright_opaque_image_gives_the_same_pixels_to_the_bit(kind):
    encoded = PLAIN[kind]
    crop = tf.function(lambda content: decoding.central_crop(content, SIZE))
    assert np.array_equal(crop(tf.constant(encoded)), crop_without_orientation(encoded))


def drawing(mode: str, ground: int) -> Image.Image:
    """A black line and a grey disc on nothing, whose colour is `ground`."""
    image = Image.new("LA", (60, 44), (ground, 0))
    pen = ImageDraw.Draw(image)
    pen.ellipse((4, 4, 30, 30), fill=(120, 255))
    pen.line((0, 40, 60, 20), fill=(0, 255), width=5)
    if mode == "LA":
        pen.rectangle((40, 2, 58, 14), fill=(60, 100))  # half transparent
        return image
    if mode == "RGBA":
        pen.rectangle((40, 2, 58, 14), fill=(60, 100))
        return image.convert("RGBA")
    shades = image.getchannel("L").quantize(16)
    index = shades.getpixel((59, 0))
    shades.info["transparency"] = index
    return shades


@pytest.mark.parametrize("ground", [0, 200])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_transparent_drawing_is_seen_on_white(answer, mode, ground):
    image = drawing(mode, ground)
    encoded = encode(image, "PNG")
    with Image.open(io.BytesIO(encoded)) as read:
        assert (read.mode, read.has_transparency_data) == (mode, True)
        rgba = read.convert("RGBA")
    on_white = encode(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"), "PNG")
    assert np.abs(answer(encoded) - answer(on_white)).max() < 1e-3
    assert np.abs(answer(encoded) - answer(encode(rgba.convert("RGB"), "PNG"))).max() > 1e-3, "the test shows nothing"


def test_a_turned_drawing_is_set_upright_and_on_white(answer):
    png = with_chunk(encode(drawing("P", 0), "PNG"), b"eXIf", block("II", 8))
    with Image.open(io.BytesIO(png)) as image:
        rgba = ImageOps.exif_transpose(image).convert("RGBA")
    on_white = encode(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"), "PNG")
    assert np.abs(answer(png) - answer(on_white)).max() < 1e-3
