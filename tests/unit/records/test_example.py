"""Serialized examples equal those of TensorFlow's protobuf, byte for byte."""

import random

import pytest
import tensorflow as tf

from kfp_vision.records.example import serialize_features


def serialize_with_tensorflow(features: dict[str, bytes | int]) -> bytes:
    kinds = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        if isinstance(value, bytes)
        else tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        for name, value in features.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=kinds)).SerializeToString(deterministic=True)


# At each power of 128, a varint gets one byte longer, and so does the message that contains it.
EDGES = [edge + step for edge in (0, 128, 128**2, 128**3) for step in range(-40, 41) if edge + step >= 0]


@pytest.mark.parametrize("length", [*EDGES[:-1:3], 5_000_000])
def test_bytes_of_any_length_are_serialized_as_by_protobuf(length):
    features = {"image/encoded": bytes(length), "image/width": length}
    assert b"".join(serialize_features(features)) == serialize_with_tensorflow(features)


@pytest.mark.parametrize("number", [0, 1, 127, 128, 16383, 16384, 2**31, 2**32, 2**62, 2**63 - 1])
def test_integers_are_serialized_as_by_protobuf(number):
    assert b"".join(serialize_features({"a": number})) == serialize_with_tensorflow({"a": number})


def test_any_features_are_serialized_as_by_protobuf_and_parsed_by_tensorflow():
    chance = random.Random(0)
    for _ in range(300):
        features: dict[str, bytes | int] = {}
        for _ in range(chance.randrange(9)):
            name = (
                "".join(chance.choices("ab/花", k=chance.randrange(1, 200))) + "."
            )  # no name is a prefix of another: see the docstring
            features[name] = chance.randbytes(chance.randrange(400)) if chance.random() < 0.5 else chance.randrange(2**40)
        serialized = b"".join(serialize_features(features))
        assert serialized == serialize_with_tensorflow(features)
        parsed = tf.train.Example.FromString(serialized).features.feature
        assert {name: [*kind.bytes_list.value, *kind.int64_list.value] for name, kind in parsed.items()} == {
            name: [value] for name, value in features.items()
        }


def test_the_encoded_image_is_not_copied():
    encoded = bytes(10_000)
    assert any(piece is encoded for piece in serialize_features({"image/encoded": encoded, "image/format": b"jpeg"}))
