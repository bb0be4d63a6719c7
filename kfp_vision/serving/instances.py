"""Reads the image of an instance: base64 in the forms that clients write, and the objects that they put it into."""

import base64
import binascii
import re
import string
from collections.abc import Mapping
from typing import Any

from kfp_vision.core.errors import format_value
from kfp_vision.dataset.images import Rejected

IMAGE_KEYS = ("b64", "base64", "image_bytes", "content", "image", "data", "bytes")  # the first in an instance that is there
MAX_DEPTH = 4  # objects within each other around the base64
MIN_IMAGE_LENGTH = 40  # characters; shorter texts under unknown names are names, types and ids
MAX_PREFIX_LENGTH = 1000  # characters, of a data: URL before its data
MAX_NAME_LENGTH = 300  # characters, of a path

IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
ENCODED_STARTS = (b"/9j/", b"iVBORw0KGgo", b"R0lGOD", b"UklGR", b"data:")  # base64 of an image file, which none begins with
OTHER_STARTS = {b"\x93NUMPY": "a NumPy array", b"\x80\x04\x95": "a pickled Python object", b"\x1f\x8b": "gzip-compressed data"}
OTHER_STARTS |= {b"PK\3\4": "a zip archive", b"%PDF": "a PDF file", b"http://": "an address", b"https://": "an address"}
OTHER_STARTS |= dict.fromkeys(ENCODED_STARTS, "base64")

ADDRESS = re.compile(r"(?:blob:)?[a-z][a-z0-9+.-]{0,20}://", re.IGNORECASE)
FILE_NAME = re.compile(r"[^\n]*(?:\.[A-Za-z][A-Za-z0-9]{2,4}|:\\[^\n]*)")
HEXADECIMAL = re.compile(r"(?:ffd8ff|89504e47|47494638|52494646)[0-9a-f]*\s*", re.IGNORECASE)  # of JPEG, PNG, GIF and WebP
SPACE_WITHIN_LINE = re.compile(rb"\S +\S")
# RFC 3986 escapes of base64, line breaks, and `data:TYPE;base64,`; replaced one by one, since unquoting takes much memory.
ESCAPES = {f"%{ord(char):02X}": char for char in "+/=-_:;,\r\n "}
ESCAPES |= {escape.lower(): char for escape, char in ESCAPES.items()}
ESCAPES |= {"\\r": "\r", "\\n": "\n", "\\/": "/"}  # of JSON and Python, escaped once more
URL_SAFE, WHITE_SPACE = bytes.maketrans(b"-_", b"+/"), b" \t\r\n\f\v"
ALPHABET = f"{string.ascii_letters}{string.digits}+/-_=".encode()
NOT_ASCII = re.compile(r"[^\x00-\x7f]")
INVISIBLE = "\ufeff\u200b\0"  # byte order mark, zero-width space and C's end of a text, which Python does not strip

SEND_BASE64 = 'Send {"b64": "..."}, the bytes of the file in base64.'
NOT_PIXELS = f"Pixels are not taken. {SEND_BASE64}"
NOT_FETCHED = f"The server fetches nothing. {SEND_BASE64}"


class InvalidInstance(Rejected):
    """An instance from which no bytes of an image can be read; the message is a sentence with its place."""


class _Unreadable(Exception):
    """What was found in place of base64, and what to do."""

    def __init__(self, found: str, remedy: str = SEND_BASE64):
        super().__init__(found)
        self.remedy = remedy


