"""Inception v1 and GoogLeNet: one architecture (arXiv 1409.4842), two lives.

`inception_v1` is TF-Slim's: batch norm after every convolution, no bias, a 3x3 kernel in both wide branches, pictures in
[-1, 1]. `googlenet` is the paper's and Caffe's: biases, local response norm, a 5x5 kernel in the second wide branch,
pictures less the ImageNet mean. Both take (batch, height, width, 3) RGB in 0 to 255 and give (batch, classes) logits in
float32.

Layers carry the names of their endpoints in the original, with a dot for a slash: `Mixed_5c`,
`Mixed_3b.Branch_1.Conv2d_0b_3x3`, `inception_3a.5x5`.
"""

import keras
import numpy as np
from keras import layers

from kfp_vision.networks.layers import batch_normalization, convolution, local_response_normalization

# Widths of a block's convolutions (table 1 of the paper): 1x1; 3x3 reduce, 3x3; 5x5 reduce, 5x5; pool projection.
BLOCKS = {
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
STEM = (64, 64, 192)
MIN_DEPTH = 16
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
    """Inception v1 as TF-Slim has it (tf_slim.nets.inception_v1).

    Args:
        classes: number of classes, the width of the logits.
        image_size: height and width of the pictures in pixels, 32 at the least.
        dropout: share of the features dropped before the logits; TF-Slim keeps 0.8.
        depth_multiplier: every width is multiplied by it, 16 at the least; 1 is the published network.
        batch_norm_decay: decay of batch norm's moving statistics.
        fast: TensorFlow's fused kernels (see `layers`), or stock Keras layers only.
    """

    def normalised(x, channels: int, kernel: int, name: str, stride: int = 1):
        channels = depth(channels, depth_multiplier)
        x = convolution(x, channels, kernel, name=f"{name}.conv", stride=stride, fast=fast)
        return batch_normalization(x, name=f"{name}.BatchNorm", momentum=batch_norm_decay, fast=fast)

    def unit(x, channels: int, kernel: int, name: str):
        return layers.ReLU(name=name)(normalised(x, channels, kernel, name))

    def pooled_unit(x, channels: int, kernel: int, name: str, pool_name: str, stride: int = 1):
        x = normalised(x, channels, kernel, name, stride)
        if fast:
            # The greatest value rectified is the greatest of the rectified ones, and a quarter as many have to be.
            return layers.ReLU(name=pool_name)(max_pool(x, 3, 2, f"{pool_name}.greatest"))
        return max_pool(layers.ReLU(name=name)(x), 3, 2, pool_name)

    def block(x, sizes: tuple[int, ...], name: str):
        # TF-Slim's own slip: this one kernel of Mixed_5b is called 0a where all others are 0b.
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

    pictures = keras.Input((image_size, image_size, 3), name="pictures")
    x = layers.Rescaling(1 / 127.5, -1.0, name="preprocessing", dtype="float32")(pictures)
    x = pooled_unit(x, STEM[0], 7, "Conv2d_1a_7x7", "MaxPool_2a_3x3", stride=2)
    x = unit(x, STEM[1], 1, "Conv2d_2b_1x1")
    x = pooled_unit(x, STEM[2], 3, "Conv2d_2c_3x3", "MaxPool_3a_3x3")
    x = block(x, BLOCKS["3a"], "Mixed_3b")
    x = block(x, BLOCKS["3b"], "Mixed_3c")
    x = max_pool(x, 3, 2, "MaxPool_4a_3x3")
    for letter, following in zip("abcde", "bcdef", strict=True):
        x = block(x, BLOCKS[f"4{letter}"], f"Mixed_4{following}")
    x = max_pool(x, 2, 2, "MaxPool_5a_2x2")
    x = block(x, BLOCKS["5a"], "Mixed_5b")
    x = block(x, BLOCKS["5b"], "Mixed_5c")
    x = layers.GlobalAveragePooling2D(name="AvgPool_0a_7x7")(x)
    return head(pictures, x, classes, dropout, "Logits.Conv2d_0c_1x1", name="inception_v1")


def googlenet(
    classes: int,
    *,
    image_size: int = 224,
    dropout: float = 0.4,
    depth_multiplier: float = 1.0,
    batch_norm_decay: float = 0.9997,
    fast: bool = True,
) -> keras.Model:
    """GoogLeNet as in the paper and in Caffe's `bvlc_googlenet`, without the two auxiliary classifiers.

    Arguments as for `inception_v1`; `batch_norm_decay` has nothing to act on.
    """
    del batch_norm_decay

    def conv(x, channels: int, kernel: int, name: str, stride: int = 1, padding: str = "same"):
        channels = depth(channels, depth_multiplier)
        return layers.Conv2D(channels, kernel, stride, padding=padding, activation="relu", name=name)(x)

    def block(x, sizes: tuple[int, ...], name: str):
        one, reduce_3, three, reduce_5, five, pool = sizes
        return layers.Concatenate(name=f"{name}.output")(
            [
                conv(x, one, 1, f"{name}.1x1"),
                conv(conv(x, reduce_3, 1, f"{name}.3x3_reduce"), three, 3, f"{name}.3x3"),
                conv(conv(x, reduce_5, 1, f"{name}.5x5_reduce"), five, 5, f"{name}.5x5"),
                conv(max_pool(x, 3, 1, f"{name}.pool"), pool, 1, f"{name}.pool_proj"),
            ]
        )

    pictures = keras.Input((image_size, image_size, 3), name="pictures")
    x = layers.Rescaling(1.0, [-mean for mean in IMAGENET_MEAN], name="preprocessing", dtype="float32")(pictures)
    # Caffe pads both sides by 3, where "same" would pad 2 and 3. Its pools round up, which "same" does at even sizes.
    x = layers.ZeroPadding2D(3, name="conv1.padding")(x)
    x = conv(x, STEM[0], 7, "conv1.7x7_s2", stride=2, padding="valid")
    x = max_pool(x, 3, 2, "pool1.3x3_s2")
    x = local_response_normalization(x, name="pool1.norm1", fast=fast)
    x = conv(x, STEM[1], 1, "conv2.3x3_reduce")
    x = conv(x, STEM[2], 3, "conv2.3x3")
    x = local_response_normalization(x, name="conv2.norm2", fast=fast)
    x = max_pool(x, 3, 2, "pool2.3x3_s2")
    for tag, sizes in BLOCKS.items():
        x = block(x, sizes, f"inception_{tag}")
        if tag in ("3b", "4e"):
            x = max_pool(x, 3, 2, f"pool{int(tag[0])}.3x3_s2")
    x = layers.GlobalAveragePooling2D(name="pool5.7x7_s1")(x)
    return head(pictures, x, classes, dropout, "loss3.classifier", name="googlenet")


def depth(channels: int, multiplier: float) -> int:
    """Channels of a layer in a network made narrower, as TF-Slim rounds them."""
    return max(int(channels * multiplier), MIN_DEPTH)


def max_pool(x, size: int, stride: int, name: str):
    return layers.MaxPooling2D(size, stride, padding="same", name=name)(x)


def head(pictures, features, classes: int, dropout: float, logits_name: str, name: str) -> keras.Model:
    """Dropout and the class layer, which is the model's last and computes in float32."""
    x = layers.Dropout(dropout, name="Dropout_0b")(features)
    x = layers.Dense(classes, name=logits_name, dtype="float32")(x)
    return keras.Model(pictures, x, name=name)


def slim_name(layer: str, weight: str) -> str:
    """The name that a weight of `inception_v1` has in a TF-Slim checkpoint."""
    kinds = {"kernel": "weights", "bias": "biases"}
    return f"InceptionV1/{layer.removesuffix('.conv').replace('.', '/')}/{kinds.get(weight, weight)}"


def caffe_name(layer: str, weight: str) -> str:
    """The name that a weight of `googlenet` has in Caffe."""
    kinds = {"kernel": "weights", "bias": "biases"}
    return f"{layer.replace('.', '/')}/{kinds[weight]}"


def caffe_value(name: str, value: np.ndarray) -> np.ndarray:
    """A Caffe weight for pictures in RGB: the first convolution was trained on BGR."""
    return value[:, :, ::-1, :] if name == "conv1/7x7_s2/weights" else value
