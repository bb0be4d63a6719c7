"""Measures a training step of TF-Slim's Inception v1 in float32: `python slim_step.py JSON` prints images per second.

Runs in its own environment (see `peers`). As in the tutorial, with gradient descent and batch norm's moving averages, but
without the weight decay and the moving averages of weights that our step includes.
"""

import json
import sys
import time

import numpy as np
import tensorflow.compat.v1 as tf
import tf_slim
from tf_slim.nets import inception_v1

WARM_UP = 3


def main(*, batch: int, image_size: int, steps: int, classes: int) -> None:
    """Trains on one batch and prints images per second.

    Args:
        batch: images per step.
        image_size: height and width in pixels.
        steps: number of measured steps.
        classes: number of classes.
    """
    tf.disable_eager_execution()
    rng = np.random.default_rng(0)
    # Constants instead of feeds, so that nothing is copied between steps.
    pictures = tf.constant(rng.uniform(-1, 1, (batch, image_size, image_size, 3)), tf.float32)
    labels = tf.constant(rng.integers(classes, size=batch))
    with tf_slim.arg_scope(inception_v1.inception_v1_arg_scope()):
        logits, _ = inception_v1.inception_v1(pictures, classes)
    loss = tf.losses.sparse_softmax_cross_entropy(labels, logits)
    with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)):
        step = tf.train.GradientDescentOptimizer(0.0025).minimize(loss)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        for _ in range(WARM_UP):
            session.run(step)
        start = time.perf_counter()
        for _ in range(steps):
            session.run(step)
        print(batch * steps / (time.perf_counter() - start))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
