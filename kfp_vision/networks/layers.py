"""Layers that Keras lacks or has only slow: fused batch norm, 1x1 convolution, local response norm.

The argument `fast` selects the implementation. If true, a layer uses TensorFlow's own kernels where Keras runs on TensorFlow.
If false, it consists of stock Keras layers: slower, with the same weights and results, and anybody can load the saved file.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from kfp_vision.core.frameworks import keras, tf

ops = keras.ops

Tensor = Any  # of Keras's backend, symbolic or not; Keras has no type for it


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras's batch norm on TensorFlow's fused kernel; on other backends, Keras's own.

    Inputs and outputs: (batch, height, width, channels) in any float type; statistics are kept in float32. With several
    replicas of a `tf.distribute.Strategy`, the statistics are those of the images of all replicas, and the moving statistics
    stay equal on all of them.
    """

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor = None) -> Tensor:
        """Normalizes the inputs, and updates the moving statistics in training.

        Args:
            inputs: (batch, height, width, channels).
            training: whether to use the statistics of the batch.
            mask: only used by Keras's own batch norm.

        Returns:
            A tensor like `inputs`.
        """
        if keras.backend.backend() != "tensorflow":
            return super().call(inputs, training=training, mask=mask)
        ones = tf.ones_like(self.moving_mean)
        scale = tf.convert_to_tensor(self.gamma) if self.scale else ones
        offset = tf.convert_to_tensor(self.beta) if self.center else tf.zeros_like(ones)
        training = bool(training) and self.trainable
        replica = tf.distribute.get_replica_context()
        if training and replica and replica.num_replicas_in_sync > 1:
            outputs, mean, variance = _normalize_over_replicas(replica, inputs, scale, offset, self.epsilon)
            mean, variance = (
                moving * self.momentum + batch * (1.0 - self.momentum)
                for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance))
            )
        else:
            outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
                inputs,
                scale,
                offset,
                mean=tf.convert_to_tensor(self.moving_mean),
                variance=tf.convert_to_tensor(self.moving_variance),
                epsilon=self.epsilon,
                is_training=training,
                exponential_avg_factor=1.0 - self.momentum,  # makes it return the updated moving statistics
            )
        if training:
            self.moving_mean.assign(mean)
            self.moving_variance.assign(variance)
        return outputs


