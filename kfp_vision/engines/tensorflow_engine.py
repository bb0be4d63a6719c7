"""TensorFlow: loads the SavedModel of a version, of this library or of any other tool."""

import io
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from kfp_vision.core import hardware
from kfp_vision.dataset.images import Rejected, validate_image
from kfp_vision.engines.cropping import central_window
from kfp_vision.engines.engine import TENSORFLOW, TENSORFLOW_BFLOAT16, Evidence, Sight, does_not_load
from kfp_vision.repository.version import Version

if TYPE_CHECKING:
    import numpy.typing as npt

    from kfp_vision.engines.bfloat16_graph import BFloat16Graph

EXPLAIN_OUTPUTS = ("probabilities", "embedding", "maps")  # of the signature `explain`
MAX_BFLOAT16_DIFFERENCE = 0.1  # of a probability in bfloat16, as `check_serving` allows
MAX_CROP_DIFFERENCE = 1e-3  # largest difference between the probabilities of an image and of its crop


class TensorFlowEngine:
    """A version computed by TensorFlow; see `engine.Engine`.

    Images are decoded and cropped one by one, so that a damaged image affects no other, and the crops are computed together.
    Where the version has no signature for crops, or crops images differently itself, it gets the encoded images.

    Args:
        version: a SavedModel with its metadata.
        bfloat16: whether to compute scores, and embeddings with them, in bfloat16, see `bfloat16_graph`. A version that cannot
            be computed so, or answers differently, is computed in float32, with a line that says so.

    Raises:
        InputError: it does not load.
    """

    def __init__(self, version: Version, *, bfloat16: bool = False):
        tf = _tensorflow()
        hardware.share_gpus()
        self._constant, self._stack, self._error = tf.constant, tf.stack, tf.errors.InvalidArgumentError
        try:
            self._loaded = tf.saved_model.load(str(version.folder))  # a reference to the signature does not keep its variables
            self._signatures = self._loaded.signatures
            self._encoded, self._shape = self._signatures["serving_default"], version.crop
            self.crop_size = _crop_size(self._signatures.get("pixels"))
            self._crop = _compile_crop(self.crop_size, version.crop) if self.crop_size else None
            self._bfloat16: BFloat16Graph | None = None
            self._takes_crops = bool(self._crop) and self._crops_alike()
        except Exception as error:  # TensorFlow raises many types for files that are not a model
            raise does_not_load(version.folder, error) from None
        self._bfloat16 = self._load_in_bfloat16(version) if bfloat16 else None
        self.name = TENSORFLOW_BFLOAT16 if self._bfloat16 else TENSORFLOW
        self.description = f"TensorFlow {tf.__version__}, {'bfloat16' if self._bfloat16 else 'float32'}"

    @property
    def has_embeddings(self) -> bool:
        """See `engine.Engine`."""
        return bool(self.crop_size) and "embed" in self._signatures

    def prepare(self, image: bytes, max_pixels: int) -> Any | Rejected:
        """See `engine.Engine`."""
        return self.crop(image, max_pixels) if self._takes_crops else to_decodable(image, max_pixels)

    def scores(self, prepared: Sequence[Any]) -> "npt.NDArray[np.float32]":
        """See `engine.Engine`."""
        return self._scores_of_crops(prepared) if self._takes_crops else self.scores_of_encoded(prepared)

    def scores_of_encoded(self, encoded: Sequence[bytes]) -> "npt.NDArray[np.float32]":
        """Computes probabilities by the signature that KServe's stock runtime calls, without checking the images.

        Args:
            encoded: images that TensorFlow can decode.

        Returns:
            Probabilities, float32 (images, classes).

        Raises:
            Rejected: TensorFlow cannot decode one of the images; it does not say which.
        """
        probabilities: npt.NDArray[np.float32] = self._answer_encoded(encoded)["probabilities"].numpy()
        return probabilities

    def labels_of_encoded(self, encoded: Sequence[bytes]) -> list[list[str]]:
        """Names images by the signature that KServe's stock runtime calls, where images have several labels.

        Args:
            encoded: images that TensorFlow can decode.

        Returns:
            Labels of each image, the most probable first.

        Raises:
            Rejected: TensorFlow cannot decode one of the images; it does not say which.
        """
        rows = self._answer_encoded(encoded)["labels"].numpy().tolist()
        return [[label.decode() for label in row if label] for row in rows]

    def _answer_encoded(self, encoded: Sequence[bytes]) -> Any:
        try:
            return self._encoded(image_bytes=self._constant(encoded))
        except self._error as error:
            raise damaged_image(error) from None

    @property
    def has_both_in_one_pass(self) -> bool:
        """See `engine.Engine`: exports of this release, whose signature `pixels` gives both."""
        return self._takes_crops and "embedding" in self._signatures["pixels"].structured_outputs

    def scores_and_embeddings(self, prepared: Sequence[Any]) -> "tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]":
        """See `engine.Engine`."""
        outputs = self._answer_crops(prepared)
        return outputs["probabilities"], outputs["embedding"]

    def crop(self, image: bytes, max_pixels: int) -> Any | Rejected:
        """See `engine.Engine`; a crop is a tensor, float32 (crop_size, crop_size, 3), RGB from 0 to 255."""
        assert self._crop
        encoded = to_decodable(image, max_pixels)
        if isinstance(encoded, Rejected):
            return encoded
        try:
            return self._crop(self._constant(encoded))
        except self._error as error:
            return damaged_image(error)

    def embeddings(self, crops: Sequence[Any]) -> "npt.NDArray[np.float32]":
        """See `engine.Engine`."""
        embeddings: npt.NDArray[np.float32] = self._signatures["embed"](images=self._stack(crops))["embedding"].numpy()
        return embeddings

    @property
    def has_maps(self) -> bool:
        """See `engine.Engine`; a signature `explain` of another tool may answer with anything else."""
        signature = self._signatures.get("explain") if self.crop_size else None
        return signature is not None and set(EXPLAIN_OUTPUTS) <= signature.structured_outputs.keys()

    def look(self, image: bytes, max_pixels: int) -> Sight | Rejected:
        """See `engine.Engine`."""
        assert self._crop
        try:
            valid = validate_image(image, max_pixels)
            crop = self._crop(self._constant(valid.encoded))
        except Rejected as reason:
            return reason
        except self._error as error:
            return damaged_image(error)
        sides = (valid.height, valid.width)
        return Sight(crop, sides, central_window(sides, self._shape))

    def explain(self, crops: Sequence[Any]) -> list[Evidence]:
        """See `engine.Engine`."""
        answers = self._signatures["explain"](images=self._stack(crops))
        parts = zip(*(answers[name].numpy() for name in EXPLAIN_OUTPUTS), strict=True)
        return [Evidence(scores, embedding, partial(np.take, maps, axis=0)) for scores, embedding, maps in parts]

    def _scores_of_crops(self, crops: Sequence[Any]) -> "npt.NDArray[np.float32]":
        return self._answer_crops(crops)["probabilities"]

    def _answer_crops(self, crops: Sequence[Any]) -> "dict[str, npt.NDArray[np.float32]]":
        images = self._stack(crops)
        if self._bfloat16:
            return self._bfloat16(images)
        return {name: values.numpy() for name, values in self._signatures["pixels"](images=images).items()}

    def _load_in_bfloat16(self, version: Version) -> "BFloat16Graph | None":
        """Returns the computation in bfloat16; None, with a line in the log, if there is none or it answers differently."""
        from kfp_vision.engines.bfloat16_graph import BFloat16Graph

        try:
            if not self._takes_crops:
                raise ValueError("it has no signature for crops")
            assert self._crop
            crops = self._stack([self._crop(self._constant(_noise("PNG")))])
            graph = BFloat16Graph(self._signatures["pixels"], compiled=hardware.has_gpu())
            difference = np.abs(graph(crops)["probabilities"] - self._signatures["pixels"](images=crops)["probabilities"])
            if not difference.max() <= MAX_BFLOAT16_DIFFERENCE:
                raise ValueError(f"its probabilities differ by {difference.max():.2g}")
        except Exception as error:  # TensorFlow raises many types for what it cannot compute
            reason = " ".join(str(error).split())[:200]
            print(f"computes {version.folder} in float32, since it is not computed in bfloat16: {reason}", flush=True)
            return None
        return graph

    def _crops_alike(self) -> bool:
        """Whether the version gives the same probabilities for crops as for whole images."""
        assert self._crop
        for image_format in ("JPEG", "PNG"):
            encoded = _noise(image_format)
            crop, whole = self._scores_of_crops([self._crop(self._constant(encoded))]), self.scores_of_encoded([encoded])
            if not np.abs(crop - whole).max() <= MAX_CROP_DIFFERENCE:
                return False
        return True


