"""The layers of the Inception family that Keras has not, or has not fast: batch norm in one kernel, 1x1 convolutions as matrix
products, local response norm.

Each is chosen by `fast`. With it, a layer uses TensorFlow's own kernels where Keras runs on TensorFlow. Without it, a layer
is made of stock Keras layers alone: slower, the same weights and the same numbers, and anybody can load the saved file.
"""

import keras
import numpy as np
from keras import ops


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras's batch norm on TensorFlow's fused kernel; falls back to Keras's own on other backends.

    Inputs and outputs: (batch, height, width, channels) in any float type; statistics are kept in float32. Where several
    replicas of a `tf.distribute.Strategy` train together, the statistics are those of all their pictures, and the moving ones
    stay the same on each.
    """

    def call(self, inputs, training=None, mask=None):
        if keras.backend.backend() != "tensorflow":
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        ones = tf.ones_like(self.moving_mean)
        scale = tf.convert_to_tensor(self.gamma) if self.scale else ones
        offset = tf.convert_to_tensor(self.beta) if self.center else tf.zeros_like(ones)
        training = bool(training) and self.trainable
        replica = tf.distribute.get_replica_context()
        if training and replica and replica.num_replicas_in_sync > 1:
            outputs, mean, variance = _normalized_together(replica, inputs, scale, offset, self.epsilon)
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
                exponential_avg_factor=1.0 - self.momentum,  # of these it gives the new moving ones
            )
        if training:
            self.moving_mean.assign(mean)
            self.moving_variance.assign(variance)
        return outputs


def _normalized_together(replica, inputs, scale, offset, epsilon: float):
    """What the fused kernel computes, over the pictures of all replicas: outputs, mean, and variance by n - 1."""
    import tensorflow as tf

    wide = tf.cast(inputs, tf.float32)
    count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
    places = (0, 1, 2)
    total, count = replica.all_reduce(tf.distribute.ReduceOp.SUM, [tf.reduce_sum(wide, places), count])
    mean = total / count
    # Squares less the square of the mean would be one exchange in place of two, and lose what a small variance is made of.
    deviations = tf.reduce_sum(tf.math.squared_difference(wide, mean), places)
    variance = replica.all_reduce(tf.distribute.ReduceOp.SUM, deviations) / count
    outputs = tf.nn.batch_normalization(wide, mean, variance, offset, scale, epsilon)
    return tf.cast(outputs, inputs.dtype), mean, variance * count / tf.maximum(count - 1.0, 1.0)


def batch_normalization(x, *, name: str, momentum: float, fast: bool):
    """TF-Slim's batch norm: a shift and no scale, epsilon 0.001."""
    layer = FusedBatchNormalization if fast else keras.layers.BatchNormalization
    return layer(momentum=momentum, epsilon=0.001, scale=False, name=name)(x)


class PointwiseConv2D(keras.layers.Conv2D):
    """A 1x1 convolution that trains as a matrix product; otherwise it stays one, which TensorFlow fuses with its batch norm.

    oneDNN's gradient of a convolution with respect to so small a kernel takes a third longer than that of a product.
    """

    def __init__(self, filters: int, **kwargs):
        kwargs.setdefault("kernel_size", 1)
        super().__init__(filters, **kwargs)

    def call(self, inputs, training=None):
        if not training:
            return super().call(inputs)
        _, height, width, channels = inputs.shape
        products = ops.matmul(ops.reshape(inputs, (-1, channels)), self.kernel[0, 0])
        return ops.reshape(products, (-1, height, width, self.filters))


def convolution(x, channels: int, kernel: int, *, name: str, stride: int = 1, fast: bool):
    """A convolution without bias that keeps the size, or divides it by the stride."""
    if fast and kernel == stride == 1:
        return PointwiseConv2D(channels, use_bias=False, name=name)(x)
    return keras.layers.Conv2D(channels, kernel, stride, padding="same", use_bias=False, name=name)(x)


class LocalResponseNormalization(keras.layers.Layer):
    """x / (1 + alpha/size * sum of x^2 over `size` neighbouring channels)^0.75, the sum as a product with a band of ones.

    TensorFlow's own kernel has no bfloat16 and is slow on CPUs; a matrix product is neither. What is left are passes over
    memory, which XLA makes few of, there and back.
    Inputs and outputs: (batch, height, width, channels). Source: section 3.3 of Krizhevsky et al., 2012; sizes as in Caffe.
    """

    def __init__(self, size: int = 5, alpha: float = 1e-4, **kwargs):
        super().__init__(**kwargs)
        self.size, self.alpha = size, alpha

    def call(self, inputs):
        channels, factor = inputs.shape[-1], self.alpha / self.size
        band = ops.convert_to_tensor(channel_band(channels, self.size), inputs.dtype)
        if keras.backend.backend() != "tensorflow":
            return scale_by_power(inputs, ops.tensordot(ops.square(inputs), band, 1), factor)
        return _normalized_over_channels(inputs, band, factor)


def _normalized_over_channels(x, band, factor: float):
    """`scale_by_power` of the sums of squares, with a gradient of its own: two products and two passes each way."""
    import tensorflow as tf

    def near(values):
        return tf.reshape(tf.matmul(tf.reshape(values, (-1, values.shape[-1])), band), tf.shape(values))

    def to_power(sums):
        """1 + factor * sums, to the power of -0.75 and of -1.75, in float32."""
        inverse = tf.math.rsqrt(1.0 + factor * tf.cast(sums, tf.float32))
        scale = inverse * tf.sqrt(inverse)
        return scale, scale * tf.square(inverse)

    def wide(*values):
        return (tf.cast(value, tf.float32) for value in values)

    # Each of these is one pass over its arguments, whatever stands in it.
    @tf.function(jit_compile=True)
    def scaled(x, sums):
        return tf.cast(tf.cast(x, tf.float32) * to_power(sums)[0], x.dtype)

    @tf.function(jit_compile=True)
    def weighted(x, sums, upstream):
        wide_x, wide_upstream = wide(x, upstream)
        return tf.cast(wide_x * wide_upstream * to_power(sums)[1], x.dtype)

    @tf.function(jit_compile=True)
    def gradient(x, sums, upstream, from_neighbours):
        wide_x, wide_upstream, wide_neighbours = wide(x, upstream, from_neighbours)
        return tf.cast(wide_upstream * to_power(sums)[0] - 1.5 * factor * wide_x * wide_neighbours, x.dtype)

    @tf.custom_gradient
    def normalized(x):
        sums = near(tf.square(x))
        return scaled(x, sums), lambda upstream: gradient(x, sums, upstream, near(weighted(x, sums, upstream)))

    return normalized(x)


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
