"""Inception v1 and GoogLeNet: two variants of one architecture (arXiv 1409.4842).

`inception_v1` is TF-Slim's: batch norm after every convolution, no bias, a 3x3 kernel in both wide branches, pixels in
[-1, 1]. `googlenet` is that of the paper and of Caffe: biases, local response norm, a 5x5 kernel in the second wide branch,
pixels minus the ImageNet mean. Both map (batch, height, width, 3) RGB in 0 to 255 to (batch, classes) logits in float32.

Layers have the names of their endpoints in the original, with dots instead of slashes: `Mixed_5c`,
`Mixed_3b.Branch_1.Conv2d_0b_3x3`, `inception_3a.5x5`.
"""

from typing import Any

import numpy.typing as npt

from kfp_vision.core.frameworks import keras
from kfp_vision.networks.layers import Tensor, batch_normalization, convolution, local_response_normalization

layers = keras.layers

# Widths of a block's convolutions (table 1 of the paper): 1x1; 3x3 reduce, 3x3; 5x5 reduce, 5x5; pool projection.
BLOCK_CHANNELS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
STEM_CHANNELS = (64, 64, 192)
MIN_CHANNELS = 16
IMAGENET_MEAN = (123.0, 117.0, 104.0)  # red, green, blue, of Caffe's GoogLeNet


def inception_v1(
    classes: int,
    *,
    image_size: int = 224,
    dropout: float = 0.2,
    depth_multiplier: float = 1.0,
    batch_norm_decay: float = 0.9997,
    fast: bool = True,
) -> keras.Model:
    """Builds Inception v1 as in TF-Slim (tf_slim.nets.inception_v1).

    Args:
        classes: number of classes, the width of the logits.
        image_size: height and width of the images in pixels, at least 32.
        dropout: share of the features dropped before the logits; TF-Slim keeps 0.8.
        depth_multiplier: factor of all widths, which stay at least 16; 1 is the published network.
        batch_norm_decay: decay of batch norm's moving statistics.
        fast: TensorFlow's fused kernels (see `layers`), or stock Keras layers only.

    Returns:
        The model, with random weights.
    """

    def normalized(x: Tensor, channels: int, kernel: int, name: str, stride: int = 1) -> Tensor:
        channels = scale_channels(channels, depth_multiplier)
        x = convolution(x, channels, kernel, name=f"{name}.conv", stride=stride, fast=fast)
        return batch_normalization(x, name=f"{name}.BatchNorm", momentum=batch_norm_decay, fast=fast)

    def unit(x: Tensor, channels: int, kernel: int, name: str) -> Tensor:
        return layers.ReLU(name=name)(normalized(x, channels, kernel, name))

    def pooled_unit(x: Tensor, channels: int, kernel: int, name: str, pool_name: str, stride: int = 1) -> Tensor:
        x = normalized(x, channels, kernel, name, stride)
        if fast:
            # ReLU and max pooling commute, and behind the pooling ReLU has a quarter of the work.
            return layers.ReLU(name=pool_name)(max_pool(x, 3, 2, f"{pool_name}.greatest"))
        return max_pool(layers.ReLU(name=name)(x), 3, 2, pool_name)

    def block(x: Tensor, sizes: tuple[int, ...], name: str) -> Tensor:
        # An inconsistency of TF-Slim: this kernel of Mixed_5b is named 0a, all others 0b.
        wide = "Conv2d_0a_3x3" if name == "Mixed_5b" else "Conv2d_0b_3x3"
        one, reduce_3, three, reduce_5, five, pool = sizes
        return layers.Concatenate(name=name)(
            [
                unit(x, one, 1, f"{name}.Branch_0.Conv2d_0a_1x1"),
                unit(unit(x, reduce_3, 1, f"{name}.Branch_1.Conv2d_0a_1x1"), three, 3, f"{name}.Branch_1.Conv2d_0b_3x3"),
                unit(unit(x, reduce_5, 1, f"{name}.Branch_2.Conv2d_0a_1x1"), five, 3, f"{name}.Branch_2.{wide}"),
                unit(max_pool(x, 3, 1, f"{name}.Branch_3.MaxPool_0a_3x3"), pool, 1, f"{name}.Branch_3.Conv2d_0b_1x1"),
            ]
        )

    images = keras.Input((image_size, image_size, 3), name="pictures")
    x = layers.Rescaling(1 / 127.5, -1.0, name="preprocessing", dtype="float32")(images)
    x = pooled_unit(x, STEM_CHANNELS[0], 7, "Conv2d_1a_7x7", "MaxPool_2a_3x3", stride=2)
    x = unit(x, STEM_CHANNELS[1], 1, "Conv2d_2b_1x1")
    x = pooled_unit(x, STEM_CHANNELS[2], 3, "Conv2d_2c_3x3", "MaxPool_3a_3x3")
    x = block(x, BLOCK_CHANNELS["3a"], "Mixed_3b")
    x = block(x, BLOCK_CHANNELS["3b"], "Mixed_3c")
    x = max_pool(x, 3, 2, "MaxPool_4a_3x3")
    for letter, following in zip("abcde", "bcdef", strict=True):
        x = block(x, BLOCK_CHANNELS[f"4{letter}"], f"Mixed_4{following}")
    x = max_pool(x, 2, 2, "MaxPool_5a_2x2")
    x = block(x, BLOCK_CHANNELS["5a"], "Mixed_5b")
    x = block(x, BLOCK_CHANNELS["5b"], "Mixed_5c")
    x = layers.GlobalAveragePooling2D(name="AvgPool_0a_7x7")(x)
    return add_head(images, x, classes, dropout, "Logits.Conv2d_0c_1x1", name="inception_v1")


