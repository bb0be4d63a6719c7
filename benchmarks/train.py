"""One training step and one inference of Inception v1 at batch 16, against the same network of stock Keras layers."""

import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from benchmarks.measure import Figure, compare
from kfp_vision import hardware, parameters, training

BATCH, STEPS = 16, 8
RECIPE = training.Recipe(
    network="inception_v1",
    fine_tune=False,
    checkpoint_uri="",
    train_last_layer_only=False,
    batch_size=BATCH,
    learning_rate=0.0025,
    train_steps=6000,
    optimizer="sgd",
    learning_rate_schedule="fixed",
    image_size=224,
    gpu_count=0,
    model_name="benchmark",
)


def run() -> list[Figure]:
    """The rows of this benchmark."""
    trainers = {fast: _trainer(fast) for fast in (True, False)}
    rng = np.random.default_rng(0)
    pictures = tf.constant(rng.uniform(0, 255, (BATCH, 224, 224, 3)), tf.float32)
    labels = tf.constant(rng.integers(0, 5, BATCH))
    rate = tf.constant(0.0025)
    name = f"stock Keras layers, {hardware.precision()}"
    return [
        compare(
            "train_step_vs_stock_keras",
            name,
            "img/s",
            lambda: _rate(lambda: trainers[True].compiled_step(pictures, labels, rate)[0]),
            lambda: _rate(lambda: trainers[False].compiled_step(pictures, labels, rate)[0]),
        ),
        compare(
            "inference_vs_stock_keras",
            name,
            "img/s",
            lambda: _rate(lambda: trainers[True].compiled_logits(pictures)),
            lambda: _rate(lambda: trainers[False].compiled_logits(pictures)),
        ),
    ]


def _trainer(fast: bool) -> training.Trainer:
    model = training.build("inception_v1", 5, hardware.precision(), fast=fast)
    return training.Trainer(model, RECIPE, parameters.advanced({}), 100)


def _rate(call: Callable[[], tf.Tensor]) -> float:
    call().numpy()
    start = time.perf_counter()
    for _ in range(STEPS):
        last = call()
    last.numpy()
    return BATCH * STEPS / (time.perf_counter() - start)
