"""Images are decoded and cropped without TensorFlow to the pixels that the training and the exported model see."""

import itertools
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support import mutate_images, odd_images, place_model

from kfp_vision.core.crop_shapes import SQUARE, STRETCHED, WHOLE
from kfp_vision.dataset.images import Rejected, validate_image
from kfp_vision.engines import resizing
from kfp_vision.engines.cropping import central_window, crop, crop_and_measure, crop_floats
from kfp_vision.engines.tensorflow_engine import damaged_image, to_decodable
from kfp_vision.networks import decoding

MAX_PIXELS = 50_000_000
FLOATS = 0.01  # levels
ROUNDING = 0.51  # levels: to the nearest, of floats that differ in their last digits
SIZE = 32  # pixels
encode = odd_images.encode


@cache
def graph(size: int, shape: str):
    cropped = tf.function(lambda encoded: decoding.central_crop(encoded, size, shape))
    return cropped.get_concrete_function(tf.TensorSpec((), tf.string))


def seen(encoded: bytes, size: int, shape: str = STRETCHED) -> np.ndarray | Rejected:
    """What the exported model sees of an image once it is checked, or why that is rejected."""
    decodable = to_decodable(encoded, MAX_PIXELS)
    if isinstance(decodable, Rejected):
        return decodable
    try:
        return graph(size, shape)(tf.constant(decodable)).numpy()
    except tf.errors.InvalidArgumentError as error:
        return damaged_image(error)


def cropped(encoded: bytes, size: int) -> np.ndarray | Rejected:
    try:
        return crop_floats(encoded, size, MAX_PIXELS)
    except Rejected as reason:
        return reason


def difference(encoded: bytes, size: int = SIZE, shape: str = STRETCHED) -> np.ndarray:
    floats, sides = crop_and_measure(encoded, size, MAX_PIXELS, shape)
    valid = validate_image(encoded, MAX_PIXELS)  # upright
    assert (floats.dtype, floats.shape, sides) == (np.float32, (size, size, 3), (valid.height, valid.width))
    return np.abs(floats - seen(encoded, size, shape))


