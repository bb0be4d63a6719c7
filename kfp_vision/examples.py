"""Serializes `tf.train.Example` messages without TensorFlow, and without copying the image in them.

Sources: tensorflow/core/example/{example,feature}.proto, and https://protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Mapping
from functools import lru_cache

# Tags of Example.features and of an entry of Features.feature, then of an entry's key and value.
FEATURES, FEATURE = b"\x0a", b"\x0a"
KEY, VALUE = b"\x0a", b"\x12"
# From the inside out: BytesList.value, Feature.bytes_list, the entry's value; Int64List.value, Feature.int64_list, the same.
AROUND_TEXT, AROUND_NUMBER = (b"\x0a", b"\x0a", VALUE), (b"\x0a", b"\x1a", VALUE)
LONG = 1 << 10  # bytes from which a value is passed on as a piece instead of copied
REMEMBERED = 1 << 12  # cached headers and numbers: images repeat sizes and classes


def serialised(features: Mapping[str, bytes | int]) -> list[bytes]:
    """Serializes an example with one value per feature.

    The result equals protobuf's deterministic serialization, except if one feature name is a prefix of another: protobuf
    sorts those differently.

    Args:
        features: name to bytes, or to an integer from 0.

    Returns:
        Pieces to be joined; long values are pieces of their own, not copied.
    """
    pieces = [b""]
    for name in sorted(features):
        value = features[name]
        content, wrappers = (value, AROUND_TEXT) if isinstance(value, bytes) else (_varint(value), AROUND_NUMBER)
        pieces[-1] += _header(name, wrappers, len(content))
        if len(content) < LONG:
            pieces[-1] += content
        else:
            pieces += (content, b"")
    return [FEATURES + _varint(sum(map(len, pieces))) + pieces[0], *pieces[1:]]


@lru_cache(REMEMBERED)
def _header(name: str, wrappers: tuple[bytes, ...], length: int) -> bytes:
    """The bytes before a value of a given length: the tag and length of each message around it."""
    header = b""
    for tag in wrappers:
        header = tag + _varint(len(header) + length) + header
    key = KEY + _varint(len(name.encode())) + name.encode()
    return FEATURE + _varint(len(key) + len(header) + length) + key + header


@lru_cache(REMEMBERED)
def _varint(number: int) -> bytes:
    """Seven bits per byte, the lowest first; every byte but the last has its highest bit set."""
    if number < 128:
        return bytes((number,))
    return bytes((number & 127 | 128,)) + _varint(number >> 7)
