"""A model in OpenVINO's format, compiled for the processor, that computes batches of any size."""

import contextlib
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kfp_vision.core import hardware
from kfp_vision.engines.openvino_runtime import openvino, read_model

if TYPE_CHECKING:
    import numpy.typing as npt

# A batch is computed in tiles of so many images at most, several tiles at a time on a part of the cores each, which is a fifth
# faster than one tile after another on all cores (two cores with AMX). More tiles at a time would take more memory.
# The rest of a batch is computed in powers of two, since OpenVINO compiles some code for each size that it has not met yet.
LARGEST_TILE = 4
MOST_STREAMS = 4
SCALING = ("Transpose", "Convert", "Multiply", "Divide", "Add", "Subtract")  # what scales pixels, and what may stand before it


class CompiledModel:
    """A model that computes images, in several threads at a time: each has requests of its own.

    Args:
        file: the `.xml` file, with its weights beside it; its input is called `images`.
        bfloat16: whether to compute in bfloat16, else in float32.

    Attributes:
        size: height and width of the images in pixels.

    Raises:
        RuntimeError: the file or its weights are damaged, or of something else.
    """

    def __init__(self, file: Path, *, bfloat16: bool):
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": hardware.cores(),
            "ENABLE_CPU_PINNING": False,  # pods on one node would share the first cores, and leave the others idle
        }
        core, self._streams = openvino.Core(), min(hardware.cores(), MOST_STREAMS)
        model = read_model(file)
        scale_by_channel(model)
        self._compiled = self._together = core.compile_model(model, "CPU", {**options, "NUM_STREAMS": 1})
        if self._streams > 1:
            self._together = core.compile_model(model, "CPU", {**options, "NUM_STREAMS": self._streams})
        images = self._compiled.input("images")
        self.size = int(images.partial_shape[1].get_length())
        self._takes_levels = images.element_type == openvino.Type.u8
        self._process, self._local = os.getpid(), threading.local()

    def width(self, output: str) -> int:
        """Returns the length of the last axis of an output.

        Args:
            output: its name.
        """
        return int(self._compiled.output(output).partial_shape[-1].get_length())

    def compute(self, images: "Sequence[npt.NDArray[np.float32]]", *outputs: str) -> "list[npt.NDArray[np.float32]]":
        """Computes some outputs for a batch of images.

        Args:
            images: float32 (size, size, 3), RGB from 0 to 255, at least one; a model of whole levels gets them rounded.
            *outputs: names of the outputs to return.

        Returns:
            The outputs, float32 (images, ...).
        """
        # The threads of the streams are not there in a forked process.
        if self._streams == 1 or len(images) < self._streams or os.getpid() != self._process:
            tiles = [self._infer(tile, outputs) for tile in _tiles(images, LARGEST_TILE)]
        else:
            share = len(images) // self._streams  # at least one
            tiles = self._infer_together(_tiles(images, min(LARGEST_TILE, 1 << (share.bit_length() - 1))), outputs)
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


def scale_by_channel(model: Any) -> None:
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


def _tiles(images: Sequence[Any], largest: int) -> Iterator[Sequence[Any]]:
    start, size = 0, largest
    while start < len(images):
        while size > len(images) - start:
            size //= 2
        yield images[start : start + size]
        start += size