def read_image(instance: Any, place: str) -> bytes | Rejected:
    """Reads the encoded image of an instance.

    Base64 may have line breaks and surrounding white space, lack its padding, be in the URL-safe alphabet, and be a `data:`
    URL. What is standard base64 is decoded at once; only what is not is looked at more closely.

    Args:
        instance: bytes, base64, or an object that holds base64 under a usual key or its only one, itself or in another object.
        place: where the instance is in the request, for the message.

    Returns:
        The image, encoded; or what is wrong with the instance.

    Example:
        read_image({"image_bytes": {"b64": "/9j/4AAQ..."}}, "instances[0]")
    """
    try:
        for _ in range(MAX_DEPTH):
            if isinstance(instance, str | bytes):
                return _decode(instance)
            instance, step = _inner(instance)
            place += step
        raise _Unreadable("an object within objects")
    except _Unreadable as error:
        return InvalidInstance(f"{place} must be base64 of an image file; got {error}. {error.remedy}")


def describe(value: Any) -> str:
    """Describes a JSON value that is not what it should be, without its content.

    Args:
        value: as decoded from JSON.
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return f"an object with {_listed(value)}" if value else "an empty object"
    if isinstance(value, list):
        return _describe_list(value)
    return "a text" if isinstance(value, str) else "a number"


def has_image_key(instance: Any) -> bool:
    """Returns whether an instance names an image by one of the usual keys.

    Args:
        instance: as decoded from JSON.
    """
    return isinstance(instance, dict) and any(key in instance for key in IMAGE_KEYS)


def image_key(instance: Mapping[str, Any]) -> str | None:
    """Returns the key under which an object holds an image: a usual one, its only one, or the only one with a long value.

    Args:
        instance: as decoded from JSON.
    """
    known = [key for key in IMAGE_KEYS if key in instance][:1]
    keys = known or [key for key, value in instance.items() if len(instance) == 1 or _may_hold_image(value)]
    return keys[0] if len(keys) == 1 else None


def starts_like_base64(body: bytes) -> bool:
    """Returns whether bytes are an image in base64, or a `data:` URL, rather than an image.

    Args:
        body: the bytes; their beginning suffices.
    """
    return body[:64].lstrip().startswith(ENCODED_STARTS)


def starts_like_image(body: bytes) -> bool:
    """Returns whether bytes begin as those of a usual image format do.

    Args:
        body: the bytes; their beginning suffices.
    """
    return body.startswith(IMAGE_STARTS)


def _inner(instance: Any) -> tuple[Any, str]:
    """Returns what an object or a list of one holds, and where."""
    if isinstance(instance, list) and len(instance) == 1 and isinstance(instance[0], str | dict):
        return instance[0], "[0]"
    if not isinstance(instance, dict):
        raise _Unreadable(describe(instance), NOT_PIXELS if isinstance(instance, list) else SEND_BASE64)
    if {"datatype", "shape"} <= instance.keys():
        raise _Unreadable("a tensor of the Open Inference Protocol", "Send that to /v2/models/NAME/infer.")
    key = image_key(instance)
    if key is None:
        raise _Unreadable(describe(instance))
    return instance[key], f".{format_value(key, 40)}"


def _may_hold_image(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, str) and len(value) >= MIN_IMAGE_LENGTH)


def _listed(instance: Mapping[str, Any]) -> str:
    keys = list(instance)
    text = format_value(", ".join(keys[:10]) + (", ..." if len(keys) > 10 else ""), 200)
    return f"the key {text}" if len(keys) == 1 else f"the keys {text}"


def _describe_list(value: list[Any]) -> str:
    shape, inner = [len(value)], value[0] if value else None
    while isinstance(inner, list) and inner and len(shape) < 8:
        shape, inner = [*shape, len(inner)], inner[0]
    if len(shape) > 1:
        return f"a nested list of shape {' x '.join(map(str, shape))}, such as an array"
    return f"a list of {len(value)} {'numbers' if isinstance(inner, int | float) else 'elements'}"


def _decode(text: str | bytes) -> bytes:
    """Decodes base64; returns the bytes of a file as they are.

    Raises:
        _Unreadable: it is not base64.
    """
    if isinstance(text, bytes):
        if not starts_like_base64(text):
            return text
        text = text.decode("latin-1")
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        decoded = _decode_other_forms(text)
    if not decoded.startswith(IMAGE_STARTS):
        _check_meant_as_base64(text, decoded)
    return decoded


def _decode_other_forms(text: str) -> bytes:
    """Decodes base64 that is not standard base64: a `data:` URL, with white space, URL-safe, without padding, escaped."""
    body = text.strip().strip(INVISIBLE)
    if ADDRESS.match(body):
        raise _Unreadable(f"the address {format_value(body, 100)}", NOT_FETCHED)
    if len(body) <= MAX_NAME_LENGTH and FILE_NAME.fullmatch(body):
        raise _Unreadable(f"the name of a file, {format_value(body, 100)}", NOT_FETCHED)
    body = body.removeprefix("b") if body[:2] in ("b'", 'b"') else body  # Python's repr() of bytes
    body = body[1:-1] if body[:1] in ("'", '"') and body[-1:] == body[:1] else body
    if "%" in body or "\\" in body:
        for escape, char in ESCAPES.items():
            body = body.replace(escape, char)
    body = _without_prefix(body).strip()
    foreign = NOT_ASCII.search(body)
    first = foreign[0] if foreign else body.encode().translate(None, ALPHABET + WHITE_SPACE)[:1].decode()  # far faster than re
    if first:
        char = first if first.isprintable() and first.isascii() else f"U+{ord(first):04X}"
        raise _Unreadable(f"base64 with the character {char} at {text.find(first)}")
    return _decode_ascii(body.encode())


def _without_prefix(body: str) -> str:
    """Removes what is before the data of a `data:` URL: `data:image/jpeg;charset=x;base64,`."""
    prefix, comma, _ = body[:MAX_PREFIX_LENGTH].partition(",")
    if comma and prefix.rstrip().lower().endswith("base64"):
        return body[len(prefix) + 1 :]
    if prefix.lower().startswith("data:"):
        found = format_value(prefix if comma else body, 60)
        raise _Unreadable(f"a data: URL without ;base64, before its data, {found}", "Write data:image/jpeg;base64,...")
    return body


def _decode_ascii(body: bytes) -> bytes:
    if b" " in body and not _is_folded(body):
        found = f"base64 with a space at {body.index(b' ')}, where a + may have been"
        raise _Unreadable(found, "A form turns + into a space: encode it as %2B, or send JSON.")
    compact = body.translate(URL_SAFE, WHITE_SPACE)
    content = compact.rstrip(b"=")
    if b"=" in content:
        raise _Unreadable(f"base64 that goes on after its padding at {content.index(b'=')}", "Send one image in each instance.")
    if len(content) % 4 == 1:
        raise _Unreadable(f"base64 of {len(content)} characters, one too many or too few", "Send all of it.")
    return binascii.a2b_base64(content + b"=" * (-len(content) % 4))


def _is_folded(body: bytes) -> bool:
    """Returns whether the spaces of base64 separate its lines: they are beside line breaks, or at regular distances."""
    if b"\n" in body or b"\r" in body:
        return not SPACE_WITHIN_LINE.search(body)
    width = body.index(b" ")
    at_ends = body[width :: width + 1]
    return width % 4 == 0 and len(at_ends) == at_ends.count(b" ") == body.count(b" ")


def _check_meant_as_base64(text: str, decoded: bytes) -> None:
    """Recognizes what decodes as base64 but is something else, or holds something else than an image.

    Raises:
        _Unreadable: it is; what else does not hold an image is left to the check of images.
    """
    if not decoded:
        raise _Unreadable("an empty text")
    if HEXADECIMAL.fullmatch(text):
        raise _Unreadable("hexadecimal digits")
    for start, kind in OTHER_STARTS.items():
        if decoded.startswith(start):
            remedy = "Encode the file once." if kind == "base64" else NOT_FETCHED if kind == "an address" else SEND_BASE64
            raise _Unreadable(f"base64 of {kind}", remedy)
