"""The part of an exported model that converts: from uint8 pixels to probabilities, without decoders and class names."""

from pathlib import Path
from typing import Any

from kfp_vision.core.errors import InputError
from kfp_vision.core.frameworks import convert_variables_to_constants_v2, tf
from kfp_vision.exports.formats import INPUT, OUTPUT


def load_pixels(folder: Path) -> tuple[Any, int]:
    """Loads the signature `pixels` of a SavedModel.

    A SavedModel that decodes JPEGs converts to none of the formats; this signature decodes nothing.

    Args:
        folder: the SavedModel.

    Returns:
        The loaded model, which must be kept as long as its signature is used, and the height and width of its input in pixels.

    Raises:
        InputError: it has no such signature.
    """
    loaded = tf.saved_model.load(str(folder))
    if "pixels" not in loaded.signatures:
        rule, remedy = "a model must have the signature pixels to be exported", "Train or export it again."
        raise InputError(rule, f"{folder} with {', '.join(loaded.signatures)}", remedy)
    return loaded, int(loaded.signatures["pixels"].structured_input_signature[1]["images"].shape[1])


def probabilities_of(loaded: Any, size: int, dtype: Any, batch: int | None) -> Any:
    """Traces the computation of probabilities from pixels.

    Args:
        loaded: as `load_pixels` returns it.
        size: height and width of the images in pixels.
        dtype: of the input, `tf.uint8` or `tf.float32`.
        batch: images per call; None for any number.

    Returns:
        A concrete function from `images`, (batch, size, size, 3), to `probabilities`, float32 (batch, classes).
    """
    pixels = loaded.signatures["pixels"]

    @tf.function(autograph=False)
    def compute(images: Any) -> dict[str, Any]:
        return {OUTPUT: pixels(images=tf.cast(images, tf.float32))["probabilities"]}

    return compute.get_concrete_function(tf.TensorSpec((batch, size, size, 3), dtype, name=INPUT))


def frozen_graph(folder: Path) -> Any:
    """Returns a SavedModel's computation of probabilities as a graph whose weights are constants.

    Args:
        folder: the SavedModel.

    Returns:
        A `GraphDef` with the nodes `images`, uint8 (any, size, size, 3), and `probabilities`, float32 (any, classes).

    Raises:
        InputError: it has no signature `pixels`.
    """
    loaded, size = load_pixels(folder)
    frozen = convert_variables_to_constants_v2(probabilities_of(loaded, size, tf.uint8, None), lower_control_flow=False)
    with frozen.graph.as_default():
        tf.identity(frozen.outputs[0], name=OUTPUT)
    return frozen.graph.as_graph_def()
