"""A `tf.train.Example` as bytes, written without TensorFlow and without a copy of the picture in it.

Sources: tensorflow/core/example/{example,feature}.proto, and https://protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Mapping
from functools import lru_cache

FEATURES, FEATURE = b"\x0a", b"\x0a"  # Example.features, an entry of Features.feature
KEY, VALUE = b"\x0a", b"\x12"  # of an entry
# From the inside out: BytesList.value, Feature.bytes_list, the entry's value; Int64List.value, Feature.int64_list, the same.
AROUND_TEXT, AROUND_NUMBER = (b"\x0a", b"\x0a", VALUE), (b"\x0a", b"\x1a", VALUE)
LONG = 1 << 10  # bytes: dearer to copy than to hand on
REMEMBERED = 1 << 12  # sizes and numbers come again from picture to picture


def serialised(features: Mapping[str, bytes | int]) -> list[bytes]:
    """An example with one value a feature, in pieces: what is long is one by itself.

    Joined, the pieces are what protobuf's deterministic serialisation gives; but where one name begins with another, protobuf
    sorts otherwise.

    Args:
        features: name to bytes, or to a whole number from 0.
    """
    pieces = [b""]
    for name in sorted(features):
        value = features[name]
        text, around = (value, AROUND_TEXT) if isinstance(value, bytes) else (_varint(value), AROUND_NUMBER)
        pieces[-1] += _before(name, around, len(text))
        if len(text) < LONG:
            pieces[-1] += text
        else:
            pieces += (text, b"")
    return [FEATURES + _varint(sum(map(len, pieces))) + pieces[0], *pieces[1:]]


@lru_cache(REMEMBERED)
def _before(name: str, around: tuple[bytes, ...], length: int) -> bytes:
    """What stands before a value of so many bytes: each message around it begins with its tag and the length of the rest."""
    before = b""
    for tag in around:
        before = tag + _varint(len(before) + length) + before
    key = KEY + _varint(len(name.encode())) + name.encode()
    return FEATURE + _varint(len(key) + len(before) + length) + key + before


@lru_cache(REMEMBERED)
def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; every byte but the last has its highest bit set."""
    if number < 128:
        return bytes((number,))
    return bytes((number & 127 | 128,)) + _varint(number >> 7)
