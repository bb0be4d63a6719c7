"""Measures how long the trainer waits for images whose records are on a slow disk: `python -m benchmarks slow_disk`.

The disk is emulated in the process that trains: opening a file of records, and each read of it, takes 25 ms, as where the
folder of an artifact is mounted from a store. Images are not cached, so every step reads from the disk.
"""

import contextlib
import io
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import training_stage
from benchmarks.measure import Figure, report
from kfp_vision.records.tfrecord import TFRECORD_SUFFIX
from kfp_vision.training import train
from kfp_vision.training.recipe import Recipe

LATENCY = 0.025  # seconds per request
BATCH = 16
LIMIT = 3.0  # percent of the time


def run() -> list[Figure]:
    """Runs this benchmark.

    Returns:
        Its figure.
    """
    with tempfile.TemporaryDirectory() as scratch:
        training_stage.prepare(Path(scratch))
        wait = measure_wait(Path(scratch), LATENCY)
    return [report("slow_disk_wait", "the limit, 25 ms a request", "% of the time", [(wait, LIMIT)], less=True)]


def measure_wait(folder: Path, latency: float, recipe: Recipe | None = None) -> float:
    """Trains on the records of `training_stage.prepare`, read slowly.

    Args:
        folder: with the records.
        latency: seconds per request.
        recipe: how to train; by default that of `training_stage`.

    Returns:
        The percentage of the time after the warm-up in which the trainer waited for images, from the rows of history.
    """
    recipe = recipe or training_stage.recipe(BATCH)
    recipe = replace(recipe, advanced=replace(recipe.advanced, cache_pictures=False))
    train_records, validation_records = (folder / "records" / split for split in ("train", "validation"))
    outputs = {name: folder / name for name in ("model", "events")} | {"page": folder / "training.html"}
    with delayed_requests(latency), contextlib.redirect_stdout(io.StringIO()):
        train.train_classifier(recipe, train_records, validation_records, folder / "labels", **outputs)
    rows = json.loads((folder / "model" / "training.json").read_text())
    warm = [row for row in rows if row["step"] > training_stage.WARM_UP]
    seconds = [1 / row["images_per_second"] for row in warm]  # up to a factor: all rows have as many steps
    return 100 * float(np.average([row["input_wait"] for row in warm], weights=seconds))


@contextlib.contextmanager
def delayed_requests(seconds: float) -> Iterator[None]:
    """Delays opening a file of records, and `os.pread`, by which records are read, in this process.

    Args:
        seconds: per request.
    """
    open_file, read = io.open, os.pread

    def slow_open(file: Any, *args: Any, **options: Any) -> Any:
        if str(file).endswith(TFRECORD_SUFFIX):
            time.sleep(seconds)
        return open_file(file, *args, **options)

    def slow_read(file: int, length: int, offset: int) -> bytes:
        time.sleep(seconds)
        return read(file, length, offset)

    # pathlib opens files by io.open.
    with mock.patch.object(io, "open", slow_open), mock.patch.object(os, "pread", slow_read):
        yield
