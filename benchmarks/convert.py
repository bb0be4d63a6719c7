"""Pictures to TFRecords, every one fully checked, against a loop over TensorFlow's own decoder and writer."""

import contextlib
import io
import tempfile
import time
from pathlib import Path

import tensorflow as tf

from benchmarks.measure import Figure, compare
from kfp_vision import catalog, records, sample, splitting

PICTURES_A_CLASS = 60


def run() -> list[Figure]:
    """The rows of this benchmark."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for name in sample.names():
            if int(Path(name).stem) <= PICTURES_A_CLASS:
                (root / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
                (root / "photos" / name).write_bytes(sample.draw(name))
        rows = catalog.scan(str(root / "photos")).rows
        return [
            compare(
                "convert_checked",
                "tf.io.decode_image, TFRecordWriter",
                "img/s",
                lambda: ours(root, rows),
                lambda: peer(root, rows),
            )
        ]


def ours(root: Path, rows: list[catalog.Row]) -> float:
    """Pictures a second of `write_tfrecords`."""
    tables = {split: root / f"{split}.csv" for split in splitting.SPLITS}
    for split, table in tables.items():
        catalog.write(table, rows if split == "train" else [])
    (root / "labels").mkdir(exist_ok=True)
    splitting.write_labels(root / "labels", sorted({row.label for row in rows}))
    outputs = {split: root / "ours" / split for split in splitting.SPLITS}
    start = time.perf_counter()
    limits = {"images_per_shard": 1000, "max_refused_ratio": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):
        records.write_tfrecords(tables, root / "labels", outputs, root / "refused.csv", **limits)
    return len(rows) / (time.perf_counter() - start)


def peer(root: Path, rows: list[catalog.Row]) -> float:
    """Pictures a second of a loop that decodes each picture with TensorFlow and writes its bytes."""
    labels = sorted({row.label for row in rows})
    start = time.perf_counter()
    with tf.io.TFRecordWriter(str(root / "peer.tfrecord")) as writer:
        for row in rows:
            encoded = Path(row.uri).read_bytes()
            height, width, _ = tf.io.decode_image(encoded, channels=3).shape
            feature = {
                "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded])),
                "image/format": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"jpeg"])),
                "image/class/label": _number(labels.index(row.label)),
                "image/height": _number(height),
                "image/width": _number(width),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    return len(rows) / (time.perf_counter() - start)


def _number(value: int) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
