"""The peer of the conversion, like TF-Slim's script for the flowers: a TensorFlow 1 session decodes one image after another."""

import time
from pathlib import Path

import tensorflow as tf

SHARDS = 5


class Converter:
    """Converts images with a TensorFlow 1 session, started once; must be closed."""

    def __init__(self) -> None:
        with tf.Graph().as_default():
            self._encoded = tf.compat.v1.placeholder(tf.string, ())
            self._pixels = tf.io.decode_jpeg(self._encoded, channels=3)
            self._session = tf.compat.v1.Session()

    def close(self) -> None:
        """Closes the session."""
        self._session.close()

    def convert(self, photographs: Path, output: Path) -> float:
        """Converts the JPEGs of a folder of class folders to `SHARDS` files.

        Args:
            photographs: folder of class folders.
            output: existing folder for the files.

        Returns:
            Images per second.
        """
        labels = sorted(path.name for path in photographs.iterdir())
        images = [(path, labels.index(path.parent.name)) for path in sorted(photographs.glob("*/*.jpg"))]
        start = time.perf_counter()
        for shard in range(SHARDS):
            name = f"flowers_train_{shard:05d}-of-{SHARDS:05d}.tfrecord"
            with tf.io.TFRecordWriter(str(output / name)) as writer:
                for path, number in images[shard::SHARDS]:
                    writer.write(self._example(path.read_bytes(), number))
        return len(images) / (time.perf_counter() - start)

    def _example(self, encoded: bytes, number: int) -> bytes:
        height, width, _ = self._session.run(self._pixels, {self._encoded: encoded}).shape
        texts = {"image/encoded": encoded, "image/format": b"jpg"}
        numbers = {"image/class/label": number, "image/height": height, "image/width": width}
        feature = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[text])) for name, text in texts.items()}
        for name, value in numbers.items():
            feature[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        return bytes(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
