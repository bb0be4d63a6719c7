"""Training a classifier from TFRecords: one step after another, watched, written down, and gone on with when it was stopped."""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kfp_vision import __version__, checkpoints, export, hardware, inputs, parameters, records, reports, splitting
from kfp_vision.errors import InputError, without_secrets
from kfp_vision.networks import NETWORKS
from kfp_vision.storage import replacing, temporary
from kfp_vision.training import devices, feeds, saving, watching
from kfp_vision.training.recipe import Recipe
from kfp_vision.training.trainer import Diverged, Row, Trainer, build, freeze

__all__ = ["Diverged", "Recipe", "train_classifier"]

LONGEST_AVERAGE = 10.0  # batch norm's moving averages reach back over a tenth of a short run
STOPPED = 143  # the exit status of what SIGTERM has ended


def train_classifier(
    recipe: Recipe, train_records: Path, validation_records: Path, label_map: Path, *, model: Path, events: Path, page: Path
) -> dict[str, float]:
    """Trains, exports, and writes the learning curves.

    Of several workers (see `devices.strategy`) each calls this, with the same recipe and records; the first one writes.

    Args:
        recipe: how to train.
        train_records, validation_records: folders of records; validation may be empty.
        label_map: the folder with `labels.txt`.
        model: the folder to write: `classifier.keras`, `labels.txt`, `model.json`, `training.json`, `serving/1/`, and
            `last.keras` where an earlier one was better, or `best.keras` where the last was wanted all the same.
        events: the folder to write for TensorBoard.
        page: the page of learning curves to write (HTML).

    Returns:
        The metrics of the last step, `images_per_second` of the whole, and `best_step`, that of the best validation.

    Raises:
        InputError: no pictures to train on, records that are not whole, a checkpoint that does not fit, fewer GPUs than asked
            for, a `checkpoint_dir` of another training.
        Diverged: the loss is no longer a number.
        SystemExit: the process was told to end; what there is to go on from is in `checkpoint_dir`.
    """
    about = records.check_whole(train_records)
    records.check_whole(validation_records)
    if not about.images:
        raise InputError(
            "there must be pictures to train on", f"none in {train_records}", "Look at the list of refused pictures."
        )
    labels = splitting.read_labels(label_map)
    advanced = parameters.advanced(recipe.advanced)
    network = NETWORKS[recipe.network]
    shape = {"image_size": recipe.image_size or network.image_size, "depth_multiplier": advanced["depth_multiplier"]}
    spread = devices.strategy(recipe.gpu_count)
    chief = devices.worker()[0] == 0
    keras.utils.set_random_seed(advanced["seed"])
    if advanced["deterministic"]:
        tf.config.experimental.enable_op_determinism()
    precision = hardware.precision() if advanced["precision"] == "auto" else advanced["precision"]
    print(f"trains {recipe.network} in {precision} on {devices.said(spread)}", flush=True)

    with temporary() as scratch:
        with spread.scope():
            whole = build(network.name, len(labels), precision, **_regularisation(recipe, advanced), **shape)
            if recipe.fine_tune:
                complete = checkpoints.load(whole, network, recipe.checkpoint_uri)
                begun = f"starts from {recipe.checkpoint_uri}{'' if complete else ', with a new class layer'}"
                print(without_secrets(begun), flush=True)
            freeze(whole, advanced["layers_to_freeze"])
            data = feeds.Data(train_records, validation_records, shape["image_size"], scratch)
            feed = (feeds.features if recipe.train_last_layer_only else feeds.pictures)(whole, data, recipe, advanced)
            class_weights = _balanced(train_records, len(labels)) if advanced["class_weights"] == "balanced" else None
            trainer = Trainer(feed.model, recipe, advanced, about.images / recipe.batch_size, class_weights)
        saved = None
        if recipe.checkpoint_dir:
            saved = saving.Folder(recipe.checkpoint_dir, _identity(recipe, advanced, shape, labels, train_records))
        if saved and (state := saved.newest()):
            trainer.restore(state)
            print(f"goes on after step {trainer.step}, from {recipe.checkpoint_dir}", flush=True)
        batches = devices.distributed(spread, partial(feed.batches, trainer.step))
        if chief:
            _watched(trainer, batches, feed.validation, saved, events)
        else:
            deque(trainer.run(batches, feed.validation), maxlen=0)
    if chief:
        settings = asdict(recipe) | shape | {"advanced": advanced, "precision": precision}
        with replacing(model) as beside:
            _export(beside, whole, trainer, labels, settings | {"kfp_vision": __version__}, shape)
        shown = _shown(settings) | dict(recipe.advanced)
        reports.write_training_page(page, network=network.name, settings=shown, history=trainer.history)
    devices.wait_for_all(spread)
    return _reached(trainer)


