"""Measures training steps and inferences of Inception v1 at batch 16 against PyTorch, TF-Slim and stock Keras.

Also measures a training step of GoogLeNet and of EfficientNet-Lite0 against PyTorch, of each the whole trainer against its step
alone, cached images against decoding them every time, and the features of frozen layers against TensorFlow's.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peers, training_stage
from benchmarks.measure import Figure, compare
from kfp_vision import networks
from kfp_vision.core import hardware
from kfp_vision.core.frameworks import tf
from kfp_vision.networks import inception
from kfp_vision.networks.efficientnet_lite import HEAD_CHANNELS, STAGES, STEM_CHANNELS
from kfp_vision.records.records_folder import read_records_info
from kfp_vision.training import augmentation, devices, feeds, frozen_layers, input_pipeline, trainer
from kfp_vision.training.features import MAX_FEATURE_BATCH

BATCH, IMAGE_SIZE, CLASSES = 16, 224, 5
STEPS = 16
INCEPTION, GOOGLENET, LITE = "inception_v1", "googlenet", "efficientnet_lite0"


def run() -> list[Figure]:
    """Runs this benchmark.

    Returns:
        Its figures.
    """
    figures = [*against_torch(), against_slim(), *against_stock_keras(), *against_the_step_alone(), against_decoding()]
    return [*figures, features_against_tensorflow()]


def against_torch() -> list[Figure]:
    """Compares steps and an inference with PyTorch, both in the precision that is fastest on this machine.

    Returns:
        Two figures of Inception v1, and one of each other network.
    """
    precision = hardware.precision()
    program = peers.interpreter_with(*peers.TORCH), "torch_step.py"
    peer = partial(peers.run_for_number, *program, **_SIZES, half=precision == "bfloat16")
    inception_sizes = {"stem": inception.STEM_CHANNELS, "blocks": inception.BLOCK_CHANNELS}
    lite_sizes = {"stem": STEM_CHANNELS, "stages": STAGES, "head": HEAD_CHANNELS}
    name = f"{peers.TORCH[0].replace('==', ' ')}, channels last, {precision}"

    def compare_with_torch(benchmark: str, network: str, sizes: dict[str, Any], *, train: bool = True) -> Figure:
        ours = partial(steps, network=network) if train else inferences
        return compare(benchmark, name, "img/s", ours, lambda: peer(train=train, network=network, **sizes))

    return [
        compare_with_torch("train_step_vs_torch", INCEPTION, inception_sizes),
        compare_with_torch("inference_vs_torch", INCEPTION, inception_sizes, train=False),
        compare_with_torch(f"train_step_vs_torch_{GOOGLENET}", GOOGLENET, inception_sizes),
        compare_with_torch(f"train_step_vs_torch_{LITE}", LITE, lite_sizes),
    ]


def against_slim() -> Figure:
    """Compares a step with TF-Slim on its last supported TensorFlow, in float32, its only precision.

    Returns:
        The figure.
    """
    peer = partial(peers.run_for_number, peers.interpreter_with(*peers.SLIM), "slim_step.py", **_SIZES)
    name = f"TF-Slim on {peers.SLIM[0].replace('==', ' ')}, float32"
    return compare("train_step_vs_slim", name, "img/s", steps, peer)


def against_stock_keras() -> list[Figure]:
    """Compares a step and an inference with the same network of stock Keras layers.

    Returns:
        Two figures.
    """
    name = f"stock Keras layers, {hardware.precision()}"
    return [
        compare("train_step_vs_stock_keras", name, "img/s", steps, lambda: steps(fast=False)),
        compare("inference_vs_stock_keras", name, "img/s", inferences, lambda: inferences(fast=False)),
    ]


def against_the_step_alone() -> list[Figure]:
    """Compares the whole training, from records to checkpoints, with its compiled step on one batch.

    Returns:
        A figure of each network.
    """

    def whole(network: str) -> float:
        command = [sys.executable, "-m", "benchmarks.training_stage", scratch, str(BATCH), "0", "auto", network]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=peers.ROOT)
        return float(done.stdout)

    def compare_whole(network: str) -> Figure:
        benchmark = "trainer_vs_bare_step" if network == INCEPTION else f"trainer_vs_bare_step_{network}"
        name = "the compiled step alone, on one batch"
        return compare(benchmark, name, "img/s", partial(whole, network), partial(steps, network=network))

    with tempfile.TemporaryDirectory() as scratch:
        training_stage.prepare(Path(scratch))
        return [compare_whole(network) for network in (INCEPTION, GOOGLENET, LITE)]


def against_decoding() -> Figure:
    """Compares augmentation of cached decoded photographs with decoding them for every step.

    Returns:
        The figure.
    """
    with tempfile.TemporaryDirectory() as scratch:
        training_stage.prepare(Path(scratch))
        folder = Path(scratch, "records", "train")
        options = {"image_size": IMAGE_SIZE, "batch_size": BATCH, "seed": 0, "augmentation": augmentation.Augmentation()}
        epoch = -(-read_records_info(folder).images // BATCH)
        ours, peer = (
            input_pipeline.training_batches(folder, **options, memory=memory)
            for memory in (hardware.memory() // feeds.CACHE_DIVISOR, 0)
        )

        def passes(batches: Iterator[tuple[tf.Tensor, tf.Tensor]]) -> float:
            start = time.perf_counter()
            for _ in range(epoch):
                next(batches)
            return BATCH * epoch / (time.perf_counter() - start)

        name = "decoding every time, advanced={cache_pictures: false}"
        return compare("varied_from_memory", name, "img/s", lambda: passes(ours), lambda: passes(peer))


def features_against_tensorflow() -> Figure:
    """Compares what computes the frozen layers of EfficientNet-Lite0, where its last blocks are trained, with TensorFlow.

    Returns:
        The figure, without the seconds in which the engine takes the network over.
    """
    model = trainer.build_network(LITE, CLASSES, hardware.precision())
    trainer.freeze_first_blocks(model)
    last = networks.find_frozen_part(model)
    pictures, _ = one_batch(MAX_FEATURE_BATCH)

    def features(images: int) -> Callable[[], float]:
        forward = frozen_layers.forward_pass(
            model,
            lambda network: networks.split_at(network, last)[0],
            training_stage.recipe(MAX_FEATURE_BATCH, network=LITE),
            image_size=IMAGE_SIZE,
            images=images,
            scratch=Path(scratch),
        )
        return lambda: rate(lambda: tf.constant(forward(pictures)), MAX_FEATURE_BATCH)

    with tempfile.TemporaryDirectory() as scratch:
        ours, peer = features(frozen_layers.MIN_IMAGES_TO_CONVERT), features(1)
        return compare("features_vs_tensorflow", f"TensorFlow, {hardware.precision()}", "img/s", ours, peer)


def steps(*, network: str = INCEPTION, fast: bool = True, batch: int = BATCH) -> float:
    """Measures the trainer's complete compiled step on one batch.

    Args:
        network: name of the network.
        fast: whether to use our layers instead of stock Keras layers.
        batch: images per step.

    Returns:
        Images per second.
    """
    pictures, labels = one_batch(batch)
    learning_rate = tf.constant(0.0025)
    return rate(lambda: _trainer(network, fast, batch).compiled_step(pictures, labels, learning_rate)[0], batch)


def inferences(*, fast: bool = True) -> float:
    """Measures the trainer's compiled inference on one batch.

    Args:
        fast: whether to use our layers instead of stock Keras layers.

    Returns:
        Images per second.
    """
    pictures, _ = one_batch(BATCH)
    return rate(lambda: _trainer(INCEPTION, fast, BATCH).compiled_logits(pictures), BATCH)


_SIZES = {"batch": BATCH, "image_size": IMAGE_SIZE, "steps": STEPS, "classes": CLASSES}


@cache
def _trainer(network: str, fast: bool, batch: int) -> trainer.Trainer:
    model = trainer.build_network(network, CLASSES, hardware.precision(), fast=fast)
    xla = "on" if devices.count_gpus() else "auto"
    return trainer.Trainer(model, training_stage.recipe(batch, xla=xla, network=network), 100)


@cache
def one_batch(batch: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws a batch of noise.

    Args:
        batch: number of images.

    Returns:
        Images, float32 (batch, 224, 224, 3) in 0 to 255, and int64 labels (batch,).
    """
    rng = np.random.default_rng(0)
    pictures = rng.uniform(0, 255, (batch, IMAGE_SIZE, IMAGE_SIZE, 3))
    return tf.constant(pictures, tf.float32), tf.constant(rng.integers(0, CLASSES, batch))


def rate(call: Callable[[], tf.Tensor], batch: int) -> float:
    """Measures a computation on a batch, after one unmeasured call.

    Args:
        call: starts it and returns a result, which may still be computed.
        batch: number of images.

    Returns:
        Images per second.
    """
    call().numpy()
    start = time.perf_counter()
    for _ in range(STEPS):
        last = call()
    last.numpy()
    return batch * STEPS / (time.perf_counter() - start)
