"""EfficientNet-Lite 0 to 4: EfficientNet (arXiv 1905.11946) for small devices, as TensorFlow's tpu repository published it.

Lite has neither squeeze-and-excite nor swish: ReLU6 alone, so that weights and activations of 8 bits lose little. Stem and head
have the same width in all five, and the first and the last stage the same depth (models/official/efficientnet/lite). Pixels
are (x - 127) / 128. All map (batch, height, width, 3) RGB in 0 to 255 to (batch, classes) logits in float32.

Layers have the names of the published PyTorch weights, without their leading underscores: `blocks.3.depthwise_conv`.
"""

import math
from typing import Any

import numpy.typing as npt

from kfp_vision.core.frameworks import keras
from kfp_vision.networks.inception import add_head
from kfp_vision.networks.layers import Tensor, batch_normalization, convolution, depthwise, relu6

layers = keras.layers

# Factor of the widths of the blocks, factor of the depth of the stages, and dropout (efficientnet_lite_builder.py).
SCALES = {
    "efficientnet_lite0": (1.0, 1.0, 0.2),
    "efficientnet_lite1": (1.0, 1.1, 0.2),
    "efficientnet_lite2": (1.1, 1.2, 0.3),
    "efficientnet_lite3": (1.2, 1.4, 0.3),
    "efficientnet_lite4": (1.4, 1.8, 0.3),
}
# Blocks, kernel, stride of the first block, expansion, and width of each stage (table 1 of the paper).
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280
CHANNEL_DIVISOR = 8
MEAN, SCALE = 127.0, 128.0  # of a pixel
HEAD_NAME = "fc"
WEIGHT_NAMES = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def efficientnet_lite(
    classes: int,
    *,
    name: str,
    image_size: int = 224,
    dropout: float | None = None,
    depth_multiplier: float = 1.0,
    batch_norm_decay: float = 0.9997,
    fast: bool = True,
) -> keras.Model:
    """Builds an EfficientNet-Lite, without the stochastic depth that its long training from random weights had.

    Args:
        classes: number of classes, the width of the logits.
        name: of the model, one of `SCALES`.
        image_size: height and width of the images in pixels, at least 32.
        dropout: share of the features dropped before the logits; None for the published one, 0.2 or 0.3.
        depth_multiplier: factor of the widths of the blocks, besides the network's own; stem and head keep theirs.
        batch_norm_decay: decay of batch norm's moving statistics.
        fast: TensorFlow's fused kernels (see `layers`), or stock Keras layers only.

    Returns:
        The model, with random weights.
    """
    width, depth, published_dropout = SCALES[name]

    def norm(x: Tensor, layer: str) -> Tensor:
        return batch_normalization(x, name=layer, momentum=batch_norm_decay, fast=fast, scale=True)

    def unit(x: Tensor, channels: int, kernel: int, stride: int, layer: str, norm_layer: str) -> Tensor:
        x = convolution(x, channels, kernel, name=layer, stride=stride, fast=fast)
        return relu6(norm(x, norm_layer), name=f"{layer}.relu6", fast=fast)

    def block(x: Tensor, kernel: int, stride: int, expansion: int, channels: int, layer: str) -> Tensor:
        """Adds an inverted residual with a linear bottleneck (arXiv 1801.04381)."""
        inputs = x
        if expansion > 1:
            x = unit(x, expansion * x.shape[-1], 1, 1, f"{layer}.expand_conv", f"{layer}.bn0")
        x = depthwise(x, kernel, name=f"{layer}.depthwise_conv", stride=stride, fast=fast)
        x = relu6(norm(x, f"{layer}.bn1"), name=f"{layer}.depthwise_conv.relu6", fast=fast)
        x = convolution(x, channels, 1, name=f"{layer}.project_conv", fast=fast)
        x = norm(x, f"{layer}.bn2")
        is_residual = stride == 1 and inputs.shape[-1] == channels
        return layers.Add(name=f"{layer}.add")([x, inputs]) if is_residual else x

    images = keras.Input((image_size, image_size, 3), name="pictures")
    x = layers.Rescaling(1 / SCALE, -MEAN / SCALE, name="preprocessing", dtype="float32")(images)
    x = unit(x, STEM_CHANNELS, 3, 2, "conv_stem", "bn0")
    number = 0
    for stage, (repeats, kernel, first_stride, expansion, channels) in enumerate(STAGES):
        is_outer = stage in (0, len(STAGES) - 1)
        for repeat in range(repeats if is_outer else math.ceil(depth * repeats)):
            stride = 1 if repeat else first_stride
            x = block(x, kernel, stride, expansion, scale_channels(channels, width * depth_multiplier), f"blocks.{number}")
            number += 1
    x = unit(x, HEAD_CHANNELS, 1, 1, "conv_head", "bn1")
    x = layers.GlobalAveragePooling2D(name="avg_pooling")(x)
    return add_head(images, x, classes, published_dropout if dropout is None else dropout, HEAD_NAME, name=name)


def scale_channels(channels: int, multiplier: float) -> int:
    """Scales the width of a layer, rounded to a multiple of 8 as in EfficientNet.

    Args:
        channels: of EfficientNet-B0.
        multiplier: factor of the width.

    Returns:
        Channels, at least 8, and at least nine tenths of the exact width.
    """
    exact = channels * multiplier
    rounded = max(CHANNEL_DIVISOR, int(exact + CHANNEL_DIVISOR / 2) // CHANNEL_DIVISOR * CHANNEL_DIVISOR)
    return rounded + CHANNEL_DIVISOR if rounded < 0.9 * exact else rounded


def pytorch_name(layer: str, weight: str) -> str:
    """Names a weight as in the published PyTorch weights.

    Args:
        layer: name of the layer.
        weight: name of the weight in its layer.

    Returns:
        Such as `_blocks.3._depthwise_conv.weight`.
    """
    parts = [part if part.isdigit() else f"_{part}" for part in layer.split(".")]
    return ".".join([*parts, WEIGHT_NAMES.get(weight, weight)])


def pytorch_value(name: str, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Converts a PyTorch weight to Keras's order of axes.

    Args:
        name: of the weight in PyTorch.
        value: of the weight: kernels as (out, in, height, width), depthwise ones as (channels, 1, height, width), those of a
            linear layer as (out, in).

    Returns:
        Kernels as (height, width, in, out), depthwise ones as (height, width, channels, 1), (in, out); others as they are.
    """
    if value.ndim == 4:
        return value.transpose(2, 3, 0, 1) if "_depthwise_conv." in name else value.transpose(2, 3, 1, 0)
    return value.T
