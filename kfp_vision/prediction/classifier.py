"""A model loaded in this process that classifies images."""

import io
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from kfp_vision.core.errors import InputError
from kfp_vision.dataset.images import MAX_PIXELS, Rejected, validate_image
from kfp_vision.repository.version import Version

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Prediction:
    """The classification of an image.

    Attributes:
        label: Label of the most probable class.
        number: Number of that class.
        probabilities: Probability of every class, in the order of their numbers.
    """

    label: str
    number: int
    probabilities: list[float]

    @property
    def score(self) -> float:
        """Probability of the most probable class."""
        return self.probabilities[self.number]


Answer = Prediction | Rejected
AnswerT = TypeVar("AnswerT")  # what a request returns for an image


class ImageClassifier(Protocol):
    """A classifier of images: a model in this process (`Classifier`), or a server (`ServingClient`)."""

    def classify(self, images: Sequence[bytes]) -> list[Answer]:
        """Classifies images.

        Args:
            images: Encoded images.

        Returns:
            For each image its prediction, or why it was rejected.
        """


class Classifier:
    """An exported model, loaded into this process; a trial image checks that it answers.

    Args:
        version: The SavedModel with its metadata.
        max_pixels: Larger images are rejected.

    Attributes:
        labels: Labels of the classes, in the order of their numbers.
        max_pixels: Larger images are rejected.

    Raises:
        InputError: The model does not load, or its answers do not match its metadata.

    Example:
        classifier = Classifier(exported_version(Path("runs/flowers/model")))
        (answer,) = classifier.classify([Path("daisy.jpg").read_bytes()])
        print(answer if isinstance(answer, Refused) else f"{answer.label}: {answer.score:.3f}")
    """

    def __init__(self, version: Version, max_pixels: int = MAX_PIXELS):
        self.labels, self.max_pixels = version.labels, max_pixels
        tf = import_tensorflow()
        self._constant, self._stack, self._rejection = tf.constant, tf.stack, tf.errors.InvalidArgumentError
        try:
            self._loaded = tf.saved_model.load(str(version.folder))  # a reference to the signature does not keep its variables
            self._signature = self._loaded.signatures["serving_default"]
            scores = self.probabilities([_grey()])
        except Exception as error:  # TensorFlow raises many types for files that are not a model
            found = f"{version.folder} ({' '.join(str(error).split())[:200]})"
            raise InputError("a model must load and answer", found, "Train or export it again.") from None
        if scores.shape != (1, len(self.labels)):
            found = f"{scores.shape[-1]} scores for {len(self.labels)} labels in {version.folder}"
            raise InputError("a model must give one score per label", found, "Train or export it again.")
        if not math.isfinite(scores.sum()):
            found = f"{scores[0].tolist()} from {version.folder}"
            raise InputError("a model must give finite scores", found, "Train it again.")

    @property
    def crop_size(self) -> int:
        """Height and width in pixels of the input of signature `pixels`; 0 if the model has no such signature."""
        pixels = self._loaded.signatures.get("pixels")
        if not pixels or "images" not in pixels.structured_input_signature[1]:
            return 0
        _, height, width, channels = pixels.structured_input_signature[1]["images"].shape
        return height if height == width and channels == 3 else 0

    @property
    def has_embeddings(self) -> bool:
        """True if the model has a signature `embed`; exports of early versions of this library do not."""
        return bool(self.crop_size) and "embed" in self._loaded.signatures

    def make_cropper(self) -> Callable[[bytes], Any]:
        """Compiles a function that decodes and crops images for `classify_crops` and `embed_crops`.

        Returns:
            A thread-safe function from an encoded image, as `to_decodable` returns it, to its crop or why it is rejected.
        """
        import tensorflow as tf

        from kfp_vision.networks import decoding

        size = self.crop_size
        graph = tf.function(lambda encoded: decoding.central_crop(encoded, size))
        graph = graph.get_concrete_function(tf.TensorSpec((), tf.string))

        def crop(encoded: bytes) -> Any:
            try:
                return graph(tf.constant(encoded))
            except tf.errors.InvalidArgumentError as error:
                return damaged_image(error)

        return crop

    def probabilities(self, encoded: Sequence[bytes]) -> "npt.NDArray[np.float32]":
        """Computes the probabilities of all classes, without checking the images.

        Args:
            encoded: Images that TensorFlow can decode.

        Returns:
            Probabilities, float32 (images, classes).
        """
        probabilities: npt.NDArray[np.float32]
        probabilities = self._signature(image_bytes=self._constant(encoded))["probabilities"].numpy()
        return probabilities

    def classify(self, images: Sequence[bytes]) -> list[Answer]:
        """Classifies images; a damaged one does not affect the others.

        Args:
            images: Encoded images, in any format.

        Returns:
            For each image its prediction, or why it was rejected.
        """
        return apply_to_valid(self.classify_valid, (to_decodable(image, self.max_pixels) for image in images))

    def classify_valid(self, encoded: list[bytes]) -> list[Answer]:
        """Classifies images that have passed `to_decodable`.

        Args:
            encoded: Images as `to_decodable` returns them.

        Returns:
            For each image its prediction, or why TensorFlow rejected it.
        """
        if not encoded:
            return []
        try:
            return [self._prediction(row) for row in self.probabilities(encoded)]
        except self._rejection as error:  # TensorFlow is stricter than Pillow, and its error does not name the image
            if len(encoded) == 1:
                return [damaged_image(error)]
            middle = len(encoded) // 2
            return self.classify_valid(encoded[:middle]) + self.classify_valid(encoded[middle:])

    def classify_crops(self, crops: Sequence[Any]) -> list[Prediction]:
        """Classifies crops.

        Args:
            crops: Tensors, float32 (crop_size, crop_size, 3), RGB from 0 to 255.

        Returns:
            One prediction per crop.
        """
        scores = self._loaded.signatures["pixels"](images=self._stack(crops))["probabilities"].numpy()
        return [self._prediction(row) for row in scores]

    def embed_crops(self, crops: Sequence[Any]) -> "npt.NDArray[np.float32]":
        """Computes embeddings, the normalized inputs of the classification head; see `export.write_saved_model`.

        Args:
            crops: Tensors, float32 (crop_size, crop_size, 3), RGB from 0 to 255.

        Returns:
            Embeddings, float32 (crops, dimension), of length 1.
        """
        embeddings: npt.NDArray[np.float32]
        embeddings = self._loaded.signatures["embed"](images=self._stack(crops))["embedding"].numpy()
        return embeddings

    def _prediction(self, row: "npt.NDArray[np.float32]") -> Prediction:
        number = int(row.argmax())
        return Prediction(self.labels[number], number, row.tolist())


