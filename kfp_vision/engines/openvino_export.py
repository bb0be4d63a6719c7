"""Writes a TensorFlow function of images in OpenVINO's format."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kfp_vision.core.frameworks import convert_variables_to_constants_v2, tf
from kfp_vision.engines import openvino_conversion


def write_function(function: Callable[[Any], Mapping[str, Any]], image_size: int, file: Path) -> None:
    """Converts a function to OpenVINO's format, and compares the answers of both for two images.

    Args:
        function: from `images`, float32 (batch, size, size, 3), to tensors by name; its variables become constants.
        image_size: height and width of the images in pixels.
        file: to write, with the ending `.xml`; its folder is created, and its weights go beside it.

    Raises:
        NotConverted: OpenVINO is not installed, does not read the function, or answers differently. Nothing is left then.
    """
    images = np.random.default_rng(0).uniform(0, 255, (2, image_size, image_size, 3)).astype(np.float32)
    signature = tf.TensorSpec((None, *images.shape[1:]), tf.float32, name="images")
    concrete = tf.function(function, autograph=False).get_concrete_function(signature)
    answers = {name: values.numpy() for name, values in concrete(tf.constant(images)).items()}
    with tempfile.TemporaryDirectory() as scratch:
        graph = convert_variables_to_constants_v2(concrete).graph.as_graph_def()
        (Path(scratch) / openvino_conversion.GRAPH_FILE).write_bytes(graph.SerializeToString())
        np.savez(Path(scratch) / openvino_conversion.SAMPLE_FILE, images=images, **answers)
        file.parent.mkdir()
        try:
            openvino_conversion.convert(Path(scratch), file)
        except openvino_conversion.NotConverted:
            file.parent.rmdir()
            raise
