"""Classifies images with an exported file, for `kfp-vision predict --model FILE`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kfp_vision.core.crop_shapes import STRETCHED
from kfp_vision.dataset.images import MAX_PIXELS, Rejected
from kfp_vision.engines import cropping
from kfp_vision.exports import runtimes
from kfp_vision.prediction.classifier import Answer, apply_to_valid, make_prediction


class FileClassifier:
    """An exported file, loaded into this process; an `ImageClassifier`.

    Args:
        file: a `.tflite`, `.onnx` or `.xml` file.

    Attributes:
        labels: class names, in the order of their numbers.
        thresholds: the probability from which on an image has each label; empty for a model of one label.

    Raises:
        InputError: its runtime is not installed, or does not load it, or it was not exported by this library.
    """

    def __init__(self, file: Path):
        self._file = runtimes.open_file(file)
        self.labels: list[str] = self._file.metadata["labels"]
        self.thresholds: list[float] = self._file.metadata.get("thresholds", [])
        self._size: int = self._file.metadata["image_size"]
        self._shape: str = self._file.metadata.get("crop", STRETCHED)

    def classify(self, images: Sequence[bytes]) -> list[Answer]:
        """Classifies images; a damaged one does not affect the others.

        Args:
            images: encoded images, in any format.

        Returns:
            For each image its prediction, or why it was rejected.
        """
        return apply_to_valid(self._classify_crops, (self._crop(image) for image in images))

    def _crop(self, image: bytes) -> Any | Rejected:
        try:
            return cropping.crop(image, self._size, MAX_PIXELS, self._shape)
        except Rejected as reason:
            return reason

    def _classify_crops(self, crops: Sequence[Any]) -> list[Answer]:
        rows = (self._file.probabilities(crop[None])[0] for crop in crops)
        return [make_prediction(self.labels, self.thresholds, row) for row in rows]