@cache
def _compile_crop(size: int, shape: str) -> Any:
    """Compiles the cropping once for all models of an image size and a shape of the crop: every trace takes a second."""
    from kfp_vision.core.frameworks import tf
    from kfp_vision.networks import decoding

    graph = tf.function(lambda encoded: decoding.central_crop(encoded, size, shape), autograph=False)
    return graph.get_concrete_function(tf.TensorSpec((), tf.string))


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


def _crop_size(pixels: Any) -> int:
    """Returns height and width in pixels of the input of signature `pixels`; 0 if there is no such signature."""
    if not pixels or "images" not in pixels.structured_input_signature[1]:
        return 0
    _, height, width, channels = pixels.structured_input_signature[1]["images"].shape
    return int(height) if height == width and channels == 3 else 0


def _tensorflow() -> Any:
    """Imports TensorFlow without the lines that it writes to stderr before any log level takes effect."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            from kfp_vision.core.frameworks import tf
        except BaseException:
            captured.seek(0)
            with open(stderr, "wb", closefd=False) as output:
                shutil.copyfileobj(captured, output)
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
    return tf


def _noise(image_format: str) -> bytes:
    """Encodes an image that reveals a different crop: coarse noise, larger than most networks' input, and not square."""
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(file, image_format)
    return file.getvalue()
