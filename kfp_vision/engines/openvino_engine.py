"""OpenVINO: a third of TensorFlow's memory, a tenth of its start, and bfloat16 where the processor has it."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kfp_vision.core import numpy_faults
from kfp_vision.dataset.images import Rejected
from kfp_vision.engines import cropping
from kfp_vision.engines.engine import (
    OPENVINO,
    OPENVINO_FILE,
    OPENVINO_FLOAT32,
    OPENVINO_HEAD_FILE,
    OPENVINO_INT8,
    Evidence,
    Sight,
    does_not_load,
)
from kfp_vision.engines.openvino_model import CompiledModel
from kfp_vision.engines.openvino_runtime import openvino
from kfp_vision.repository.version import Version

if TYPE_CHECKING:
    import numpy.typing as npt


class OpenVinoEngine:
    """A version computed by OpenVINO on the processor; see `engine.Engine`.

    Args:
        version: a version with a file for OpenVINO.
        bfloat16: whether to compute in bfloat16, else in float32.
        quantized: a file that computes scores from pixels of whole levels, mostly in int8; None to use that of the version.

    Raises:
        InputError: a file does not load.
    """

    def __init__(self, version: Version, *, bfloat16: bool, quantized: Path | None = None):
        precision = "bfloat16" if bfloat16 else "float32"
        self.name = OPENVINO_INT8 if quantized else OPENVINO if bfloat16 else OPENVINO_FLOAT32
        self.description = (
            f"OpenVINO {openvino.__version__.partition('-')[0]}, {'int8, without known' if quantized else precision}"
        )
        self._whole = _compile(version.folder / OPENVINO_FILE, bfloat16=bfloat16)
        self._scores = _compile(quantized, bfloat16=bfloat16) if quantized else self._whole
        self.crop_size, self._shape = self._whole.size, version.crop
        self._head = _read_head(version)
        if self._head is not None and not _fits(self._head, self._whole):
            raise does_not_load(version.folder, ValueError(f"{OPENVINO_HEAD_FILE} is not of this network"))

    @property
    def has_embeddings(self) -> bool:
        """See `engine.Engine`: always."""
        return True

    def prepare(self, image: bytes, max_pixels: int) -> "npt.NDArray[np.float32] | Rejected":
        """See `engine.Engine`: the same as `crop`."""
        return self.crop(image, max_pixels)

    def scores(self, prepared: "Sequence[npt.NDArray[np.float32]]") -> "npt.NDArray[np.float32]":
        """See `engine.Engine`."""
        return self._scores.compute(prepared, "probabilities")[0]

    @property
    def has_both_in_one_pass(self) -> bool:
        """See `engine.Engine`: unless the scores come from a quantized file, which has no embeddings."""
        return self._scores is self._whole

    def scores_and_embeddings(
        self, prepared: "Sequence[npt.NDArray[np.float32]]"
    ) -> "tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]":
        """See `engine.Engine`."""
        scores, embeddings = self._whole.compute(prepared, "probabilities", "embedding")
        return scores, embeddings

    def crop(self, image: bytes, max_pixels: int) -> "npt.NDArray[np.float32] | Rejected":
        """See `engine.Engine`; a crop is float32 (crop_size, crop_size, 3), RGB from 0 to 255."""
        try:
            return cropping.crop_floats(image, self.crop_size, max_pixels, self._shape)
        except Rejected as reason:
            return reason

    def embeddings(self, crops: "Sequence[npt.NDArray[np.float32]]") -> "npt.NDArray[np.float32]":
        """See `engine.Engine`."""
        return self._whole.compute(crops, "embedding")[0]

    @property
    def has_maps(self) -> bool:
        """See `engine.Engine`."""
        return self._head is not None

    def look(self, image: bytes, max_pixels: int) -> Sight | Rejected:
        """See `engine.Engine`."""
        try:
            crop, sides = cropping.crop_and_measure(image, self.crop_size, max_pixels, self._shape)
        except Rejected as reason:
            return reason
        return Sight(crop, sides, cropping.central_window(sides, self._shape))

    def explain(self, crops: "Sequence[npt.NDArray[np.float32]]") -> list[Evidence]:
        """See `engine.Engine`; the scores are those of the version's own file, also where a quantized one gives the others."""
        assert self._head is not None
        parts = zip(*self._whole.compute(crops, "probabilities", "embedding", "feature_map"), strict=True)
        return [Evidence(scores, embedding, partial(_class_maps, one, self._head)) for scores, embedding, one in parts]


def _compile(file: Path, *, bfloat16: bool) -> CompiledModel:
    try:
        return CompiledModel(file, bfloat16=bfloat16)
    except RuntimeError as error:
        raise does_not_load(file.parent.parent, error) from None


def _read_head(version: Version) -> "npt.NDArray[np.float32] | None":
    """Returns the kernel of a version's classification head, (width, classes); None if it has no class activation maps."""
    try:
        return np.load(version.folder / OPENVINO_HEAD_FILE)  # type: ignore[no-any-return]
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError) as error:
        fault = f"{OPENVINO_HEAD_FILE}: {numpy_faults.describe(error)}"
        raise does_not_load(version.folder, ValueError(fault)) from None


def _fits(head: "npt.NDArray[np.float32]", model: CompiledModel) -> bool:
    """Returns whether a kernel goes from the channels of the feature map to the classes."""
    return head.shape == (model.width("feature_map"), model.width("probabilities")) and bool(np.isfinite(head).all())


def _class_maps(
    feature_map: "npt.NDArray[np.float32]", head: "npt.NDArray[np.float32]", numbers: Sequence[int]
) -> "npt.NDArray[np.float32]":
    return np.moveaxis(feature_map @ head[:, list(numbers)], -1, 0)
