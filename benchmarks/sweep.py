"""A sweep of six trials on the drawn images that ends trials early, against one that trains all to their end.

`python -m benchmarks.sweep FOLDER FACTOR` runs one sweep, in a process of its own: six trials one after another, as
`kfp-vision run` does, without the start of their processes. Both sweeps must choose the same trial.
"""

import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import peers
from benchmarks.measure import Figure, report, rounds
from kfp_vision.core.advanced import Advanced
from kfp_vision.dataset.ingest import ingest_images
from kfp_vision.dataset.split import split_images
from kfp_vision.dataset.table import SPLITS
from kfp_vision.records import partitions
from kfp_vision.training import sweep
from kfp_vision.training.recipe import Recipe
from kfp_vision.training.trial_plan import plan_trials

FACTOR = 3  # the setting that the documentation names
STEPS, IMAGE_SIZE, NARROW = 480, 80, 0.25
FIELDS = {
    "trials": 0,
    "networks": ["inception_v1"],
    "optimizers": ["adam", "sgd"],
    "batch_sizes": [16],
    "learning_rates": [1e-5, 2.5e-3, 0.02],
}


class Swept(NamedTuple):
    """Result of a sweep.

    Attributes:
        processor_seconds: of all trials, export and validation included.
        steps: that all trials have taken.
        best_trial: number of the trial that was chosen.
        accuracy: of its model on the validation images, 0 to 1.
    """

    processor_seconds: float
    steps: int
    best_trial: int
    accuracy: float


def run() -> list[Figure]:
    """Runs this benchmark.

    Returns:
        Processor seconds and steps of a sweep, and the accuracy of the model that it chooses, in percent.

    Raises:
        ValueError: the sweeps have chosen different trials.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_records(folder)
        pairs = [(run_sweep(folder, FACTOR), run_sweep(folder, 0)) for _ in range(rounds())]
    if any(ours.best_trial != all_to_the_end.best_trial for ours, all_to_the_end in pairs):
        raise ValueError(f"the same trial must be chosen; got {pairs}")
    name = "the same sweep, every trial to its end"
    return [
        report("sweep_processor", name, "s", [(a.processor_seconds, b.processor_seconds) for a, b in pairs], less=True),
        report("sweep_steps", name, "steps", [(float(a.steps), float(b.steps)) for a, b in pairs], less=True),
        report("sweep_accuracy", name, "%", [(100 * a.accuracy, 100 * b.accuracy) for a, b in pairs]),
    ]


def write_records(folder: Path) -> None:
    """Writes records of the drawn images, split as a run does, and a label map.

    Args:
        folder: an existing folder.
    """
    tables = {split: folder / f"{split}.csv" for split in SPLITS}
    with contextlib.redirect_stdout(io.StringIO()):
        images = {"table": folder / "images.csv", "page": folder / "summary.html"}
        ingest_images("sample", check_images=True, splits=2, **images)
        lists = {"label_map": folder / "labels", "left_out": folder / "left-out.csv"}
        split_images(folder / "images.csv", validation_ratio=0.3, test_ratio=0.0, **tables, **lists)
        outputs = {split: folder / "records" / split for split in SPLITS}
        options = {"images_per_shard": 1000, "max_refused_ratio": 0.0, "check_pixels": True, "partition": 0, "partitions": 1}
        partitions.write_one_partition(tables, folder / "labels", outputs, folder / "refused.csv", **options)


def run_sweep(folder: Path, factor: int) -> Swept:
    """Runs a sweep in a process of its own.

    Args:
        folder: with the records of `write_records`.
        factor: `trial_reduction_factor`.

    Returns:
        The result.
    """
    command = [sys.executable, "-m", "benchmarks.sweep", str(folder), str(factor)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=peers.ROOT)
    return Swept(**json.loads(done.stdout.splitlines()[-1]))


def main(folder: str, factor: str) -> None:
    """Runs a sweep, and prints the result as JSON.

    Args:
        folder: with the records of `write_records`.
        factor: `trial_reduction_factor`.
    """
    root, begun = Path(folder), time.process_time()
    with tempfile.TemporaryDirectory(dir=root) as scratch:
        trained = [train(root, Path(scratch), trial, int(factor)) for trial in plan_trials(FIELDS, seed=0)]
        seconds = time.process_time() - begun
        outputs = {name: Path(scratch) / name for name in ("model", "table", "page")}
        found = sweep.compare_trials([model for model, _ in trained], **outputs)
    result = Swept(seconds, sum(steps for _, steps in trained), found["best_trial"], found["accuracy"])
    print(json.dumps(result._asdict()))


def train(root: Path, run: Path, trial: dict[str, Any], factor: int) -> tuple[Path, int]:
    """Trains a trial.

    Args:
        root: with the records of `write_records`.
        run: folder of the sweep.
        trial: from `plan_trials`.
        factor: `trial_reduction_factor`.

    Returns:
        Its model folder, and the steps that it has taken.
    """
    advanced = Advanced(depth_multiplier=NARROW, trial_reduction_factor=factor, batch_norm_decay=0.97)
    recipe = replace(RECIPE, advanced=advanced)
    model = run / f"train-trial-{trial['number']}" / "model"
    records = [root / "records" / split for split in ("train", "validation")]
    sweep.train_trial(trial, recipe, *records, root / "labels", model=model, page=model.with_name("curves.html"))
    return model, int(json.loads((model / "training.json").read_text())[-1]["step"])


RECIPE = Recipe(
    network="inception_v1",
    fine_tune=False,
    checkpoint_uri="",
    train_last_layer_only=False,
    batch_size=16,
    learning_rate=0.0025,
    train_steps=STEPS,
    optimizer="sgd",
    learning_rate_schedule="exponential",
    image_size=IMAGE_SIZE,
    gpu_count=0,
    model_name="benchmark",
)

if __name__ == "__main__":
    main(*sys.argv[1:])
