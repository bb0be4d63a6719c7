"""Serialises rows as tf.train.Example, without TensorFlow."""

from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any, NamedTuple

from kfp_vision.dataset.images import ValidImage
from kfp_vision.dataset.table import LABEL_SEPARATOR, ImageRow

# Tags of Example.features and of an entry of Features.feature, then of an entry's key and value.
FEATURES_TAG, FEATURE_TAG = b"\x0a", b"\x0a"
KEY_TAG, VALUE_TAG = b"\x0a", b"\x12"
# From the inside out: BytesList.value, Feature.bytes_list, the entry's value; Int64List.value, Feature.int64_list, the same.
BYTES_WRAPPERS, INT64_WRAPPERS = (b"\x0a", b"\x0a", VALUE_TAG), (b"\x0a", b"\x1a", VALUE_TAG)
MIN_PIECE_BYTES = 1 << 10  # bytes from which a value is passed on as a piece instead of copied
CACHE_ENTRIES = 1 << 12  # cached headers and numbers: images repeat sizes and classes


def serialize_features(features: Mapping[str, bytes | int]) -> list[bytes]:
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
        content, wrappers = (value, BYTES_WRAPPERS) if isinstance(value, bytes) else (_varint(value), INT64_WRAPPERS)
        pieces[-1] += _header(name, wrappers, len(content))
        if len(content) < MIN_PIECE_BYTES:
            pieces[-1] += content
        else:
            pieces += (content, b"")
    return [FEATURES_TAG + _varint(sum(map(len, pieces))) + pieces[0], *pieces[1:]]


@lru_cache(CACHE_ENTRIES)
def _header(name: str, wrappers: tuple[bytes, ...], length: int) -> bytes:
    """The bytes before a value of a given length: the tag and length of each message around it."""
    header = b""
    for tag in wrappers:
        header = tag + _varint(len(header) + length) + header
    key = KEY_TAG + _varint(len(name.encode())) + name.encode()
    return FEATURE_TAG + _varint(len(key) + len(header) + length) + key + header


@lru_cache(CACHE_ENTRIES)
def _varint(number: int) -> bytes:
    """Seven bits per byte, the lowest first; every byte but the last has its highest bit set."""
    if number < 128:
        return bytes((number,))
    return bytes((number & 127 | 128,)) + _varint(number >> 7)


CLASS_FIELD = "image/class/label"
LABEL_FIELD = "image/class/text"
TEXT_FIELDS = ("image/filename", "image/encoded")
NO_CLASS = -1  # number of the class of an image without labels


class RecordFields(NamedTuple):
    """The fields of a record.

    Attributes:
        name: of the image.
        encoded: the image.
        label: of the class; of an image with several, all of them as `table.join_labels` gives them, in the order of their
            numbers.
        number: of the class; of an image with several, the first, and -1 without any.
        height: of the image in pixels.
        width: of the image in pixels.
        numbers: of all classes of the image, ascending.
    """

    name: str
    encoded: bytes
    label: str
    number: int
    height: int
    width: int
    numbers: tuple[int, ...] = ()


def decode_example(record: bytes) -> tuple[str, bytes, str]:
    """Parses a record without TensorFlow.

    Args:
        record: a serialized example.

    Returns:
        (name, encoded image, label), the label as in `RecordFields`.
    """
    feature = example_message().FromString(record).features.feature
    name, encoded = (feature[field].bytes_list.value[0] for field in TEXT_FIELDS)
    return name.decode(), encoded, _read_label(feature)


def _read_label(feature: Any) -> str:
    return LABEL_SEPARATOR.join(label.decode() for label in feature[LABEL_FIELD].bytes_list.value)


def decode_fields(record: bytes) -> RecordFields:
    """Parses all fields of a record for a classifier without TensorFlow.

    Args:
        record: a serialized example.

    Returns:
        The fields.
    """
    feature = example_message().FromString(record).features.feature
    name, encoded = (feature[field].bytes_list.value[0] for field in TEXT_FIELDS)
    height, width = (feature[field].int64_list.value[0] for field in ("image/height", "image/width"))
    numbers = tuple(feature[CLASS_FIELD].int64_list.value)
    number = numbers[0] if numbers else NO_CLASS
    return RecordFields(name.decode(), encoded, _read_label(feature), number, height, width, numbers)


