"""Runs the whole training in its own process, as in a pod.

`python -m benchmarks.training_stage FOLDER BATCH [GPUS [XLA [NETWORK]]]` prints images per second between the first TensorBoard
event after the warm-up and the last one, including reading, decoding, augmentation, events and everything else between steps.
"""

import contextlib
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import photographs
from kfp_vision.core.advanced import Advanced
from kfp_vision.dataset import label_map, scan
from kfp_vision.dataset.table import SPLITS, write_table
from kfp_vision.records import partitions
from kfp_vision.training import train
from kfp_vision.training.recipe import Recipe

STEPS, WARM_UP = 72, 12
SAVE_INTERVAL_SECS = 10


def prepare(folder: Path) -> None:
    """Writes records of the photographs, and a label map, into an existing folder.

    Args:
        folder: the folder.
    """
    write_records(str(photographs.write_copies(folder / "photographs", 1)), folder)


def write_records(images_uri: str, folder: Path) -> None:
    """Writes records and a label map into an existing folder.

    Args:
        images_uri: images in class folders, optionally below split folders.
        folder: the folder.
    """
    rows = scan.scan_images(images_uri).rows
    tables = {split: folder / f"{split}.csv" for split in SPLITS}
    for split, table in tables.items():
        write_table(table, [row for row in rows if (row.split or "train") == split])
    labels = sorted({row.label for row in rows})
    (folder / "labels").mkdir()
    label_map.write_labels(folder / "labels", labels)
    outputs = {split: folder / "records" / split for split in SPLITS}
    options = {"images_per_shard": 1000, "max_refused_ratio": 0.0, "check_pixels": True, "partition": 0, "partitions": 1}
    with contextlib.redirect_stdout(io.StringIO()):
        partitions.write_one_partition(tables, folder / "labels", outputs, folder / "refused.csv", **options)


def recipe(batch: int, checkpoint_dir: str = "", gpus: int = 0, xla: str = "auto", network: str = "inception_v1") -> Recipe:
    """Returns a recipe from random weights whose steps include everything, with unusually frequent checkpoints.

    Args:
        batch: images per step.
        checkpoint_dir: folder for checkpoints; empty for none.
        gpus: number of GPUs; 0 for none.
        xla: `auto` does not compile a training as short as this one.
        network: name of the network.

    Returns:
        The recipe.
    """
    return Recipe(
        network=network,
        fine_tune=False,
        checkpoint_uri="",
        train_last_layer_only=False,
        batch_size=batch,
        learning_rate=0.0025,
        train_steps=STEPS,
        optimizer="sgd",
        learning_rate_schedule="fixed",
        image_size=224,
        gpu_count=gpus,
        model_name="benchmark",
        checkpoint_dir=checkpoint_dir,
        advanced=Advanced(moving_average_decay=0.9999, save_interval_secs=SAVE_INTERVAL_SECS, xla=xla),
    )


def main(folder: str, batch: str, gpus: str = "0", xla: str = "auto", network: str = "inception_v1") -> None:
    """Trains on the records of `prepare` and prints images per second.

    Args:
        folder: folder of the records.
        batch: images per step.
        gpus: number of GPUs; 0 for none.
        xla: see `recipe`.
        network: see `recipe`.
    """
    root, events = Path(folder), Path(folder, "events")
    train_records, validation_records = (root / "records" / split for split in ("train", "validation"))
    with contextlib.redirect_stdout(io.StringIO()):
        train.train_classifier(
            # An empty folder for checkpoints, because a finished training would not run again.
            recipe(int(batch), tempfile.mkdtemp(dir=root), int(gpus), xla, network),
            train_records,
            validation_records,
            root / "labels",
            model=root / "model",
            events=events,
            page=root / "training.html",
        )
    print(int(batch) * steps_per_second(events))


def steps_per_second(events: Path) -> float:
    """Computes steps per second from the times of TensorBoard events.

    Args:
        events: folder of the events.

    Returns:
        Steps per second after the warm-up.
    """
    losses = [event for event in loss_events(events) if event.step >= WARM_UP]
    return float((losses[-1].step - losses[0].step) / (losses[-1].wall_time - losses[0].wall_time))


def loss_events(events: Path) -> list[Any]:
    """Reads the TensorBoard events of the loss, with `step` and `wall_time`.

    Args:
        events: folder of the events.

    Returns:
        The events, in order.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return list(EventAccumulator(str(events)).Reload().Tensors("loss"))


if __name__ == "__main__":
    main(*sys.argv[1:])
