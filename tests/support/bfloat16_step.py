"""Trains a network for one step in bfloat16, as a training on a processor or GPU that computes in it does."""

import keras
import numpy as np
import tensorflow as tf

from kfp_vision.training.trainer import build_network


def assert_trains(name: str, images: np.ndarray) -> list[keras.layers.BatchNormalization]:
    """Takes a step on four images of two classes, which must change nearly all weights; returns the layers of batch norm."""
    model = build_network(name, 2, "bfloat16", image_size=images.shape[1], batch_norm_decay=0.5)
    before = [weight.numpy() for weight in model.trainable_weights]
    with tf.GradientTape() as tape:
        logits = model(images, training=True)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits([0, 1, 0, 1], logits))
    assert logits.dtype == "float32" and np.isfinite(float(loss))
    keras.optimizers.SGD(0.01).apply(tape.gradient(loss, model.trainable_weights), model.trainable_weights)
    changed = [np.any(weight.numpy() != old) for weight, old in zip(model.trainable_weights, before, strict=True)]
    assert np.mean(changed) > 0.9
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert all(np.any(norm.moving_mean.numpy() != 0) for norm in norms)
    return norms
