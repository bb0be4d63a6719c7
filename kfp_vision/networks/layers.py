"""Layers that Keras lacks or has only slow: fused batch norm, 1x1 and depthwise convolutions, rectifiers, local response norm.

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

STRIP_COLUMNS = 3  # of a depthwise kernel: the most for which oneDNN has a depthwise gradient


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
    """A 1x1 convolution that trains as a matrix product on a processor.

    oneDNN's gradient of a convolution with respect to so small a kernel takes a third longer than that of a product. In
    inference it stays a convolution, which TensorFlow fuses with the batch norm behind it; on a GPU, which computes the
    gradients with cuDNN, also in training.
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
            training: whether gradients will be asked for.

        Returns:
            (batch, height, width, filters).
        """
        if not (training and _computes_as_products()):
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


class FastDepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """Keras's depthwise convolution with gradients that are fast on a processor; elsewhere, Keras's own."""

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Convolves each channel with its own kernel.

        Args:
            inputs: (batch, height, width, channels).
            training: whether gradients will be asked for.

        Returns:
            (batch, height, width, channels), height and width by stride and padding.
        """
        if not (training and _is_plain(self) and _computes_on_processor()):
            return super().call(inputs)
        outputs = depthwise_convolution(inputs, tf.convert_to_tensor(self.kernel), self.strides[0], self.padding.upper())
        if self.use_bias:
            outputs += self.bias
        return self.activation(outputs)


class FastGroupedConv2D(keras.layers.Conv2D):
    """Keras's convolution; one with a channel to a group, as in ConvNeXt, is computed as the depthwise one that it is.

    TensorFlow computes the gradients of groups on a processor by a general kernel: a step of ConvNeXt Tiny took 5.9 times as
    long with it.
    """

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Convolves the inputs.

        Args:
            inputs: (batch, height, width, channels).
            training: whether gradients will be asked for.

        Returns:
            (batch, height, width, filters), height and width by stride and padding.
        """
        is_depthwise = 1 < self.groups == self.filters == inputs.shape[-1] and self.padding in ("same", "valid")
        if not (training and is_depthwise and _is_plain(self) and _computes_on_processor()):
            return super().call(inputs)
        kernel = tf.transpose(tf.convert_to_tensor(self.kernel), (0, 1, 3, 2))
        outputs = depthwise_convolution(inputs, kernel, self.strides[0], self.padding.upper())
        if self.use_bias:
            outputs += self.bias
        return self.activation(outputs)


def _is_plain(layer: Any) -> bool:
    """Returns whether a convolution is one that `depthwise_convolution` computes."""
    return bool(layer.data_format == "channels_last") and set(layer.dilation_rate) == {1} and len(set(layer.strides)) == 1


def _computes_as_products() -> bool:
    return bool(keras.backend.backend() != "tensorflow") or _computes_on_processor()


def _computes_on_processor() -> bool:
    return bool(keras.backend.backend() == "tensorflow") and not tf.config.get_visible_devices("GPU")


def depthwise_convolution(x: Tensor, kernel: Tensor, stride: int, padding: str) -> Tensor:
    """Computes `tf.nn.depthwise_conv2d`, with gradients for which oneDNN has its own depthwise kernels.

    For the others, oneDNN 3.7 takes the kernels of dense convolutions, one channel per group, which are five to ten times as
    slow. These are the gradient of kernels wider than three columns (jit_uni_dw_conv_kernel_utils.cpp), which is composed of
    strips here, and that of the inputs in bfloat16 at a stride (cpu_convolution_list.cpp), which is computed in float32.

    Args:
        x: (batch, height, width, channels).
        kernel: (height, width, channels, multiplier), of the type of `x`.
        stride: of both axes.
        padding: `SAME` or `VALID`.

    Returns:
        (batch, height, width, channels * multiplier), height and width by stride and padding.
    """
    strides = (1, stride, stride, 1)

    @tf.custom_gradient
    def convolved(x: Tensor, kernel: Tensor) -> Any:
        def gradient(upstream: Tensor) -> tuple[Tensor, Tensor]:
            kind = tf.float32 if stride > 1 and x.dtype == tf.bfloat16 else x.dtype
            wide = tf.cast(kernel, kind), tf.cast(upstream, kind)
            of_x = tf.nn.depthwise_conv2d_backprop_input(tf.shape(x), *wide, strides, padding)
            return tf.cast(of_x, x.dtype), _depthwise_kernel_gradient(x, kernel.shape, upstream, stride, padding)

        return tf.nn.depthwise_conv2d(x, kernel, strides, padding), gradient

    return convolved(x, kernel)


def _depthwise_kernel_gradient(x: Tensor, shape: Any, upstream: Tensor, stride: int, padding: str) -> Tensor:
    """Computes the gradient of a depthwise kernel of this shape in strips of so many columns as oneDNN's own kernel takes."""
    strides = (1, stride, stride, 1)
    height, width, channels, multiplier = shape
    if width <= STRIP_COLUMNS:
        return tf.nn.depthwise_conv2d_backprop_filter(x, shape, upstream, strides, padding)
    if padding == "SAME":
        sides = (_same_padding(size, kernel, stride) for size, kernel in zip(x.shape[1:3], (height, width), strict=True))
        x = tf.pad(x, [(0, 0), *sides, (0, 0)])
    span = (upstream.shape[2] - 1) * stride  # from the first column that a column of the kernel sees to the last
    strips = []
    for first in range(0, width, STRIP_COLUMNS):
        columns = min(STRIP_COLUMNS, width - first)
        seen, part = x[:, :, first : first + span + columns], (height, columns, channels, multiplier)
        strips.append(tf.nn.depthwise_conv2d_backprop_filter(seen, part, upstream, strides, "VALID"))
    return tf.concat(strips, 1)


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Returns what TensorFlow's padding `SAME` adds before and after `size` pixels."""
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def depthwise(x: Tensor, kernel: int, *, name: str, stride: int = 1, fast: bool) -> Tensor:
    """Applies a depthwise convolution without bias, padded so that the stride alone changes the size.

    Args:
        x: (batch, height, width, channels).
        kernel: height and width of the kernel.
        name: of the layer.
        stride: of both axes.
        fast: see the module.

    Returns:
        (batch, height / stride, width / stride, channels), rounded up.
    """
    layer = FastDepthwiseConv2D if fast else keras.layers.DepthwiseConv2D
    return layer(kernel, stride, padding="same", use_bias=False, name=name)(x)