def apply_to_valid(
    function: Callable[[list[bytes]], list[AnswerT | Rejected]], images: Iterable[bytes | Rejected]
) -> list[AnswerT | Rejected]:
    """Applies a function to those images that have not been rejected yet, in one call.

    Args:
        function: Function from encoded images to a result for each.
        images: Encoded images, or why they were rejected.

    Returns:
        For each image the result, or why it was rejected.
    """
    every = list(images)
    outcomes = iter(function([image for image in every if not isinstance(image, Rejected)]))
    return [image if isinstance(image, Rejected) else next(outcomes) for image in every]


def to_decodable(image: bytes, max_pixels: int) -> bytes | Rejected:
    """Checks an image and re-encodes it if TensorFlow cannot decode its format.

    Args:
        image: Encoded image.
        max_pixels: Larger images are rejected.

    Returns:
        The image in a format that TensorFlow decodes, or why it is rejected.
    """
    try:
        return validate_image(image, max_pixels).encoded
    except Rejected as reason:
        return reason


def damaged_image(error: Any) -> Rejected:
    """Returns the rejection of an image that passed Pillow but not TensorFlow.

    Args:
        error: TensorFlow's error.
    """
    return Rejected(f"damaged ({str(error.message).splitlines()[0][:100]})")


def import_tensorflow() -> Any:
    """Imports TensorFlow without the lines that it writes to stderr before any log level takes effect."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            import tensorflow
        except BaseException:
            captured.seek(0)
            with open(stderr, "wb", closefd=False) as output:
                shutil.copyfileobj(captured, output)
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
    return tensorflow


def _grey() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (32, 32), (128, 128, 128)).save(file, "PNG")
    return file.getvalue()