def _normalize_over_replicas(
    replica: Any, inputs: Tensor, scale: Tensor, offset: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes what the fused kernel does over the images of all replicas: outputs, mean, and variance by n - 1."""
    wide = tf.cast(inputs, tf.float32)
    count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
    axes = (0, 1, 2)
    total, count = replica.all_reduce(tf.distribute.ReduceOp.SUM, [tf.reduce_sum(wide, axes), count])
    mean = total / count
    # Mean of squares minus square of the mean would save one exchange, but cancels out for small variances.
    deviations = tf.reduce_sum(tf.math.squared_difference(wide, mean), axes)
    variance = replica.all_reduce(tf.distribute.ReduceOp.SUM, deviations) / count
    outputs = tf.nn.batch_normalization(wide, mean, variance, offset, scale, epsilon)
    return tf.cast(outputs, inputs.dtype), mean, variance * count / tf.maximum(count - 1.0, 1.0)


def batch_normalization(x: Tensor, *, name: str, momentum: float, fast: bool, scale: bool = False) -> Tensor:
    """Applies batch norm with epsilon 0.001, in TF-Slim's form unless `scale` is set: a shift but no scale.

    Args:
        x: (batch, height, width, channels).
        name: of the layer.
        momentum: decay of the moving statistics.
        fast: see the module.
        scale: whether there is a learned scale too.

    Returns:
        A tensor like `x`.
    """
    layer = FusedBatchNormalization if fast else keras.layers.BatchNormalization
    return layer(momentum=momentum, epsilon=0.001, scale=scale, name=name)(x)


class PointwiseConv2D(keras.layers.Conv2D):
    """A 1x1 convolution that trains as a matrix product.

    oneDNN's gradient of a convolution with respect to so small a kernel takes a third longer than that of a product. In
    inference it stays a convolution, which TensorFlow fuses with the batch norm behind it.
    """

    def __init__(self, filters: int, **options: Any):
        """Creates the layer.

        Args:
            filters: channels of the output.
            **options: of `keras.layers.Conv2D`.
        """
        options.setdefault("kernel_size", 1)
        super().__init__(filters, **options)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Convolves the inputs.

        Args:
            inputs: (batch, height, width, channels).
            training: whether to compute a matrix product.

        Returns:
            (batch, height, width, filters).
        """
        if not training:
            return super().call(inputs)
        _, height, width, channels = inputs.shape
        products = ops.matmul(ops.reshape(inputs, (-1, channels)), self.kernel[0, 0])
        return ops.reshape(products, (-1, height, width, self.filters))


def convolution(x: Tensor, channels: int, kernel: int, *, name: str, stride: int = 1, fast: bool) -> Tensor:
    """Applies a convolution without bias, padded so that the stride alone changes the size.

    Args:
        x: (batch, height, width, channels).
        channels: of the output.
        kernel: height and width of the kernel.
        name: of the layer.
        stride: of both axes.
        fast: see the module.

    Returns:
        (batch, height / stride, width / stride, channels), rounded up.
    """
    if fast and kernel == stride == 1:
        return PointwiseConv2D(channels, use_bias=False, name=name)(x)
    return keras.layers.Conv2D(channels, kernel, stride, padding="same", use_bias=False, name=name)(x)


class LocalResponseNormalization(keras.layers.Layer):
    """x / (1 + alpha/size * sum of x^2 over `size` neighbouring channels)^0.75, the sum as a product with a band matrix.

    TensorFlow's own kernel has no bfloat16 and is slow on CPUs; a matrix product is neither. The rest is element-wise, and XLA
    fuses it to a few passes over memory, forward and backward.
    Inputs and outputs: (batch, height, width, channels). Source: section 3.3 of Krizhevsky et al., 2012; sizes as in Caffe.
    """

    def __init__(self, size: int = 5, alpha: float = 1e-4, **options: Any):
        """Creates the layer.

        Args:
            size: number of neighbouring channels.
            alpha: factor of the sum of squares.
            **options: of `keras.layers.Layer`.
        """
        super().__init__(**options)
        self.size, self.alpha = size, alpha

    def call(self, inputs: Tensor) -> Tensor:
        """Normalizes the inputs over their channels.

        Args:
            inputs: (batch, height, width, channels).

        Returns:
            A tensor like `inputs`.
        """
        channels, factor = inputs.shape[-1], self.alpha / self.size
        band = ops.convert_to_tensor(neighbour_matrix(channels, self.size), inputs.dtype)
        if keras.backend.backend() != "tensorflow":
            return scale_by_power(inputs, ops.tensordot(ops.square(inputs), band, 1), factor)
        return _normalize_over_channels(inputs, band, factor)


def _normalize_over_channels(x: Tensor, band: Tensor, factor: float) -> Tensor:
    """`scale_by_power` of the sums of squares, with its own gradient: two products and two passes each way."""

    def sum_neighbours(values: Tensor) -> Tensor:
        return tf.reshape(tf.matmul(tf.reshape(values, (-1, values.shape[-1])), band), tf.shape(values))

    def to_power(sums: Tensor) -> tuple[Tensor, Tensor]:
        """1 + factor * sums, to the power of -0.75 and of -1.75, in float32."""
        inverse = tf.math.rsqrt(1.0 + factor * tf.cast(sums, tf.float32))
        scale = inverse * tf.sqrt(inverse)
        return scale, scale * tf.square(inverse)

    def wide(*values: Tensor) -> Iterator[Tensor]:
        return (tf.cast(value, tf.float32) for value in values)

    # XLA compiles each of these to one pass over its arguments.
    @tf.function(jit_compile=True)
    def scaled(x: Tensor, sums: Tensor) -> Tensor:
        return tf.cast(tf.cast(x, tf.float32) * to_power(sums)[0], x.dtype)

    @tf.function(jit_compile=True)
    def weighted(x: Tensor, sums: Tensor, upstream: Tensor) -> Tensor:
        wide_x, wide_upstream = wide(x, upstream)
        return tf.cast(wide_x * wide_upstream * to_power(sums)[1], x.dtype)

    @tf.function(jit_compile=True)
    def gradient(x: Tensor, sums: Tensor, upstream: Tensor, from_neighbours: Tensor) -> Tensor:
        wide_x, wide_upstream, wide_neighbours = wide(x, upstream, from_neighbours)
        return tf.cast(wide_upstream * to_power(sums)[0] - 1.5 * factor * wide_x * wide_neighbours, x.dtype)

    @tf.custom_gradient
    def normalized(x: Tensor) -> Any:
        sums = sum_neighbours(tf.square(x))
        return scaled(x, sums), lambda upstream: gradient(x, sums, upstream, sum_neighbours(weighted(x, sums, upstream)))

    return normalized(x)


def local_response_normalization(x: Tensor, *, name: str, size: int = 5, alpha: float = 1e-4, fast: bool) -> Tensor:
    """Applies local response norm, as one layer or as a frozen 1x1 convolution and element-wise operations.

    Args:
        x: (batch, height, width, channels).
        name: of the layer.
        size: number of neighbouring channels.
        alpha: factor of the sum of squares.
        fast: see the module.

    Returns:
        A tensor like `x`.
    """
    if fast:
        return LocalResponseNormalization(size, alpha, name=name)(x)
    channels = x.shape[-1]
    band = keras.layers.Conv2D(channels, 1, use_bias=False, trainable=False, name=f"{name}.band")
    sums = band(ops.square(x))
    band.set_weights([neighbour_matrix(channels, size)[None, None]])
    return scale_by_power(x, sums, alpha / size)


def neighbour_matrix(channels: int, size: int) -> npt.NDArray[np.float32]:
    """Builds the band matrix that sums over neighbouring channels.

    Args:
        channels: number of channels.
        size: number of neighbouring channels to sum over, odd.

    Returns:
        Float32 (channels, channels): one where two channels are neighbours, zero elsewhere.
    """
    index = np.arange(channels)
    band: npt.NDArray[np.float32] = (np.abs(index[:, None] - index[None]) <= size // 2).astype(np.float32)
    return band


def scale_by_power(x: Tensor, sums: Tensor, factor: float) -> Tensor:
    """Computes x * (1 + factor * sums)^-0.75, with square roots and a division: other powers are slow, in OpenVINO also -0.5.

    Args:
        x: (batch, height, width, channels).
        sums: of squares, like `x`.
        factor: of the sums.

    Returns:
        A tensor like `x`.
    """
    root = ops.sqrt(1.0 + factor * sums)
    return x / (root * ops.sqrt(root))
