"""Measures one network in a process of its own: `python -m benchmarks.network_costs training NETWORK SECONDS`.

Instead of `training NETWORK`, `answers FOLDER` measures an export. Prints a line of JSON. Memory is the most that the process
held at once, mapped files included; answers are computed without TensorFlow wherever they can be.
"""

import itertools
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks import photographs
from kfp_vision.core import hardware
from kfp_vision.networks import NETWORKS
from kfp_vision.prediction.classifier import Classifier
from kfp_vision.repository.version import versions

CLASSES, BATCH, MANY = 5, 16, 32


def measure_training(name: str, seconds: float) -> dict[str, float]:
    """Measures the trainer's step of all layers on one batch of 16 images, in the fastest precision of this machine.

    Args:
        name: of the network.
        seconds: of the measurement.

    Returns:
        Its parameters in millions; operations for an image in thousands of millions; images per second; MiB.
    """
    from benchmarks import training_stage
    from kfp_vision.core.frameworks import tf
    from kfp_vision.training import trainer

    network = NETWORKS[name]
    model = trainer.build_network(name, CLASSES, hardware.precision())
    training = trainer.Trainer(model, replace(training_stage.recipe(BATCH), network=name), 100)
    generator = np.random.default_rng(0)
    images = tf.constant(generator.uniform(0, 255, (BATCH, network.image_size, network.image_size, 3)), tf.float32)
    labels, rate = tf.constant(generator.integers(0, CLASSES, BATCH)), tf.constant(0.0025)
    speed = images_per_second(lambda: training.compiled_step(images, labels, rate)[0].numpy(), BATCH, seconds)
    memory = peak_memory()  # before the operations are counted, which builds the network once more
    return {
        "image_size": network.image_size,
        "parameters": model.count_params() / 1e6,
        "operations": operations(name) / 1e9,
        "training": speed,
        "training_memory": memory,
    }


def measure_answers(place: str, seconds: float) -> dict[str, float]:
    """Measures what the server does with an export: encoded photographs in, scores out, one by one and 32 together.

    Args:
        place: model repository.
        seconds: of each measurement.

    Returns:
        Images per second, one by one and in batches; MiB.
    """
    content = [content for _, content in itertools.islice(photographs.read_images(), MANY)]
    classifier = Classifier(versions(Path(place))[-1])
    alone = images_per_second(lambda: classifier.probabilities(content[:1]), 1, seconds)
    together = images_per_second(lambda: classifier.probabilities(content), MANY, seconds)
    return {"alone": alone, "together": together, "answers_memory": peak_memory()}


def operations(name: str) -> int:
    """Counts the floating-point operations of one image, a multiplication and an addition as two, by TensorFlow's profiler.

    Args:
        name: of the network.

    Returns:
        The number.
    """
    from kfp_vision.core.frameworks import convert_variables_to_constants_v2, tf

    network = NETWORKS[name]
    model = network.build(CLASSES, fast=False)
    images = tf.TensorSpec((1, network.image_size, network.image_size, 3), tf.float32)
    frozen = convert_variables_to_constants_v2(
        tf.function(lambda image: model(image, training=False)).get_concrete_function(images)
    )
    profiler = tf.compat.v1.profiler
    options = profiler.ProfileOptionBuilder(profiler.ProfileOptionBuilder.float_operation()).with_empty_output().build()
    return int(profiler.profile(frozen.graph, options=options).total_float_ops)


def images_per_second(call: Callable[[], object], images: int, seconds: float) -> float:
    """Calls once to warm up, then for a number of seconds.

    Args:
        call: computes, and waits for the result.
        images: per call.
        seconds: of the measurement.

    Returns:
        Images per second.
    """
    call()
    calls, start = 0, time.perf_counter()
    while time.perf_counter() < start + seconds:
        call()
        calls += 1
    return calls * images / (time.perf_counter() - start)


def peak_memory() -> float:
    """Returns the peak of this process's resident memory in MiB, from Linux; getrusage counts that of its parent as well."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    print(json.dumps({"training": measure_training, "answers": measure_answers}[sys.argv[1]](sys.argv[2], float(sys.argv[3]))))
