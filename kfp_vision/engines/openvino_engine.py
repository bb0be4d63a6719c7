"""OpenVINO: a third of TensorFlow's memory, a tenth of its start, and bfloat16 where the processor has it."""

import contextlib
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kfp_vision.core import hardware
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
from kfp_vision.engines.openvino_runtime import openvino, read_model
from kfp_vision.repository.version import Version

if TYPE_CHECKING:
    import numpy.typing as npt

# A batch is computed in tiles of so many images at most, several tiles at a time on a part of the cores each, which is a fifth
# faster than one tile after another on all cores (two cores with AMX). More tiles at a time would take more memory.
# The rest of a batch is computed in powers of two, since OpenVINO compiles some code for each size that it has not met yet.
LARGEST_TILE = 4
MOST_STREAMS = 4
SCALING = ("Transpose", "Convert", "Multiply", "Divide", "Add", "Subtract")  # what scales pixels, and what may stand before it


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
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": hardware.cores(),
            "ENABLE_CPU_PINNING": False,  # pods on one node would share the first cores, and leave the others idle
        }
        self._whole = _Compiled(version.folder / OPENVINO_FILE, options)
        self._scores = _Compiled(quantized, options) if quantized else self._whole
        self.crop_size, self._shape = self._whole.size, version.crop
        self._head = _read_head(version)
        if self._head is not None and not self._whole.fits_head(self._head):
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


class _Compiled:
    """A compiled file; each thread has requests of its own."""

    def __init__(self, file: Path, options: Mapping[str, Any]):
        core, self._streams = openvino.Core(), min(hardware.cores(), MOST_STREAMS)
        try:
            model = read_model(file)
            _scale_by_channel(model)
            self._compiled = self._together = core.compile_model(model, "CPU", {**options, "NUM_STREAMS": 1})
            if self._streams > 1:
                self._together = core.compile_model(model, "CPU", {**options, "NUM_STREAMS": self._streams})
            images = self._compiled.input("images")
        except RuntimeError as error:
            raise does_not_load(file.parent.parent, error) from None
        self.size = int(images.partial_shape[1].get_length())
        self._takes_levels = images.element_type == openvino.Type.u8
        self._process, self._local = os.getpid(), threading.local()

    def fits_head(self, head: "npt.NDArray[np.float32]") -> bool:
        """Returns whether a kernel goes from the channels of the feature map to the classes."""
        sides = (self._compiled.output(name).partial_shape[-1].get_length() for name in ("feature_map", "probabilities"))
        return head.shape == tuple(sides) and bool(np.isfinite(head).all())

    def compute(self, crops: "Sequence[npt.NDArray[np.float32]]", *outputs: str) -> "list[npt.NDArray[np.float32]]":
        # The threads of the streams are not there in a forked process.
        if self._streams == 1 or len(crops) < self._streams or os.getpid() != self._process:
            tiles = [self._infer(tile, outputs) for tile in _tiles(crops, LARGEST_TILE)]
        else:
            share = len(crops) // self._streams  # at least one
            tiles = self._infer_together(_tiles(crops, min(LARGEST_TILE, 1 << (share.bit_length() - 1))), outputs)
        return [np.concatenate(parts) for parts in zip(*tiles, strict=True)]

    def _infer(self, tile: Sequence[Any], outputs: Sequence[str]) -> "list[npt.NDArray[np.float32]]":
        if not hasattr(self._local, "alone"):
            self._local.alone = self._compiled.create_infer_request()
        self._local.alone.infer({"images": self._stack(tile)})
        return _copy(self._local.alone, outputs)

    def _infer_together(self, tiles: Iterator[Sequence[Any]], outputs: Sequence[str]) -> "list[list[npt.NDArray[np.float32]]]":
        """Computes several tiles at a time; each is collected when its request is wanted again, or at the end."""
        if not hasattr(self._local, "together"):
            self._local.together = [self._together.create_infer_request() for _ in range(self._streams)]
        computed, running = [], deque[Any]()
        try:
            for request, tile in zip(cycle(self._local.together), tiles):
                if len(running) == self._streams:
                    running[0].wait()
                    computed.append(_copy(running.popleft(), outputs))
                request.start_async({"images": self._stack(tile)})
                running.append(request)
            while running:
                running[0].wait()
                computed.append(_copy(running.popleft(), outputs))
            return computed
        finally:
            for request in running:  # after an error: a request that computes cannot be used again
                with contextlib.suppress(RuntimeError):
                    request.wait()

    def _stack(self, tile: "Sequence[npt.NDArray[np.float32]]") -> "npt.NDArray[Any]":
        images = np.stack(tile)
        return np.rint(images).astype(np.uint8) if self._takes_levels else images


def _copy(request: Any, outputs: Sequence[str]) -> "list[npt.NDArray[np.float32]]":
    return [request.get_tensor(output).data.copy() for output in outputs]


def _scale_by_channel(model: Any) -> None:
    """Gives each channel of a model's input a factor and an offset of its own, where all have the same.

    OpenVINO 2026.4 fuses scalar ones into an operation that stays in float32, where the rest computes in bfloat16, and takes
    twenty times as long as one by channel: a tenth of the time of a small network.

    Args:
        model: that takes images, (batch, height, width, channels); it is changed.
    """
    value = model.input("images")
    channels = value.partial_shape[-1].get_length()
    while len(users := value.get_target_inputs()) == 1:
        node = next(iter(users)).get_node()
        if node.get_type_name() not in SCALING:
            break
        value = node.output(0)
        # Height and width are more than the channels. The axes may be in OpenVINO's order already.
        shape = [channels if side.is_static and side.get_length() == channels else 1 for side in value.partial_shape]
        for operand in node.inputs():
            constant = operand.get_source_output().get_node()
            if constant.get_type_name() == "Constant" and constant.data.size == 1:
                values = np.full(shape, constant.data.item(), constant.data.dtype)
                operand.replace_source_output(openvino.opset13.constant(values).output(0))


def _read_head(version: Version) -> "npt.NDArray[np.float32] | None":
    """Returns the kernel of a version's classification head, (width, classes); None if it has no class activation maps."""
    try:
        return np.load(version.folder / OPENVINO_HEAD_FILE)  # type: ignore[no-any-return]
    except FileNotFoundError:
        return None
    except (EOFError, ValueError) as error:
        raise does_not_load(version.folder, error) from None


def _class_maps(
    feature_map: "npt.NDArray[np.float32]", head: "npt.NDArray[np.float32]", numbers: Sequence[int]
) -> "npt.NDArray[np.float32]":
    return np.moveaxis(feature_map @ head[:, list(numbers)], -1, 0)


def _tiles(crops: Sequence[Any], largest: int) -> Iterator[Sequence[Any]]:
    start, size = 0, largest
    while start < len(crops):
        while size > len(crops) - start:
            size //= 2
        yield crops[start : start + size]
        start += size