def landscape(width: int, height: int) -> Image.Image:
    """Draws coarse coloured noise with finer one on it."""
    random = np.random.default_rng(width * height)
    coarse = Image.fromarray(random.integers(0, 256, (5, 7, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    fine = random.integers(-20, 21, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + fine, 0, 255).astype(np.uint8))


def photographs(folder, every: int) -> list[Image.Image]:
    return [Image.open(file).convert("RGB") for file in sorted(folder.glob("*/*.jpg"))[::every]]


@pytest.mark.slow
@pytest.mark.parametrize("size", [50, 224, 299])
def test_photographs_give_the_pixels_of_the_exported_model(flower_photos, size):
    files = sorted(flower_photos.glob("*/*.jpg"))
    assert len(files) == 754
    assert max(difference(file.read_bytes(), size).max() for file in files) <= FLOATS


KINDS = {
    "JPEG": ("RGB", "JPEG", {}),
    "progressive JPEG": ("RGB", "JPEG", {"progressive": True}),
    "JPEG with all colours": ("RGB", "JPEG", {"subsampling": 0}),
    "JPEG with colours halved across": ("RGB", "JPEG", {"subsampling": 1}),
    "JPEG with restarts": ("RGB", "JPEG", {"restart_marker_blocks": 3}),
    "JPEG of RGB": ("RGB", "JPEG", {"keep_rgb": True}),
    "coarse JPEG": ("RGB", "JPEG", {"quality": 10}),
    "grey JPEG": ("L", "JPEG", {}),
    "CMYK JPEG": ("CMYK", "JPEG", {}),
    "MPO": ("RGB", "MPO", {"save_all": True, "append_images": [odd_images.scene().convert("RGB")]}),
    "PNG": ("RGB", "PNG", {}),
    "grey PNG": ("L", "PNG", {}),
    "PNG of two colours": ("1", "PNG", {}),
    "PNG with a palette": ("P", "PNG", {}),
    "opaque PNG with alpha": ("RGBA", "PNG", {}),
    "opaque grey PNG with alpha": ("LA", "PNG", {}),
    "GIF": ("P", "GIF", {}),
    "BMP": ("RGB", "BMP", {}),
    "BMP with a palette": ("P", "BMP", {}),
    "WebP": ("RGB", "WEBP", {}),
    "TIFF": ("RGB", "TIFF", {}),
    "CMYK TIFF": ("CMYK", "TIFF", {}),
    "PPM": ("RGB", "PPM", {}),
    "AVIF": ("RGB", "AVIF", {}),
    "HEIF": ("RGB", "HEIF", {}),
}
# The window is reduced by 1, 1, 2, 4 and 8; sides that are odd, and of one pixel.
SIDES = [(61, 44), (71, 73), (150, 153), (299, 303), (601, 633), (1, 40), (40, 1), (1, 1)]


@pytest.mark.parametrize("shape", [STRETCHED, SQUARE, WHOLE])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_pixels_of_the_exported_model(kind, shape):
    mode, image_format, options = KINDS[kind]
    for sides in SIDES[1:4] if image_format in ("HEIF", "AVIF") else SIDES:
        encoded = encode(landscape(*sides).convert(mode), image_format, **options)
        assert difference(encoded, shape=shape).max() <= FLOATS, sides


ODD = {
    "CMYK without Adobe's segment": odd_images.cmyk(adobe=False),
    "YCCK": odd_images.ycck(),
    "GIF within its screen": odd_images.gif_within(),
    "transparent stroke": odd_images.transparent_stroke(),
    "deep transparent PNG": odd_images.deep_transparent(),
    "turned PNG": odd_images.turned("PNG"),
    "turned WebP": odd_images.turned("WEBP"),
    "turned TIFF": odd_images.turned("TIFF"),
    "transparent WebP": odd_images.transparent("WEBP", "RGBA"),
    "transparent GIF": odd_images.transparent("GIF", "P"),
    **{f"transparent PNG of {mode}": odd_images.transparent("PNG", mode) for mode in ("LA", "RGBA", "L", "P", "RGB")},
    **{f"deep {kind} of {channels}": odd_images.deep(kind, channels) for kind in ("png", "tiff") for channels in (1, 3, 4)},
    **{
        f"{magic} up to {white}": odd_images.netpbm(white, magic) for white in (100, 4095) for magic in ("P2", "P3", "P5", "P6")
    },
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_images_give_the_pixels_of_the_exported_model(kind):
    assert max(difference(ODD[kind], size).max() for size in (SIZE, 16, 8)) <= FLOATS


def test_a_square_window_keeps_proportions_and_is_the_same_turned():
    for sides in [*SIDES, (640, 480), (3, 500)]:
        length = min(side - 2 * (side // 16) for side in sides)
        window = central_window(sides, SQUARE)
        assert (window.height - length, window.width - length) in ((0, 0), (0, 1), (1, 0))
        assert (2 * window.top + window.height, 2 * window.left + window.width) == sides  # equal margins
        begin, size = decoding.central_window(tf.constant(sides), SQUARE)
        assert window == (*begin.numpy(), *size.numpy())


def test_rounding_is_to_the_nearest_level():
    for sides in SIDES:
        encoded = encode(landscape(*sides), "PNG")
        levels = crop(encoded, SIZE, MAX_PIXELS)
        assert (levels.dtype, levels.shape) == (np.uint8, (SIZE, SIZE, 3))
        assert np.abs(levels - seen(encoded, SIZE)).max() <= ROUNDING


@pytest.mark.parametrize("sides", [(1300, 1201), (5000, 3), (3, 5000)])
def test_large_windows_are_resized_to_the_same_pixels(sides):
    assert difference(encode(landscape(*sides), "PNG")).max() <= FLOATS


def turned(image: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[odd_images.ORIENTATION] = orientation
    return encode(image, "JPEG", quality=95, subsampling=0, exif=exif.tobytes())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("sides", [(48, 40), (67, 45), (160, 152), (328, 320), (640, 616)])
@pytest.mark.parametrize("shape", [STRETCHED, SQUARE, WHOLE])
def test_a_jpeg_is_set_upright(orientation, sides, shape):
    # Even colours across blocks of 8 pixels lose nothing when the upright copy is encoded again.
    patches = Image.fromarray(np.asarray(landscape(-(-sides[0] // 8), -(-sides[1] // 8))))
    image = patches.resize((patches.width * 8, patches.height * 8), Image.Resampling.NEAREST).crop((0, 0, *sides))
    encoded = turned(image, orientation)
    differences = np.abs(crop_floats(encoded, SIZE, MAX_PIXELS, shape) - seen(encoded, SIZE, shape))
    assert differences.mean() < 2.5
    if orientation != 1:
        assert np.abs(crop_floats(encoded, SIZE, MAX_PIXELS) - crop_floats(turned(image, 1), SIZE, MAX_PIXELS)).mean() > 10


@pytest.mark.slow
def test_turned_photographs_differ_from_their_upright_copy_as_a_jpeg_from_its_original(flower_photos):
    for size in (224, 50):
        differences = []
        for number, image in enumerate(photographs(flower_photos, every=40)):
            for sides in ((320, 208), (1600, 1200)):
                encoded = turned(image.resize(sides), 2 + number % 7)
                differences.append(np.abs(crop_floats(encoded, size, MAX_PIXELS) - seen(encoded, size)))
        assert np.mean([one.mean() for one in differences]) < 1.3
        assert np.quantile(differences, 0.999) < 16


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(pixels: bytes, before: bytes = b"", colour_type: int = 2) -> bytes:
    """Writes a PNG of 40 x 30 pixels."""
    header = struct.pack(">IIBBBBB", 40, 30, 8, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


JPEG, ROWS = encode(landscape(90, 70), "JPEG"), b"\0" + bytes(range(120))
WRONG = {
    "empty": b"",
    "text": b"hello",
    "a page": b"<html>",
    "PDF": b"%PDF-1.4",
    "a header": JPEG[:3],
    "JPEG without its end": JPEG[:-2],
    "half a JPEG": JPEG[: len(JPEG) // 2],
    "half a progressive JPEG": encode(landscape(90, 70), "JPEG", progressive=True)[:1500],
    "half a large JPEG": encode(landscape(900, 700), "JPEG")[:50_000],
    "half a turned JPEG": turned(landscape(90, 70), 6)[:2000],
    "half a CMYK JPEG": odd_images.cmyk()[:1200],
    "JPEG whose end is swallowed": JPEG[: JPEG.index(b"\xff\xda")] + b"\xff\xe5\xff\xff" + JPEG[JPEG.index(b"\xff\xda") + 4 :],
    "too many pixels": encode(Image.new("L", (10_000, 6000)), "PNG"),
    "JPEG of too many pixels": encode(Image.new("L", (10_000, 6000)), "JPEG"),
    "half a PNG": png(zlib.compress(ROWS * 30))[:100],
    "PNG without pixels": png(b""),
    "PNG with a wrong checksum": png(zlib.compress(ROWS * 30)).replace(b"IDATx", b"IDATy"),
    "PNG without its end": png(zlib.compress(ROWS * 30))[:-12],
    "half a GIF": encode(landscape(90, 70), "GIF")[:1500],
    "half a BMP": encode(landscape(90, 70), "BMP")[:1500],
    "half a WebP": encode(landscape(90, 70), "WEBP")[:1500],
    "half a TIFF": encode(landscape(90, 70), "TIFF")[:1500],
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_rejected_is_rejected_for_the_same_reason(kind):
    with pytest.raises(Rejected) as expected:
        validate_image(WRONG[kind], MAX_PIXELS)
    with pytest.raises(Rejected) as reason:
        crop(WRONG[kind], SIZE, MAX_PIXELS)
    assert str(reason.value) == str(expected.value)


# Pillow reads these, and with the upper half of the rows takes the others for black.
DAMAGED_PNGS = {
    "half of the rows": png(zlib.compress(ROWS * 15)),
    "no checksum of the pixels": png(zlib.compress(ROWS * 30)[:-4]),
    "a palette of half a colour": png(zlib.compress(bytes(41 * 30)), chunk(b"PLTE", bytes(31)), colour_type=3),
    "an unknown chunk that matters": png(zlib.compress(ROWS * 30), chunk(b"ABCD", b"")),
}


@pytest.mark.parametrize("kind", DAMAGED_PNGS)
def test_a_png_that_pillow_reads_and_tensorflow_does_not_is_rejected(kind):
    validate_image(DAMAGED_PNGS[kind], MAX_PIXELS)
    assert str(seen(DAMAGED_PNGS[kind], SIZE)).startswith("damaged")
    with pytest.raises(Rejected, match=r"^damaged \(Invalid PNG data\)$"):
        crop(DAMAGED_PNGS[kind], SIZE, MAX_PIXELS)


def test_a_jpeg_of_thousands_of_scans_is_rejected_before_it_is_decoded():
    progressive = encode(Image.new("L", (7000, 7000)), "JPEG", progressive=True)
    at = progressive.index(b"\xff\xda\0")
    hostile = progressive[:-2] + progressive[at : at + 10] * 3000 + b"\xff\xd9"
    with pytest.raises(Rejected, match="scans, which takes too long to decode"):
        crop(hostile, SIZE, MAX_PIXELS)


def test_a_jpeg_with_a_warning_is_still_cropped():
    at = JPEG.index(b"\xff\xda")
    within = JPEG[: at + 400] + JPEG[at + 420 :]  # as cameras lose bytes
    in_header = JPEG[:at] + b"\0\0" + JPEG[at:]
    assert difference(within).max() <= FLOATS
    assert difference(in_header).mean() < 2  # Pillow's cosine transform


def test_random_damage_is_rejected_where_it_was():
    outcomes = {"rejected": 0, "cropped": 0}
    for kind, damaged in itertools.islice(mutate_images.mutations(seed=11), 400):
        ours, theirs = cropped(damaged, 16), seen(damaged, 16)
        if isinstance(theirs, Rejected):
            assert isinstance(ours, Rejected), f"{kind}: {theirs}"
            assert str(ours) == str(theirs) or str(theirs).startswith("damaged ("), kind
        else:
            assert not isinstance(ours, Rejected), f"{kind}: {ours}"
        outcomes["rejected" if isinstance(ours, Rejected) else "cropped"] += 1
    assert min(outcomes.values()) > 50


def test_crops_in_threads_are_those_of_one():
    images = [encode(landscape(300 + number, 200), kind) for number in range(20) for kind in ("JPEG", "PNG", "WEBP")]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda encoded: crop(encoded, 64, MAX_PIXELS), images))
    assert all(np.array_equal(crop(encoded, 64, MAX_PIXELS), one) for encoded, one in zip(images, together, strict=True))


@pytest.mark.slow
def test_an_export_gives_the_same_scores_for_photographs(flower_photos, tmp_path):
    loaded = tf.saved_model.load(str(place_model.write_version(tmp_path / "1")))
    files = sorted(flower_photos.glob("*/*.jpg"))[::10]
    encoded = [file.read_bytes() for file in files]
    whole = loaded.signatures["serving_default"](image_bytes=tf.constant(encoded))["probabilities"].numpy()
    floats = np.stack([crop_floats(one, place_model.SIZE, MAX_PIXELS) for one in encoded])
    of_floats = loaded.signatures["pixels"](images=tf.constant(floats))["probabilities"].numpy()
    levels = np.stack([crop(one, place_model.SIZE, MAX_PIXELS) for one in encoded]).astype(np.float32)
    of_levels = loaded.signatures["pixels"](images=tf.constant(levels))["probabilities"].numpy()
    assert np.abs(of_floats - whole).max() < 1e-4
    assert np.abs(of_levels - whole).max() < 0.02
    assert np.array_equal(of_floats.argmax(1), whole.argmax(1))


def test_tensorflow_is_not_imported():
    program = "import sys\nfrom kfp_vision.engines.cropping import crop\n"
    program += "crop(sys.stdin.buffer.read(), 32, 10**6)\nassert not {'tensorflow', 'keras'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], input=encode(landscape(40, 30), "WEBP"), check=True)


@pytest.mark.slow
def test_the_first_images_of_a_process_may_come_in_several_threads():
    program = (
        "import io, sys\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from PIL import Image\n"
        "from kfp_vision.engines.cropping import crop_floats\n"
        "file = io.BytesIO()\n"
        "Image.effect_noise((300, 200), 50).save(file, sys.argv[1])\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    list(pool.map(lambda _: crop_floats(file.getvalue(), 32, 10**6), range(64)))\n"
    )
    for kind in ("JPEG", "PNG"):
        subprocess.run([sys.executable, "-c", program, kind], check=True)


def test_without_opencv_pillow_decodes_pngs_to_the_same_pixels(monkeypatch):
    plain = encode(landscape(90, 70), "PNG")
    expected = crop_floats(plain, SIZE, MAX_PIXELS)
    monkeypatch.setattr(resizing, "cv2", None)
    assert np.abs(crop_floats(plain, SIZE, MAX_PIXELS) - expected).max() <= FLOATS
