"""Reads TFRecord files as a tf.data.Dataset."""

from pathlib import Path

from kfp_vision.core.frameworks import tf
from kfp_vision.records.records_folder import read_records_info


def encoded_records(folder: Path) -> tf.data.Dataset:
    """Reads the serialized examples of a folder of records, in the order of the shards.

    Args:
        folder: of records.

    Returns:
        Scalar strings.
    """
    return tf.data.TFRecordDataset([str(folder / shard) for shard in read_records_info(folder).shards])


def parse_record(record: tf.Tensor, *, several: bool = False) -> dict[str, tf.Tensor]:
    """Parses the fields that a classifier needs.

    Args:
        record: a serialized example, scalar string.
        several: whether an image has any number of labels, as `RecordsInfo.several` says.

    Returns:
        Field name to scalar: encoded, format and filename as strings, label, height and width as int64. With `several`, the
        label is int64 (labels,): the numbers of the classes, ascending.
    """
    text, number = tf.io.FixedLenFeature((), tf.string), tf.io.FixedLenFeature((), tf.int64)
    schema = {"image/encoded": text, "image/format": text, "image/filename": text, "image/class/label": number}
    if several:
        schema["image/class/label"] = tf.io.FixedLenSequenceFeature((), tf.int64, allow_missing=True)
    features: dict[str, tf.Tensor] = tf.io.parse_single_example(
        record, schema | {"image/height": number, "image/width": number}
    )
    return features