def _watched(
    trainer: Trainer, batches: Iterator[Any], validation: tf.data.Dataset | None, saved: saving.Folder | None, events: Path
) -> None:
    """Takes all steps that are left, for somebody to see."""
    recipe, advanced = trainer.recipe, trainer.advanced
    how = {"name": trainer.run_name, "first_step": trainer.step, "profile_steps": advanced["profile_steps"]}
    with replacing(events) as beside, watching.watch(beside, recipe.log_uri, recipe.train_steps, **how) as watch:
        rows = trainer.run(_first_shown(batches, trainer, watch), validation)
        if saved:
            rows = _kept(rows, trainer, saved, advanced["save_interval_secs"])
        watch.before_step(trainer.step)
        for row in rows:
            watch.after_step(trainer.step - 1)
            if row:
                watch.row(row)
            watch.before_step(trainer.step)


def _first_shown(batches: Iterator[Any], trainer: Trainer, watch: watching.Watch) -> Iterator[Any]:
    """The batches; the pictures of the first one are shown."""
    first = next(batches)
    pictures, *_ = trainer.strategy.experimental_local_results(first[0])
    if len(pictures.shape) == 4:
        watch.pictures(pictures)
    yield first
    yield from batches


def _kept(rows: Iterator[Row | None], trainer: Trainer, saved: saving.Folder, seconds: float) -> Iterator[Row | None]:
    """The rows of a training whose state is saved every so many seconds, when the process is told to end, and at the end.

    Raises:
        InputError: the state cannot be written.
        SystemExit: the process was told to end, and the state is written.
    """
    before = time.monotonic()
    try:
        with saving.told_to_stop() as told:
            for row in rows:
                yield row
                if told.is_set() or time.monotonic() - before >= seconds:
                    saved.save(trainer.state())
                    before = time.monotonic()
                if told.is_set():
                    saved.wait()
                    print(f"told to end: step {trainer.step} is kept in {saved.uri}, to go on from", flush=True)
                    raise SystemExit(STOPPED)
            saved.save(trainer.state())
    finally:
        saved.wait()


def _identity(
    recipe: Recipe, advanced: Mapping[str, Any], shape: Mapping[str, Any], labels: list[str], train_records: Path
) -> dict[str, Any]:
    """What must not change while a training is stopped; anything else may, such as the learning rate."""
    asked = {name: getattr(recipe, name) for name in ("network", "optimizer", "batch_size", "train_last_layer_only")}
    return {**asked, **shape, "labels": labels, "pictures": records.fingerprint(train_records), "seed": advanced["seed"]}


def _balanced(train_records: Path, classes: int) -> np.ndarray:
    """The weight of each class, such that all classes weigh the same together, and a picture 1 in the mean."""
    numbers = inputs.encoded_records(train_records).map(lambda record: inputs.parse(record)["image/class/label"])
    counts = np.bincount(list(numbers.as_numpy_iterator()), minlength=classes)
    return np.divide(counts.sum() / np.count_nonzero(counts), counts, out=np.zeros(classes), where=counts > 0)


def _export(
    folder: Path, whole: Any, trainer: Trainer, labels: list[str], settings: Mapping[str, Any], shape: Mapping[str, Any]
) -> None:
    """Writes the model folder, with the best or the last weights as the recipe wants it, and beside it the others."""
    network, wanted = NETWORKS[trainer.recipe.network], trainer.advanced["export"]
    steps = {"last": trainer.step, "best": int(trainer.best_row.get("step", trainer.step))}
    weights = {which: trainer.weights(which) for which in steps}
    trainer.put(weights[wanted])
    export.write_model(folder, whole, network, labels, {**settings, "step": steps[wanted]}, shape, trainer.history)
    if steps["last"] != steps["best"]:
        other = "last" if wanted == "best" else "best"
        trainer.put(weights[other])
        export.in_stock_layers(whole, network, len(labels), shape).save(folder / f"{other}.keras")


def _reached(trainer: Trainer) -> dict[str, float]:
    merged: dict[str, float] = {}
    for row in trainer.history:
        merged |= row
    merged["images_per_second"] = float(np.median([row["images_per_second"] for row in trainer.history]))
    return merged | ({"best_step": trainer.best_row["step"]} if trainer.best_row else {})


def _regularisation(recipe: Recipe, advanced: Mapping[str, Any]) -> dict[str, float]:
    """What a network is built with beside its shape.

    TF-Slim's batch_norm_decay of 0.9997 averages over 3,300 steps; a short run takes less, so that its statistics are its own.
    """
    decay = min(advanced["batch_norm_decay"], max(0.9, 1 - LONGEST_AVERAGE / recipe.train_steps))
    kept = advanced["dropout_keep_prob"]
    return {"batch_norm_decay": decay} | ({"dropout": 1 - kept} if kept else {})


def _shown(settings: Mapping[str, Any]) -> dict[str, object]:
    """The settings that say something: of `advanced` what was given, no checkpoint where none was read, no empty text."""
    hidden = {"advanced"} if settings["fine_tune"] else {"advanced", "checkpoint_uri"}
    return {name: value for name, value in settings.items() if name not in hidden and value != ""}