class FastReLU(keras.layers.ReLU):
    """Keras's rectifier; one with a limit in bfloat16 is compiled by XLA, as TensorFlow's own takes three times as long."""

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Limits the inputs to between 0 and `max_value`.

        Args:
            inputs: of any shape.
            training: whether gradients will be asked for. In inference TensorFlow fuses its own into the convolution before it.

        Returns:
            A tensor like `inputs`.
        """
        is_plain = self.max_value is not None and not self.negative_slope and not self.threshold
        if training and is_plain and inputs.dtype == "bfloat16" and _computes_on_processor():
            return _clip_from_zero(inputs, float(self.max_value))
        return super().call(inputs)


def relu6(x: Tensor, *, name: str, fast: bool) -> Tensor:
    """Limits activations to between 0 and 6.

    Args:
        x: of any shape.
        name: of the layer.
        fast: see the module.

    Returns:
        A tensor like `x`.
    """
    return (FastReLU if fast else keras.layers.ReLU)(6.0, name=name)(x)


def _clip_from_zero(x: Tensor, limit: float) -> Tensor:
    @tf.custom_gradient
    def with_gradient(x: Tensor) -> Any:
        outputs = _clipped(x, limit)
        return outputs, lambda upstream: _clipped_gradient(outputs, upstream, limit)

    return with_gradient(x)


# XLA compiles each of these to one pass over its arguments, once for all layers of a shape.
@tf.function(jit_compile=True)
def _clipped(x: Tensor, limit: float) -> Tensor:
    return tf.cast(tf.clip_by_value(tf.cast(x, tf.float32), 0.0, limit), x.dtype)


@tf.function(jit_compile=True)
def _clipped_gradient(outputs: Tensor, upstream: Tensor, limit: float) -> Tensor:
    return tf.where((outputs > 0) & (outputs < limit), upstream, tf.zeros_like(upstream))


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
