"""The forward pass of the first layers of a network, which are not trained, by the engine that is fastest at it."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kfp_vision.core import hardware
from kfp_vision.core.frameworks import tf
from kfp_vision.engines import openvino_conversion, openvino_export
from kfp_vision.networks import NETWORKS
from kfp_vision.prediction import export
from kfp_vision.training import devices
from kfp_vision.training.padding import of_one_size
from kfp_vision.training.recipe import Recipe

MIN_IMAGES_TO_CONVERT = 256  # TensorFlow computes fewer sooner than they are converted and computed
OUTPUT = "features"

Forward = Callable[[tf.Tensor], npt.NDArray[np.float16]]


def forward_pass(
    network: Any, part: Callable[[Any], Any], recipe: Recipe, *, image_size: int, images: int, scratch: Path
) -> Forward:
    """Chooses what computes a part of a network for many images, with the weights that the network has now.

    On a processor this is OpenVINO, in the precision of the network, and TensorFlow where a GPU is at hand, where the images
    are few, and where OpenVINO does not convert the network.

    Args:
        network: the Keras model, from images to logits.
        part: returns the part of such a model, from its images to what is wanted.
        recipe: with the name and the width of the network.
        image_size: height and width of the images in pixels.
        images: number of images that will be computed.
        scratch: folder for temporary files.

    Returns:
        A function from images, float32 (batch, size, size, 3), to float16 (batch, ...).
    """
    if images >= MIN_IMAGES_TO_CONVERT and not devices.count_gpus():
        try:
            return _by_openvino(network, part, recipe, image_size, scratch)
        except openvino_conversion.NotConverted as reason:
            print(f"TensorFlow computes the features, since OpenVINO does not: {reason}", flush=True)
    body = part(network)
    forward = of_one_size(tf.function(lambda batch: tf.cast(body(batch, training=False), tf.float32)))
    return lambda batch: _in_float16(forward(batch).numpy())


def _in_float16(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    """Rounds features; by NumPy, since oneDNN complains on a processor without AVX-512 of a graph with float16 in it."""
    with np.errstate(over="ignore"):  # infinite in float16; who computes them counts such
        return features.astype(np.float16)


def _by_openvino(network: Any, part: Callable[[Any], Any], recipe: Recipe, image_size: int, scratch: Path) -> Forward:
    """Raises NotConverted if OpenVINO does not convert the network."""
    shape = {"image_size": image_size, "depth_multiplier": recipe.advanced.depth_multiplier}
    body = part(export.rebuild_in_stock_layers(network, NETWORKS[recipe.network], network.output_shape[-1], shape))
    file = Path(tempfile.mkdtemp(dir=scratch), "openvino", "body.xml")
    openvino_export.write_function(lambda images: {OUTPUT: body(images, training=False)}, image_size, file)
    from kfp_vision.engines.openvino_model import CompiledModel

    is_bfloat16 = network.layers[-2].compute_dtype == "bfloat16" and hardware.is_fast_at_bfloat16()
    compiled = CompiledModel(file, bfloat16=is_bfloat16)

    def forward(batch: tf.Tensor) -> npt.NDArray[np.float16]:
        (features,) = compiled.compute(batch.numpy(), OUTPUT)
        return _in_float16(features)

    return forward