def googlenet(
    classes: int,
    *,
    image_size: int = 224,
    dropout: float = 0.4,
    depth_multiplier: float = 1.0,
    batch_norm_decay: float = 0.9997,
    fast: bool = True,
) -> keras.Model:
    """Builds GoogLeNet as in the paper and in Caffe's `bvlc_googlenet`, without the two auxiliary classifiers.

    Args:
        classes: number of classes, the width of the logits.
        image_size: height and width of the images in pixels, at least 32.
        dropout: share of the features dropped before the logits.
        depth_multiplier: factor of all widths, which stay at least 16; 1 is the published network.
        batch_norm_decay: ignored, as there is no batch norm; all builders have it.
        fast: TensorFlow's own kernels (see `layers`), or stock Keras layers only.

    Returns:
        The model, with random weights.
    """
    del batch_norm_decay

    def conv(x: Tensor, channels: int, kernel: int, name: str, stride: int = 1, padding: str = "same") -> Tensor:
        channels = scale_channels(channels, depth_multiplier)
        return layers.Conv2D(channels, kernel, stride, padding=padding, activation="relu", name=name)(x)

    def block(x: Tensor, sizes: tuple[int, ...], name: str) -> Tensor:
        one, reduce_3, three, reduce_5, five, pool = sizes
        return layers.Concatenate(name=f"{name}.output")(
            [
                conv(x, one, 1, f"{name}.1x1"),
                conv(conv(x, reduce_3, 1, f"{name}.3x3_reduce"), three, 3, f"{name}.3x3"),
                conv(conv(x, reduce_5, 1, f"{name}.5x5_reduce"), five, 5, f"{name}.5x5"),
                conv(max_pool(x, 3, 1, f"{name}.pool"), pool, 1, f"{name}.pool_proj"),
            ]
        )

    images = keras.Input((image_size, image_size, 3), name="pictures")
    x = layers.Rescaling(1.0, [-mean for mean in IMAGENET_MEAN], name="preprocessing", dtype="float32")(images)
    # Caffe pads both sides by 3, where "same" would pad by 2 and 3. Its pooling rounds up, as "same" does at even sizes.
    x = layers.ZeroPadding2D(3, name="conv1.padding")(x)
    x = conv(x, STEM_CHANNELS[0], 7, "conv1.7x7_s2", stride=2, padding="valid")
    x = max_pool(x, 3, 2, "pool1.3x3_s2")
    x = local_response_normalization(x, name="pool1.norm1", fast=fast)
    x = conv(x, STEM_CHANNELS[1], 1, "conv2.3x3_reduce")
    x = conv(x, STEM_CHANNELS[2], 3, "conv2.3x3")
    x = local_response_normalization(x, name="conv2.norm2", fast=fast)
    x = max_pool(x, 3, 2, "pool2.3x3_s2")
    for tag, sizes in BLOCK_CHANNELS.items():
        x = block(x, sizes, f"inception_{tag}")
        if tag in ("3b", "4e"):
            x = max_pool(x, 3, 2, f"pool{int(tag[0])}.3x3_s2")
    x = layers.GlobalAveragePooling2D(name="pool5.7x7_s1")(x)
    return add_head(images, x, classes, dropout, "loss3.classifier", name="googlenet")


