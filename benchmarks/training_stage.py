"""The whole training in a process of its own, as a pod has it: `python -m benchmarks.training_stage FOLDER BATCH`.

Prints the pictures a second from the first step that TensorBoard's events tell of, once it runs steadily, to the last one: with
reading, decoding, varying the pictures, events and whatever else the trainer does between its steps.
"""

import contextlib
import io
import sys
import tempfile
from pathlib import Path

from benchmarks import photographs
from kfp_vision import catalog, partitioning, splitting, training
from kfp_vision.parameters import Advanced

STEPS, WARM_UP = 72, 12
SAVE_INTERVAL_SECS = 10


def prepare(folder: Path) -> None:
    """Makes records of the photographs, and a label map, in an existing folder."""
    write(str(photographs.copies(folder / "photographs", 1)), folder)


def write(images_uri: str, folder: Path) -> None:
    """Makes records and a label map, in an existing folder, of pictures in class folders, or in those below split folders."""
    rows = catalog.scan(images_uri).rows
    tables = {split: folder / f"{split}.csv" for split in splitting.SPLITS}
    for split, table in tables.items():
        catalog.write(table, [row for row in rows if (row.split or "train") == split])
    labels = sorted({row.label for row in rows})
    (folder / "labels").mkdir()
    splitting.write_labels(folder / "labels", labels)
    outputs = {split: folder / "records" / split for split in splitting.SPLITS}
    how = {"images_per_shard": 1000, "max_refused_ratio": 0.0, "check_pixels": True, "partition": 0, "partitions": 1}
    with contextlib.redirect_stdout(io.StringIO()):
        partitioning.write_tfrecords(tables, folder / "labels", outputs, folder / "refused.csv", **how)


def recipe(batch: int, checkpoint_dir: str = "") -> training.Recipe:
    """Inception v1 from random weights, with all that a step can have to do, and checkpoints far more often than usual."""
    return training.Recipe(
        network="inception_v1",
        fine_tune=False,
        checkpoint_uri="",
        train_last_layer_only=False,
        batch_size=batch,
        learning_rate=0.0025,
        train_steps=STEPS,
        optimizer="sgd",
        learning_rate_schedule="fixed",
        image_size=224,
        gpu_count=0,
        model_name="benchmark",
        checkpoint_dir=checkpoint_dir,
        advanced=Advanced(moving_average_decay=0.9999, save_interval_secs=SAVE_INTERVAL_SECS),
    )


def main(folder: str, batch: str) -> None:
    """Trains on what `prepare` made."""
    root, events = Path(folder), Path(folder, "events")
    train_records, validation_records = (root / "records" / split for split in ("train", "validation"))
    with contextlib.redirect_stdout(io.StringIO()):
        training.train_classifier(
            recipe(int(batch), tempfile.mkdtemp(dir=root)),  # one that is empty: a finished training is not trained again
            train_records,
            validation_records,
            root / "labels",
            model=root / "model",
            events=events,
            page=root / "training.html",
        )
    print(int(batch) * steps_a_second(events))


def steps_a_second(events: Path) -> float:
    """From the times at which TensorBoard's events were written."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    losses = [event for event in EventAccumulator(str(events)).Reload().Tensors("loss") if event.step >= WARM_UP]
    return (losses[-1].step - losses[0].step) / (losses[-1].wall_time - losses[0].wall_time)


if __name__ == "__main__":
    main(*sys.argv[1:])
