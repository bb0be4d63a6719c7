"""OpenVINO: a third of TensorFlow's memory, a tenth of its start, and bfloat16 where the processor has it."""

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kfp_vision.core import hardware
from kfp_vision.core.errors import InputError
from kfp_vision.dataset.images import Rejected
from kfp_vision.engines import cropping
from kfp_vision.engines.engine import OPENVINO, OPENVINO_FILE, OPENVINO_FLOAT32
from kfp_vision.engines.openvino_runtime import openvino, read_model
from kfp_vision.repository.version import Version

if TYPE_CHECKING:
    import numpy.typing as npt

# Images computed at a time: as fast as 32, in a fraction of the memory. The rest of a batch is computed in powers of two, since
# OpenVINO compiles some code for each size that it has not met yet.
LARGEST_TILE = 8


class OpenVinoEngine:
    """A version computed by OpenVINO on the processor; see `engine.Engine`.

    Args:
        version: a version with a file for OpenVINO.
        bfloat16: whether to compute in bfloat16, else in float32.

    Raises:
        InputError: the file does not load.
    """

    def __init__(self, version: Version, *, bfloat16: bool):
        self.name = OPENVINO if bfloat16 else OPENVINO_FLOAT32
        self.description = f"OpenVINO {openvino.__version__.partition('-')[0]}, {'bfloat16' if bfloat16 else 'float32'}"
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": hardware.cores(),
            "ENABLE_CPU_PINNING": False,  # pods on one node would share the first cores, and leave the others idle
        }
        file = version.folder / OPENVINO_FILE
        try:
            self._compiled = openvino.Core().compile_model(read_model(file), "CPU", options)
            self.crop_size = int(self._compiled.input("images").partial_shape[1].get_length())
        except RuntimeError as error:
            found = f"{version.folder} ({' '.join(str(error).split())[:200]})"
            raise InputError("a model must load and answer", found, "Train or export it again.") from None
        self._local = threading.local()

    @property
    def has_embeddings(self) -> bool:
        """See `engine.Engine`: always."""
        return True

    def prepare(self, image: bytes, max_pixels: int) -> "npt.NDArray[np.float32] | Rejected":
        """See `engine.Engine`: the same as `crop`."""
        return self.crop(image, max_pixels)

    def scores(self, prepared: "Sequence[npt.NDArray[np.float32]]") -> "npt.NDArray[np.float32]":
        """See `engine.Engine`."""
        return self._compute(prepared, "probabilities")

    def crop(self, image: bytes, max_pixels: int) -> "npt.NDArray[np.float32] | Rejected":
        """See `engine.Engine`; a crop is float32 (crop_size, crop_size, 3), RGB from 0 to 255."""
        try:
            return cropping.crop_floats(image, self.crop_size, max_pixels)
        except Rejected as reason:
            return reason

    def embeddings(self, crops: "Sequence[npt.NDArray[np.float32]]") -> "npt.NDArray[np.float32]":
        """See `engine.Engine`."""
        return self._compute(crops, "embedding")

    def _compute(self, crops: "Sequence[npt.NDArray[np.float32]]", output: str) -> "npt.NDArray[np.float32]":
        request = self._request()
        return np.concatenate([self._infer(request, np.stack(tile), output) for tile in _tiles(crops)])

    def _infer(self, request: Any, images: "npt.NDArray[np.float32]", output: str) -> "npt.NDArray[np.float32]":
        request.infer({"images": images})
        values: npt.NDArray[np.float32] = request.get_tensor(output).data.copy()
        return values

    def _request(self) -> Any:
        """Returns the inference request of this thread; one request computes one batch at a time."""
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        return self._local.request


def _tiles(crops: Sequence[Any]) -> Iterator[Sequence[Any]]:
    start, size = 0, LARGEST_TILE
    while start < len(crops):
        while size > len(crops) - start:
            size //= 2
        yield crops[start : start + size]
        start += size