def scale_channels(channels: int, multiplier: float) -> int:
    """Scales the width of a layer, rounded as in TF-Slim.

    Args:
        channels: of the published network.
        multiplier: factor of the width.

    Returns:
        Channels, at least `MIN_CHANNELS`.
    """
    return max(int(channels * multiplier), MIN_CHANNELS)


def max_pool(x: Tensor, size: int, stride: int, name: str) -> Tensor:
    """Applies max pooling, padded so that the stride alone changes the size.

    Args:
        x: (batch, height, width, channels).
        size: height and width of the window.
        stride: of both axes.
        name: of the layer.

    Returns:
        (batch, height / stride, width / stride, channels), rounded up.
    """
    return layers.MaxPooling2D(size, stride, padding="same", name=name)(x)


def add_head(images: Tensor, features: Tensor, classes: int, dropout: float, logits_name: str, name: str) -> keras.Model:
    """Adds dropout and the classification head, which computes in float32 and is the model's last layer.

    Args:
        images: the model's input.
        features: (batch, width), computed from it.
        classes: number of classes, the width of the logits.
        dropout: share of the features that is dropped in training.
        logits_name: name of the classification head.
        name: of the model.

    Returns:
        The model from images to logits.
    """
    x = layers.Dropout(dropout, name="Dropout_0b")(features)
    x = layers.Dense(classes, name=logits_name, dtype="float32")(x)
    return keras.Model(images, x, name=name)


def slim_name(layer: str, weight: str) -> str:
    """Names a weight of `inception_v1` as in a TF-Slim checkpoint.

    Args:
        layer: name of the layer.
        weight: name of the weight in its layer.

    Returns:
        Such as `InceptionV1/Mixed_5c/Branch_0/Conv2d_0a_1x1/weights`.
    """
    kinds = {"kernel": "weights", "bias": "biases"}
    return f"InceptionV1/{layer.removesuffix('.conv').replace('.', '/')}/{kinds.get(weight, weight)}"


def caffe_name(layer: str, weight: str) -> str:
    """Names a weight of `googlenet` as in Caffe.

    Args:
        layer: name of the layer.
        weight: name of the weight in its layer.

    Returns:
        Such as `inception_3a/5x5/weights`.
    """
    kinds = {"kernel": "weights", "bias": "biases"}
    return f"{layer.replace('.', '/')}/{kinds[weight]}"


def caffe_value(name: str, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Converts a Caffe weight for RGB input; the first convolution was trained on BGR.

    Args:
        name: of the weight in Caffe.
        value: of the weight, kernels as (height, width, in, out).

    Returns:
        The value of the weight in `googlenet`.
    """
    return value[:, :, ::-1, :] if name == "conv1/7x7_s2/weights" else value
