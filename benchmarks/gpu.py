"""Measures training and inference on a GPU, against PyTorch on the same card where it is installed: `python -m benchmarks gpu`.

Takes a quarter of an hour on an H200, most of it XLA's. Without a GPU it says so and measures nothing.
"""

import json
import subprocess
import sys
import tempfile
import time
from datetime import date
from functools import partial
from importlib import metadata
from pathlib import Path

from benchmarks import peers, photographs, serve, train, training_stage
from benchmarks.measure import Figure, compare, report
from kfp_vision.core.frameworks import keras, tf
from kfp_vision.networks import inception
from kfp_vision.repository.version import versions
from kfp_vision.training import devices

TRAINED = (16, 128)  # images per step
FIRST_STEP_LIMIT = 20.0  # seconds
PIXELS_BATCH = 256
JPEG_BATCH, JPEG_LIMIT = 32, 5000.0  # images per second, on 16 cores
ALONE_LIMIT = 3.0  # milliseconds
SECONDS = 5.0


def run() -> list[Figure]:
    """Runs this benchmark.

    Returns:
        Its figures; none without a GPU.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        print("no GPU is visible to TensorFlow: nothing is measured")
        return []
    devices.choose_strategy(1)  # leaves memory of the card to the processes beside this one
    print(json.dumps(describe_card()), flush=True)
    torch = peers.interpreter_with_torch_on_a_gpu()
    if torch is None:
        print("PyTorch does not see the GPU: it is measured without, BENCH_TORCH names an interpreter that has it", flush=True)
    return [*training(torch), *inference(torch)]


def describe_card() -> dict[str, str]:
    """Returns the card, its driver, the versions and the day of a measurement."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader", "--id=0"]
    name, driver = subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip().split(", ")
    packages = {"tensorflow": tf.__version__, "keras": keras.__version__, "pillow": metadata.version("pillow")}
    return {"card": name, "driver": driver, **packages, "date": f"{date.today():%Y-%m-%d}"}


def training(torch: Path | None) -> list[Figure]:
    """Measures training steps against PyTorch, and the whole training against the steps and the limit of the first one.

    Args:
        torch: interpreter that has PyTorch; None for no comparison.

    Returns:
        Figures by batch size.
    """
    figures = []
    for batch in TRAINED:
        bare = partial(train.steps, batch=batch)
        if torch:
            peer = partial(_torch, torch, batch=batch, train=True)
            figures.append(compare(f"gpu_train_step_{batch}", "PyTorch eager, bfloat16", "img/s", bare, peer))
        rate, _ = whole_training(batch, "on")
        figures.append(report(f"gpu_trainer_{batch}", "the compiled step alone, on one batch", "img/s", [(rate, bare())]))
        pair = whole_training(batch, "auto")[1], FIRST_STEP_LIMIT
        figures.append(report(f"gpu_first_steps_{batch}", "the limit, from the start of Python", "s", [pair], less=True))
    return figures


def whole_training(batch: int, xla: str) -> tuple[float, float]:
    """Trains from records, in a process of its own, on one GPU.

    Args:
        batch: images per step.
        xla: `xla` of `advanced`.

    Returns:
        Images per second after the warm-up, and seconds from the start of the process to its first row of history.
    """
    with tempfile.TemporaryDirectory() as scratch:
        training_stage.prepare(Path(scratch))
        start = time.time()
        command = [sys.executable, "-m", "benchmarks.training_stage", scratch, str(batch), "1", xla]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=peers.ROOT)
        return float(done.stdout), training_stage.loss_events(Path(scratch, "events"))[0].wall_time - start


def inference(torch: Path | None) -> list[Figure]:
    """Measures the export: pixels against compiled PyTorch, JPEGs and a single image against their limits.

    Args:
        torch: interpreter that has PyTorch; None for no comparison.

    Returns:
        Figures.
    """
    figures = []
    with tempfile.TemporaryDirectory() as scratch:
        place = serve.write_model_apart(Path(scratch, "models"), "inception_v1")
        pictures = photographs.write_copies(Path(scratch, "photographs"), 1)
        if torch:
            ours = partial(pixels_rate, versions(place)[-1].folder)
            peer = partial(_torch, torch, batch=PIXELS_BATCH, train=False, compiled=True)
            figures.append(compare(f"gpu_pixels_{PIXELS_BATCH}", "torch.compile, bfloat16", "img/s", ours, peer))
        several = serve.measure_in_process(place, pictures, SECONDS, JPEG_BATCH)
        alone = 1000 / serve.measure_in_process(place, pictures, SECONDS, 1)
    figures.append(report(f"gpu_jpeg_{JPEG_BATCH}", "the limit, 16 cores", "img/s", [(several, JPEG_LIMIT)]))
    figures.append(report("gpu_jpeg_1", "the limit", "ms", [(alone, ALONE_LIMIT)], less=True, digits=2))
    return figures


def pixels_rate(version: Path) -> float:
    """Measures the signature `pixels` of an export on one batch in the memory of the device.

    Args:
        version: folder of the export.

    Returns:
        Images per second.
    """
    classify = tf.saved_model.load(str(version)).signatures["pixels"]
    pictures, _ = train.one_batch(PIXELS_BATCH)
    return train.rate(lambda: classify(images=pictures)["probabilities"], PIXELS_BATCH)


def _torch(interpreter: Path, **settings: object) -> float:
    """Measures Inception v1 in PyTorch on the GPU, in bfloat16: images per second."""
    network = {"network": "inception_v1", "stem": inception.STEM_CHANNELS, "blocks": inception.BLOCK_CHANNELS}
    sizes = {"image_size": train.IMAGE_SIZE, "steps": train.STEPS, "classes": train.CLASSES}
    return peers.run_for_number(interpreter, "torch_step.py", device="cuda", half=True, **network, **sizes, **settings)
