"""Thumbnails of images, as data URIs for HTML pages."""

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class EncodedImage:
    """An encoded image.

    Attributes:
        name: file name.
        encoded: the bytes of the file.
    """

    name: str
    encoded: bytes


class IndexedImage(NamedTuple):
    """An image of an index.

    Attributes:
        path: path of the image.
        label: its class; empty if unknown.
        encoded: a JPEG thumbnail of it.
    """

    path: str
    label: str
    encoded: bytes


class Thumbnail(NamedTuple):
    """A thumbnail to embed in a page.

    Attributes:
        name: file name of the image.
        uri: the thumbnail as a data URI; None if the image cannot be read.
        width: in pixels.
        height: in pixels.
    """

    name: str
    uri: str | None
    width: int
    height: int


# Thumbnails

THUMBNAIL_SIDE = 200  # pixels
THUMBNAIL_QUALITIES = (80, 60, 40)  # JPEG; the first that fits
MAX_THUMBNAIL_BYTES = 16_000  # 48 of them, in base64, keep a page below 1.2 MB, without the maps beside them


def thumbnail(original: EncodedImage) -> Thumbnail:
    """Makes a JPEG thumbnail of at most 200 pixels a side; transparent images get a white background.

    Args:
        original: a JPEG or PNG.

    Returns:
        The thumbnail; without a URI if the image cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(original.encoded), formats=("JPEG", "PNG")) as image:
            image.draft("RGB", (THUMBNAIL_SIDE, THUMBNAIL_SIDE))  # JPEG decodes at 1/8, 1/4 or 1/2 scale
            small = image.convert("RGBA" if image.has_transparency_data else "RGB")
            small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
            if small.mode == "RGBA":
                small = Image.alpha_composite(Image.new("RGBA", small.size, "white"), small).convert("RGB")
            encoded = _jpeg(small)
    except Exception:  # Pillow raises anything on untrusted bytes, and the page must be written
        return Thumbnail(original.name, None, 0, 0)
    return Thumbnail(original.name, data_uri(encoded), *small.size)


def data_uri(encoded: bytes) -> str:
    """Encodes a JPEG as a data URI.

    Args:
        encoded: the bytes of the JPEG.

    Returns:
        The URI.
    """
    return f"data:image/jpeg;base64,{base64.b64encode(encoded).decode()}"


def _jpeg(image: "Image.Image") -> bytes:
    for quality in THUMBNAIL_QUALITIES:
        out = io.BytesIO()
        image.save(out, "JPEG", quality=quality, optimize=True)
        if out.tell() <= MAX_THUMBNAIL_BYTES:
            break
    return out.getvalue()
