"""Converts a model to OpenVINO's intermediate representation, and quantizes it with NNCF."""

from pathlib import Path
from typing import Any

import numpy as np

from kfp_vision.core import hidden_imports, json_text
from kfp_vision.engines.openvino_runtime import TELEMETRY, openvino
from kfp_vision.exports.convert import Conversion, run_converter
from kfp_vision.exports.formats import INPUT, OUTPUT
from kfp_vision.storage import atomic

METADATA_SECTION = "kfp_vision"  # of rt_info


def convert(conversion: Conversion) -> None:
    """Converts a model, for any number of images at a time; labels and metadata are in `rt_info`.

    Args:
        conversion: what to convert.

    Raises:
        InputError: the model has no signature `pixels`.
    """
    model = read_model(conversion.version.folder)
    if conversion.form.calibrated:
        model = quantize(model, conversion.crops)
    for name, value in conversion.metadata.items():
        model.set_rt_info(json_text.write(value), [METADATA_SECTION, name])
    openvino.save_model(model, conversion.file, compress_to_fp16=False)


def read_model(folder: Path) -> Any:
    """Reads the computation of probabilities from a SavedModel.

    Args:
        folder: the SavedModel.

    Returns:
        An OpenVINO model from `images`, uint8 (any, size, size, 3), to `probabilities`, float32 (any, classes).

    Raises:
        InputError: it has no signature `pixels`.
    """
    from kfp_vision.exports import graph

    with atomic.temporary_folder() as scratch:
        file = scratch / "frozen.pb"
        file.write_bytes(graph.frozen_graph(folder).SerializeToString())
        model = openvino.Core().read_model(file)
    for port, name in ((model.input(), INPUT), (model.output(), OUTPUT)):
        port.get_tensor().set_names({name})
    return model


def quantize(model: Any, crops: Path) -> Any:
    """Quantizes a model to int8 for CPUs.

    Args:
        model: as `read_model` returns it.
        crops: an `.npy` file of training images, uint8 (images, size, size, 3).

    Returns:
        The quantized model, with the same input and output.
    """
    with hidden_imports.hide({TELEMETRY}):
        import nncf

    images = np.load(crops, mmap_mode="r")
    dataset = nncf.Dataset(images, lambda image: np.asarray(image)[None])
    settings = {"preset": nncf.QuantizationPreset.MIXED, "target_device": nncf.TargetDevice.CPU}
    return nncf.quantize(model, dataset, subset_size=len(images), **settings)


if __name__ == "__main__":
    run_converter(convert)
