"""Converts a model to LiteRT (formerly TensorFlow Lite) with TensorFlow's converter."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kfp_vision.core import json_text
from kfp_vision.core.errors import InputError
from kfp_vision.core.frameworks import tf
from kfp_vision.exports import graph
from kfp_vision.exports.convert import Conversion, run_converter
from kfp_vision.exports.formats import METADATA_FILE

LABELS_MEMBER = "labels.txt"  # one name a line, as TensorFlow Lite's metadata has it


def convert(conversion: Conversion) -> None:
    """Converts a model, for one image at a time.

    Only LiteRT's own operations are allowed, so that any interpreter runs the file. Labels and metadata are appended as a ZIP
    archive, as TensorFlow Lite's metadata does with associated files: `unzip` and Python's zipfile read them.

    Args:
        conversion: what to convert.

    Raises:
        InputError: the model has no signature `pixels`, or its quantized input is not pixels from 0 to 255.
    """
    loaded, size = graph.load_pixels(conversion.version.folder)
    # Quantized throughout, the input is uint8 with scale 1, which LiteRT makes of a float32 one; it does not quantize a cast.
    dtype = tf.float32 if conversion.form.calibrated else tf.uint8
    function = graph.probabilities_of(loaded, size, dtype, 1)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], loaded)
    if conversion.form.name != "litert":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if conversion.form.name == "litert_float16":
        converter.target_spec.supported_types = [tf.float16]
    if conversion.form.calibrated:
        converter.representative_dataset = lambda: calibration_images(conversion.crops)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
    conversion.file.write_bytes(converter.convert())
    _check_input(conversion.file)
    with zipfile.ZipFile(conversion.file, "a") as archive:
        archive.writestr(LABELS_MEMBER, "".join(f"{label}\n" for label in conversion.version.labels))
        archive.writestr(METADATA_FILE, json_text.write(conversion.metadata, indent=1))


def calibration_images(crops: Path) -> Iterator[list[npt.NDArray[np.float32]]]:
    """Yields calibration images one by one.

    The first one gets a black and a white pixel, so that the range of the input is 0 to 255.

    Args:
        crops: an `.npy` file, uint8 (images, size, size, 3).

    Yields:
        A list of one array, float32 (1, size, size, 3).
    """
    for number, crop in enumerate(np.load(crops, mmap_mode="r")):
        image = crop.astype(np.float32)
        if not number:
            image[0, 0], image[0, 1] = 0, 255
        yield [image[None]]


def _check_input(file: Path) -> None:
    """Refuses a file whose input a caller would have to quantize."""
    from ai_edge_litert.interpreter import Interpreter

    details = Interpreter(str(file)).get_input_details()[0]
    scale, zero = details["quantization"]
    if details["dtype"] != np.uint8 or (scale, zero) not in ((0.0, 0), (1.0, 0)):
        found = f"{details['dtype'].__name__} with scale {scale:g} and zero point {zero}"
        raise InputError("the input must be uint8 pixels from 0 to 255", found, "Choose another format.")


if __name__ == "__main__":
    run_converter(convert)
