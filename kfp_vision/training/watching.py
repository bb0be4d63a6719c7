"""What a person sees of a training while it runs: lines of progress, and TensorBoard's events."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import tensorflow as tf

from kfp_vision.training.recipe import Recipe

SECONDS_BETWEEN_LINES = 5.0


def watched(rows: Iterator[dict[str, float] | None], recipe: Recipe, events: Path) -> list[dict[str, float]]:
    """Collects history while it is made: prints a line every few seconds, and writes TensorBoard's events."""
    history: list[dict[str, float]] = []
    start = printed = time.perf_counter()
    writer = tf.summary.create_file_writer(str(events))
    with writer.as_default():
        for row in rows:
            if row is None:
                continue
            history.append(row)
            for name, value in row.items():
                if name != "step":
                    tf.summary.scalar(name, value, step=int(row["step"]))
            now = time.perf_counter()
            if now - printed >= SECONDS_BETWEEN_LINES or "validation_accuracy" in row or row["step"] == recipe.train_steps:
                left = (now - start) / row["step"] * (recipe.train_steps - row["step"])
                print(progress_line(row, recipe.train_steps, left), flush=True)
                printed = now
    writer.close()
    return history


def progress_line(row: Mapping[str, float], train_steps: int, seconds_left: float) -> str:
    """Such as `step 120/6000  loss 0.41  acc 0.88  43 img/s  eta 2m16s`."""
    line = f"step {row['step']:.0f}/{train_steps}  loss {row['loss']:.3f}  acc {row['accuracy']:.3f}"
    if "validation_accuracy" in row:
        line += f"  val_acc {row['validation_accuracy']:.3f}"
    line += f"  {row['images_per_second']:.0f} img/s"
    minutes, seconds = divmod(round(seconds_left), 60)
    return f"{line}  eta {minutes}m{seconds:02}s" if seconds_left >= 1 else line
