"""Converts a model to ONNX with tf2onnx."""

import onnx
import tf2onnx

from kfp_vision.core import json_text
from kfp_vision.exports import graph
from kfp_vision.exports.convert import Conversion, run_converter
from kfp_vision.exports.formats import INPUT, OUTPUT

OPSET = 17  # of 2022; ONNX Runtime has it since 1.12


def convert(conversion: Conversion) -> None:
    """Converts a model, for any number of images at a time; labels and metadata are in `metadata_props`.

    Args:
        conversion: what to convert.

    Raises:
        InputError: the model has no signature `pixels`.
    """
    names = {f"{name}:0": name for name in (INPUT, OUTPUT)}
    frozen = graph.frozen_graph(conversion.version.folder)
    model, _ = tf2onnx.convert.from_graph_def(
        frozen, input_names=[f"{INPUT}:0"], output_names=[f"{OUTPUT}:0"], tensors_to_rename=names, opset=OPSET
    )
    values = {name: json_text.write(value) for name, value in conversion.metadata.items()}
    onnx.helper.set_model_props(model, values)
    onnx.checker.check_model(model)
    onnx.save(model, conversion.file)


if __name__ == "__main__":
    run_converter(convert)
