"""Classifies images with an exported file, for `kfp-vision predict --model FILE`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kfp_vision.dataset.images import MAX_PIXELS
from kfp_vision.exports import crops, runtimes
from kfp_vision.prediction.classifier import (
    Answer,
    Prediction,
    apply_to_valid,
    damaged_image,
    import_tensorflow,
    to_decodable,
)


class FileClassifier:
    """An exported file, loaded into this process; an `ImageClassifier`.

    Args:
        file: a `.tflite`, `.onnx` or `.xml` file.

    Attributes:
        labels: class names, in the order of their numbers.

    Raises:
        InputError: its runtime is not installed, or does not load it, or it was not exported by this library.
    """

    def __init__(self, file: Path):
        self._tensorflow = import_tensorflow()
        self._file = runtimes.open_file(file)
        self.labels: list[str] = self._file.metadata["labels"]
        self._size: int = self._file.metadata["image_size"]

    def classify(self, images: Sequence[bytes]) -> list[Answer]:
        """Classifies images; a damaged one does not affect the others.

        Args:
            images: encoded images, in any format.

        Returns:
            For each image its prediction, or why it was rejected.
        """
        return apply_to_valid(self._classify_valid, (to_decodable(image, MAX_PIXELS) for image in images))

    def _classify_valid(self, encoded: list[bytes]) -> list[Answer]:
        return [self._classify_one(image) for image in encoded]

    def _classify_one(self, encoded: bytes) -> Answer:
        from kfp_vision.networks import decoding  # imports TensorFlow, which is kept quiet by then

        tf = self._tensorflow
        try:
            crop = crops.round_pixels(decoding.central_crop(tf.constant(encoded), self._size))
        except tf.errors.InvalidArgumentError as error:  # TensorFlow is stricter than Pillow
            return damaged_image(error)
        (row,) = self._file.probabilities(crop[None])
        number = int(np.argmax(row))
        return Prediction(self.labels[number], number, row.tolist())
