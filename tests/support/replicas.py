"""Trains two layers on one device, and on two that share the images: `python replicas.py ONE.npz TWO.npz`.

Runs in its own process, since the CPU must be split into two logical devices before TensorFlow starts.
"""

import sys

import numpy as np

from kfp_vision.core.frameworks import keras, tf
from kfp_vision.networks.layers import FastDepthwiseConv2D, FusedBatchNormalization

STEPS = 2


def train(strategy: tf.distribute.Strategy) -> dict[str, np.ndarray]:
    """Trains, and returns outputs, gradients and moving statistics of the last step, per device where devices must agree."""
    rng = np.random.default_rng(0)
    images, weights = (rng.normal(mean, 2, (8, 5, 5, 4)).astype("float32") for mean in (3, 0))
    with strategy.scope():
        convolution = FastDepthwiseConv2D(5, padding="same", depthwise_initializer=keras.initializers.Constant(0.5))
        layer = FusedBatchNormalization(momentum=0.9, epsilon=0.001)
        convolution.build(images.shape)
        layer.build(images.shape)

    def per_device(whole: np.ndarray) -> tf.distribute.DistributedValues:
        parts = np.split(whole, strategy.num_replicas_in_sync)
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group])
        )

    @tf.function
    def step(images, weights):
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = layer(convolution(images, training=True), training=True)
            loss = tf.reduce_sum(outputs * weights)
        return outputs, *tape.gradient(loss, [images, convolution.kernel.value, layer.gamma.value, layer.beta.value])

    for _ in range(STEPS):
        outputs, of_pictures, of_kernel, of_scale, of_shift = strategy.run(step, (per_device(images), per_device(weights)))
    results = strategy.experimental_local_results
    return {
        "outputs": np.concatenate(results(outputs)),
        "gradient": np.concatenate(results(of_pictures)),
        "gradient of the kernel": np.sum(results(of_kernel), 0),
        "gradient of the scale": np.sum(results(of_scale), 0),
        "gradient of the shift": np.sum(results(of_shift), 0),
        "moving means": np.stack(results(layer.moving_mean.value)),
        "moving variances": np.stack(results(layer.moving_variance.value)),
    }


if __name__ == "__main__":
    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
    np.savez(sys.argv[1], **train(tf.distribute.OneDeviceStrategy("CPU:0")))
    np.savez(sys.argv[2], **train(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])))
