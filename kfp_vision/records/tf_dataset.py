"""Reads TFRecord files as a tf.data.Dataset."""

from pathlib import Path

import tensorflow as tf

from kfp_vision.records.folder import read_records_info


def encoded_records(folder: Path) -> tf.data.Dataset:
    """Reads the serialized examples of a folder of records, in the order of the shards.

    Args:
        folder: of records.

    Returns:
        Scalar strings.
    """
    return tf.data.TFRecordDataset([str(folder / shard) for shard in read_records_info(folder).shards])