def encode_example(row: ImageRow, image: ValidImage, number: int) -> list[bytes]:
    """Serializes an image as a `tf.train.Example` with TF-Slim's fields, `image/class/text` and `image/filename`.

    Args:
        row: label and name of the image.
        image: what the record holds.
        number: of the class.

    Returns:
        The pieces of the record; joined they are the serialized example.
    """
    return serialize_features(
        {
            "image/encoded": image.encoded,
            "image/format": image.format.encode(),
            CLASS_FIELD: number,
            LABEL_FIELD: row.label.encode(),
            "image/filename": row.name.encode(),
            "image/height": image.height,
            "image/width": image.width,
        }
    )


def encode_several_labels(row: ImageRow, image: ValidImage, number_of: Mapping[str, int]) -> list[bytes]:
    """Serializes an image with any number of labels: as `encode_example`, but with lists of classes, ascending by number.

    Args:
        row: labels and name of the image.
        image: what the record holds.
        number_of: number of each label.

    Returns:
        The pieces of the record, as of `encode_example`.
    """
    labels = sorted(row.labels, key=number_of.__getitem__)
    features: dict[str, list[bytes] | list[int] | list[float]] = {
        "image/encoded": [image.encoded],
        "image/format": [image.format.encode()],
        CLASS_FIELD: [number_of[label] for label in labels],
        LABEL_FIELD: [label.encode() for label in labels],
        "image/filename": [row.name.encode()],
        "image/height": [image.height],
        "image/width": [image.width],
    }
    return [encode_list_example(features)]


def encode_list_example(features: dict[str, list[bytes] | list[int] | list[float]]) -> bytes:
    """Serializes a `tf.train.Example` with lists of values.

    Args:
        features: field name to its values; an empty list gives a field without values, which parsers accept as any type.

    Returns:
        The serialized example.
    """
    message = example_message()()
    for name, values in features.items():
        feature = message.features.feature[name]
        if values:
            typed_list = {bytes: feature.bytes_list, int: feature.int64_list, float: feature.float_list}[type(values[0])]
            typed_list.value.extend(values)
    return bytes(message.SerializeToString(deterministic=True))


@cache
def example_message() -> Any:
    """Builds the message class of `tf.train.Example`; importing TensorFlow for it would take seconds."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    types = descriptor_pb2.FieldDescriptorProto
    package = "kfp_vision_records"
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")

    def add(message: Any, name: str, number: int, kind: int, of: str = "", repeated: bool = False) -> None:
        label = types.LABEL_REPEATED if repeated else types.LABEL_OPTIONAL
        added = message.field.add(name=name, number=number, type=kind, label=label)
        if of:
            added.type_name = f".{package}.{of}"

    add(file.message_type.add(name="BytesList"), "value", 1, types.TYPE_BYTES, repeated=True)
    add(file.message_type.add(name="Int64List"), "value", 1, types.TYPE_INT64, repeated=True)
    add(file.message_type.add(name="FloatList"), "value", 1, types.TYPE_FLOAT, repeated=True)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    add(feature, "bytes_list", 1, types.TYPE_MESSAGE, "BytesList")
    add(feature, "float_list", 2, types.TYPE_MESSAGE, "FloatList")
    add(feature, "int64_list", 3, types.TYPE_MESSAGE, "Int64List")
    for member in feature.field:
        member.oneof_index = 0
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    add(entry, "key", 1, types.TYPE_STRING)
    add(entry, "value", 2, types.TYPE_MESSAGE, "Feature")
    add(features, "feature", 1, types.TYPE_MESSAGE, "Features.FeatureEntry", repeated=True)
    add(file.message_type.add(name="Example"), "features", 1, types.TYPE_MESSAGE, "Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.Example"))
