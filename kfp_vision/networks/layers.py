"""The two layers of the Inception family that Keras has not, or has not fast: batch norm in one kernel, local response norm.

Each is chosen by `fast`. With it, a layer uses TensorFlow's own kernels where Keras runs on TensorFlow. Without it, a layer
is made of stock Keras layers alone: slower, the same weights and the same numbers, and anybody can load the saved file.
"""

import keras
import numpy as np
from keras import ops


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras's batch norm on TensorFlow's fused kernel; falls back to Keras's own on other backends.

    Inputs and outputs: (batch, height, width, channels) in any float type; statistics are kept in float32.
    """

    def call(self, inputs, training=None, mask=None):
        if keras.backend.backend() != "tensorflow":
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        training = bool(training) and self.trainable
        ones = tf.ones_like(self.moving_mean)
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs,
            scale=self.gamma if self.scale else ones,
            offset=self.beta if self.center else tf.zeros_like(ones),
            mean=None if training else self.moving_mean,
            variance=None if training else self.moving_variance,
            epsilon=self.epsilon,
            is_training=training,
        )
        if training:
            for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(moving * self.momentum + batch * (1.0 - self.momentum))
        return outputs


def batch_normalization(x, *, name: str, momentum: float, fast: bool):
    """TF-Slim's batch norm: a shift and no scale, epsilon 0.001."""
    layer = FusedBatchNormalization if fast else keras.layers.BatchNormalization
    return layer(momentum=momentum, epsilon=0.001, scale=False, name=name)(x)


class LocalResponseNormalization(keras.layers.Layer):
    """x / (1 + alpha/size * sum of x^2 over `size` neighbouring channels)^0.75, the sum as a banded 1x1 convolution.

    TensorFlow's own kernel has no bfloat16 and is slow on CPUs; a matrix product with a band of ones is neither.
    Inputs and outputs: (batch, height, width, channels). Source: section 3.3 of Krizhevsky et al., 2012; sizes as in Caffe.
    """

    def __init__(self, size: int = 5, alpha: float = 1e-4, **kwargs):
        super().__init__(**kwargs)
        self.size, self.alpha = size, alpha

    def call(self, inputs):
        band = ops.convert_to_tensor(channel_band(inputs.shape[-1], self.size), inputs.dtype)
        return scale_by_power(inputs, ops.tensordot(ops.square(inputs), band, 1), self.alpha / self.size)


def local_response_normalization(x, *, name: str, size: int = 5, alpha: float = 1e-4, fast: bool):
    """Local response norm as one layer, or as a frozen Dense layer and elementary operations."""
    if fast:
        return LocalResponseNormalization(size, alpha, name=name)(x)
    channels = x.shape[-1]
    band = keras.layers.Dense(channels, use_bias=False, trainable=False, name=f"{name}.band")
    sums = band(ops.square(x))
    band.set_weights([channel_band(channels, size)])
    return scale_by_power(x, sums, alpha / size)


def channel_band(channels: int, size: int) -> np.ndarray:
    """(channels, channels) float32: one where two channels are neighbours, zero elsewhere."""
    index = np.arange(channels)
    return (np.abs(index[:, None] - index[None]) <= size // 2).astype("float32")


def scale_by_power(x, sums, factor: float):
    """x * (1 + factor * sums)^-0.75, with square roots in place of the power, which is slow."""
    inverse = ops.rsqrt(1.0 + factor * sums)
    return x * inverse * ops.sqrt(inverse)
