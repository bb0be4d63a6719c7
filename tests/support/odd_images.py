"""Images in the forms that people have, of one scene: transparent, of more than 8 bits, turned, CMYK, with a palette."""

import io
import struct
import zlib

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from kfp_vision.dataset.images import HEIF

assert HEIF  # `make install` installs pillow-heif, which the library registers with Pillow
WIDTH, HEIGHT = 96, 64  # pixels
ORIENTATION, LIES_ON_ITS_SIDE = 0x0112, 6  # EXIF 2.3, section 4.6.4


def scene() -> Image.Image:
    """Draws a dark disc at top left and a lighter bar at the bottom on white, with black and white in it; all grey."""
    image = Image.new("L", (WIDTH, HEIGHT), 255)
    pen = ImageDraw.Draw(image)
    pen.ellipse((6, 4, 44, 40), fill=0)
    pen.rectangle((30, 46, 90, 60), fill=120)
    return image


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """Encodes an image."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def levels(bits: int = 12) -> npt.NDArray[np.uint16]:
    """Returns the scene in levels of so many bits."""
    return (np.asarray(scene()).astype(np.uint32) * ((1 << bits) - 1) // 255).astype(np.uint16)


def png(pixels: npt.NDArray[np.uint16]) -> bytes:
    """Encodes colours of 16 bits, which Pillow cannot."""
    written, encoded = cv2.imencode(".png", pixels[..., ::-1])
    assert written
    return encoded.tobytes()


def deep(kind: str, channels: int = 1, bits: int = 12) -> bytes:
    """Encodes the scene with 16 bits per channel, of which it uses the lower ones, with OpenCV rather than Pillow."""
    grey = levels(bits)
    pixels = grey if channels == 1 else np.dstack([grey] * 3)
    if channels == 4:
        pixels = np.dstack([pixels, np.full_like(grey, 65535)])
    written, encoded = cv2.imencode(f".{kind}", pixels)
    assert written
    return encoded.tobytes()


def netpbm(white: int, magic: str = "P5") -> bytes:
    """Writes the scene as PGM (or PPM), with the white level in the header."""
    shades = np.asarray(scene()).astype(np.uint32) * white // 255
    pixels = np.dstack([shades] * 3) if magic in ("P6", "P3") else shades
    head = f"{magic}\n# a comment\n{WIDTH} {HEIGHT}\n{white}\n".encode()
    if magic in ("P2", "P3"):
        return head + " ".join(map(str, pixels.ravel())).encode() + b"\n"
    return head + pixels.astype(">u2" if white > 255 else "u1").tobytes()


def on_nothing(mode: str) -> Image.Image:
    """Draws the scene with its white transparent, where the colour beneath is black."""
    grey = scene()
    alpha = grey.point([0 if shade == 255 else 255 for shade in range(256)])
    hidden = grey.point([0 if shade == 255 else shade for shade in range(256)])
    if mode in ("LA", "RGBA"):
        image = Image.merge("LA", (hidden, alpha))
        return image if mode == "LA" else image.convert("RGBA")
    ground = 7  # a shade that the scene does not have
    marked = grey.point([ground if shade == 255 else shade for shade in range(256)])
    image = {"L": lambda: marked, "P": lambda: marked.convert("P"), "RGB": lambda: marked.convert("RGB")}[mode]()
    image.info["transparency"] = {"L": ground, "P": image.getpixel((WIDTH - 1, 0)), "RGB": (ground,) * 3}[mode]
    return image


def transparent(kind: str, mode: str) -> bytes:
    """Encodes the scene with its white transparent."""
    image = on_nothing(mode)
    options: dict[str, object] = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    if "transparency" in image.info:
        options["transparency"] = image.info["transparency"]
    return encode(image, kind, **options)


def transparent_stroke() -> bytes:
    """Encodes the scene, without its grey, with two colours, of which white is transparent."""
    image = scene().point([0 if shade == 0 else 255 for shade in range(256)]).convert("1")
    return encode(image, "PNG", transparency=255)


def deep_transparent() -> bytes:
    """Encodes the scene as 16-bit RGBA: 12-bit levels, with its white transparent on black."""
    grey = levels()
    hidden = np.where(grey == grey.max(), 0, grey).astype(np.uint16)
    alpha = np.where(grey == grey.max(), 0, 65535).astype(np.uint16)
    return cv2.imencode(".png", np.dstack([hidden] * 3 + [alpha]))[1].tobytes()


def deep_grey_and_alpha(bits: int = 12) -> bytes:
    """Encodes the scene as 16-bit grey with alpha, its white transparent on black, which neither OpenCV nor Pillow writes."""
    grey = levels(bits)
    hidden, alpha = np.where(grey == grey.max(), 0, grey), np.where(grey == grey.max(), 0, 65535)
    rows = np.dstack([hidden, alpha]).astype(">u2")
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 4, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def turned(kind: str = "JPEG") -> bytes:
    """Encodes the scene on its side, with the orientation that sets it upright."""
    exif = Image.Exif()
    exif[ORIENTATION] = LIES_ON_ITS_SIDE
    options = {"quality": 98, "subsampling": 0} if kind == "JPEG" else {}
    return encode(scene().convert("RGB").transpose(Image.Transpose.ROTATE_90), kind, exif=exif.tobytes(), **options)


def cmyk(adobe: bool = True) -> bytes:
    """Encodes the scene as CMYK JPEG, with or without Adobe's segment."""
    ink = scene().point(range(255, -1, -1))
    none = Image.new("L", (WIDTH, HEIGHT))
    encoded = encode(Image.merge("CMYK", (none, none, none, ink)), "JPEG", quality=98)
    at = encoded.index(b"\xff\xee")
    size = struct.unpack(">H", encoded[at + 2 : at + 4])[0]
    return encoded if adobe else encoded[:at] + encoded[at + 2 + size :]


def ycck() -> bytes:
    """Encodes the scene as YCCK JPEG: Adobe's transform 2, of inverted inks."""
    # Pillow inverts the four planes, and libjpeg takes Y, Cb and Cr of 0, 128 and 128 for colours without ink.
    ink = scene().point(range(255, -1, -1))
    planes = (Image.new("L", (WIDTH, HEIGHT), shade) for shade in (255, 127, 127))
    encoded = bytearray(encode(Image.merge("CMYK", (*planes, ink)), "JPEG", quality=98))
    encoded[encoded.index(b"Adobe") + 11] = 2
    return bytes(encoded)


def gif_within() -> bytes:
    """Encodes a GIF whose image covers a part of its screen, where browsers show the page and TensorFlow black."""
    encoded = bytearray(encode(scene().convert("P"), "GIF"))
    encoded[6:10] = struct.pack("<HH", WIDTH + 40, HEIGHT + 40)
    return bytes(encoded)
