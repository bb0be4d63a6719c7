"""Trains fused batch norm on one device, and on two that share the images: `python replicas.py ONE.npz TWO.npz`.

A process of its own, since a processor is made into two devices before TensorFlow starts.
"""

import sys

import kfp_vision  # noqa: F401  configures TensorFlow

import numpy as np  # isort: skip
import tensorflow as tf  # isort: skip

from kfp_vision.networks.layers import FusedBatchNormalization

STEPS = 2


def trained(strategy: tf.distribute.Strategy) -> dict[str, np.ndarray]:
    """Returns outputs, gradients and moving statistics of the last step; per device where all devices must agree."""
    rng = np.random.default_rng(0)
    pictures, weights = (rng.normal(mean, 2, (8, 5, 5, 4)).astype("float32") for mean in (3, 0))
    with strategy.scope():
        layer = FusedBatchNormalization(momentum=0.9, epsilon=0.001)
        layer.build(pictures.shape)

    def of_each(whole: np.ndarray) -> tf.distribute.DistributedValues:
        parts = np.split(whole, strategy.num_replicas_in_sync)
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group])
        )

    @tf.function
    def step(pictures, weights):
        with tf.GradientTape() as tape:
            tape.watch(pictures)
            outputs = layer(pictures, training=True)
            loss = tf.reduce_sum(outputs * weights)
        return outputs, *tape.gradient(loss, [pictures, layer.gamma.value, layer.beta.value])

    for _ in range(STEPS):
        outputs, of_pictures, of_scale, of_shift = strategy.run(step, (of_each(pictures), of_each(weights)))
    results = strategy.experimental_local_results
    return {
        "outputs": np.concatenate(results(outputs)),
        "gradient": np.concatenate(results(of_pictures)),
        "gradient of the scale": np.sum(results(of_scale), 0),
        "gradient of the shift": np.sum(results(of_shift), 0),
        "moving means": np.stack(results(layer.moving_mean.value)),
        "moving variances": np.stack(results(layer.moving_variance.value)),
    }


if __name__ == "__main__":
    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
    np.savez(sys.argv[1], **trained(tf.distribute.OneDeviceStrategy("CPU:0")))
    np.savez(sys.argv[2], **trained(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])))
