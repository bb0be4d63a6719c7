"""Training a classifier from TFRecords: one step after another, watched and written down."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kfp_vision import __version__, checkpoints, export, hardware, inputs, parameters, records, reports, splitting
from kfp_vision.errors import InputError
from kfp_vision.networks import NETWORKS
from kfp_vision.storage import replacing
from kfp_vision.training.recipe import Recipe
from kfp_vision.training.trainer import Trainer, build
from kfp_vision.training.watching import watched

VALIDATION_BATCH = 64
VALIDATION_PICTURES = 512  # for the learning curve; the evaluation stage looks at all
LONGEST_AVERAGE = 10.0  # batch norm's moving averages reach back over a tenth of a short run


def train_classifier(
    recipe: Recipe, train_records: Path, validation_records: Path, label_map: Path, *, model: Path, events: Path, page: Path
) -> dict[str, float]:
    """Trains, exports, and writes the learning curves.

    Args:
        recipe: how to train.
        train_records, validation_records: folders of records; validation may be empty.
        label_map: the folder with `labels.txt`.
        model: the folder to write: `classifier.keras`, `labels.txt`, `model.json`, `training.json`, `serving/1/`.
        events: the folder to write for TensorBoard.
        page: the page of learning curves to write (HTML).

    Returns:
        The metrics of the last step, and `images_per_second` of the whole.

    Raises:
        InputError: no pictures to train on, a checkpoint that does not fit, or a loss that is no longer a number.
    """
    about = records.read_about(train_records)
    if not about.images:
        raise InputError(
            "there must be pictures to train on", f"none in {train_records}", "Look at the list of refused pictures."
        )
    labels = splitting.read_labels(label_map)
    advanced = parameters.advanced(recipe.advanced)
    network = NETWORKS[recipe.network]
    image_size = recipe.image_size or network.image_size
    keras.utils.set_random_seed(advanced["seed"])
    precision = hardware.precision() if advanced["precision"] == "auto" else advanced["precision"]
    _say_where(recipe, precision)

    shape = {"image_size": image_size, "depth_multiplier": advanced["depth_multiplier"]}
    trained = build(network.name, len(labels), precision, batch_norm_decay=_batch_norm_decay(recipe, advanced), **shape)
    if recipe.fine_tune:
        whole = checkpoints.load(trained, network, recipe.checkpoint_uri)
        print(f"starts from {recipe.checkpoint_uri}{'' if whole else ', with a new class layer'}", flush=True)
    trainer = Trainer(trained, recipe, advanced, about.images / recipe.batch_size)
    batches = inputs.training_batches(
        train_records,
        image_size=image_size,
        batch_size=recipe.batch_size,
        seed=advanced["seed"],
        augmentation=inputs.Augmentation(**{f.name: advanced[f.name] for f in fields(inputs.Augmentation)}),
    )
    validation = inputs.evaluation_batches(validation_records, image_size=image_size, batch_size=VALIDATION_BATCH)
    validation = (
        validation.take(VALIDATION_PICTURES // VALIDATION_BATCH) if records.read_about(validation_records).images else None
    )
    with replacing(events) as beside:
        history = watched(trainer.run(batches, validation), recipe, beside)

    settings = asdict(recipe) | {"advanced": advanced, "image_size": image_size, "precision": precision}
    with replacing(model) as beside:
        export.write_model(beside, trained, network, labels, settings | {"kfp_vision": __version__}, shape, history)
    shown = _shown(settings) | dict(recipe.advanced)
    reports.write_training_page(page, network=network.name, settings=shown, history=history)
    return _last_of_each(history)


def _batch_norm_decay(recipe: Recipe, advanced: Mapping[str, Any]) -> float:
    """TF-Slim's 0.9997 averages over 3,300 steps; a short run takes less, so that its statistics are its own."""
    return min(advanced["batch_norm_decay"], max(0.9, 1 - LONGEST_AVERAGE / recipe.train_steps))


def _say_where(recipe: Recipe, precision: str) -> None:
    visible = hardware.gpus()
    if recipe.gpu_count and not visible:
        print(f"warning: gpu_count={recipe.gpu_count}, but no GPU is visible here: this trains on the processor")
    print(f"trains {recipe.network} in {precision} on {f'{visible} GPUs' if visible else 'the processor'}", flush=True)


def _shown(settings: Mapping[str, Any]) -> dict[str, object]:
    """The settings that say something: of `advanced` what was given, and no checkpoint where none was read."""
    hidden = {"advanced"} if settings["fine_tune"] else {"advanced", "checkpoint_uri"}
    return {name: value for name, value in settings.items() if name not in hidden}


def _last_of_each(history: list[dict[str, float]]) -> dict[str, float]:
    merged: dict[str, float] = {}
    for row in history:
        merged |= row
    merged["images_per_second"] = float(np.median([row["images_per_second"] for row in history]))
    return merged
