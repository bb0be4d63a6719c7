"""Training of a classifier on TFRecords, with monitoring and checkpoints."""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kfp_vision import __version__
from kfp_vision.core import hardware
from kfp_vision.core.advanced import Advanced
from kfp_vision.core.errors import InputError, redact
from kfp_vision.core.frameworks import keras, tf
from kfp_vision.dataset.label_map import read_labels
from kfp_vision.evaluation.temperature import MIN_IMAGES, fit_temperature
from kfp_vision.networks import NETWORKS, pretrained
from kfp_vision.prediction import export
from kfp_vision.prediction.novelty import Novelty, fit_novelty
from kfp_vision.records import tf_dataset
from kfp_vision.records.records_folder import fingerprint_records, read_records_info, verify_records
from kfp_vision.reports import pages
from kfp_vision.storage.atomic import replacing, temporary_folder
from kfp_vision.training import checkpointing, devices, feeds, monitoring
from kfp_vision.training.recipe import Recipe
from kfp_vision.training.trainer import Diverged, HistoryRow, Trainer, build_network, freeze_batch_norm, freeze_layers

__all__ = ["Diverged", "Recipe", "train_classifier"]

BATCH_NORM_WINDOWS_PER_TRAINING = 10.0  # batch norm's moving averages cover at most a tenth of a training
HEAD_RATE_FACTOR, HEAD_WEIGHT_DECAY = 10.0, 0.01  # of the steps of the classification head alone, before the others
SIGTERM_EXIT_STATUS = 143  # exit status of a process that ended on SIGTERM


@devices.loss_of_workers_in_one_line()
def train_classifier(
    recipe: Recipe, train_records: Path, validation_records: Path, label_map: Path, *, model: Path, events: Path, page: Path
) -> dict[str, float]:
    """Trains a classifier, exports it, and writes a page with its learning curves.

    With several workers (see `devices.choose_strategy`), each calls this with the same recipe and records; the chief writes
    the output.

    Example:
        recipe = Recipe.from_form({"network": "resnet50", "advanced": {"seed": 1}, ...})
        outputs = {"model": Path("model"), "events": Path("events"), "page": Path("curves.html")}
        metrics = train_classifier(recipe, Path("train"), Path("validation"), Path("labels"), **outputs)
        print(metrics["validation_accuracy"])

    Args:
        recipe: how to train.
        train_records: folder of records.
        validation_records: folder of records, maybe empty.
        label_map: folder with `labels.txt`.
        model: folder to write: `classifier.keras`, `labels.txt`, `model.json`, `training.json`, `serving/1/`; and, if the best
            and the last weights differ, the ones that are not exported as `last.keras` or `best.keras`.
        events: folder to write for TensorBoard.
        page: page of learning curves to write (HTML).

    Returns:
        The newest value of each metric in the history, the median `images_per_second`, and, after a validation, `best_step`.

    Raises:
        InputError: there are no images, records are incomplete, the checkpoint does not fit, fewer GPUs are visible than
            requested, or `checkpoint_dir` belongs to another training.
        Diverged: the loss is not finite.
        WorkerLost: another worker has ended, or cannot be reached.
        SystemExit: this process, or another worker, received SIGTERM; `checkpoint_dir` holds the state to resume from.
    """
    images = _check_records(train_records, validation_records)
    labels = read_labels(label_map)
    shape = _shape(recipe)
    strategy = devices.choose_strategy(recipe.gpu_count)
    is_chief = devices.rank_and_size()[0] == 0
    _set_seeds(recipe.advanced)
    precision = hardware.precision() if recipe.advanced.precision == "auto" else recipe.advanced.precision
    for line in recipe.preset.describe():
        print(redact(line), flush=True)
    print(f"trains {recipe.network} in {precision} on {devices.describe_devices()}", flush=True)

    with temporary_folder() as scratch:
        with strategy.scope():
            network = _build_network(recipe, len(labels), precision, shape)
            data = feeds.FeedSource(train_records, validation_records, shape["image_size"], scratch)
            feed = (feeds.feature_feed if recipe.train_last_layer_only else feeds.image_feed)(network, data, recipe)
            balanced = recipe.advanced.class_weights == "balanced"
            class_weights = _balanced_weights(train_records, len(labels)) if balanced else None
            trainer = Trainer(feed.model, recipe, images / recipe.batch_size, class_weights)
        folder = _resume(trainer, _identity(recipe, shape, labels, train_records)) if recipe.checkpoint_dir else None
        if recipe.advanced.head_steps and not recipe.train_last_layer_only and not trainer.step:
            _train_head(network, data, recipe, strategy, class_weights)
        if line := _describe_first_step(trainer):
            print(line, flush=True)
        batches = devices.distribute_batches(strategy, partial(feed.batches, trainer.step))
        if is_chief:
            _run_monitored(trainer, batches, feed.validation, folder, events)
        else:
            deque(_end_on_sigterm(trainer.run(batches, feed.validation), trainer), maxlen=0)
        with trainer.exported_weights():
            temperature = _fit_temperature(trainer, feed.validation)
            novelty = _fit_novelty(feed, network, data, recipe, len(labels))
    if is_chief:
        settings = {"temperature": temperature, "precision": precision}
        _write_outputs(model, page, network, trainer, labels, shape, settings, novelty)
    devices.wait_for_workers(strategy)
    return _final_metrics(trainer)


def _check_records(train_records: Path, validation_records: Path) -> int:
    """Returns the number of images to train on."""
    about = verify_records(train_records)
    verify_records(validation_records)
    if not about.images:
        found, remedy = f"none in {train_records}", "Look at the list of rejected images."
        raise InputError("there must be images to train on", found, remedy)
    return about.images


def _shape(recipe: Recipe) -> dict[str, Any]:
    """Returns the options that decide the shapes of a network's weights and input."""
    image_size = recipe.image_size or NETWORKS[recipe.network].image_size
    return {"image_size": image_size, "depth_multiplier": recipe.advanced.depth_multiplier}


def _set_seeds(advanced: Advanced) -> None:
    keras.utils.set_random_seed(advanced.seed)
    if advanced.deterministic:
        tf.config.experimental.enable_op_determinism()


def _build_network(recipe: Recipe, classes: int, precision: str, shape: Mapping[str, Any]) -> Any:
    """Builds the network, loads its checkpoint if there is one, and freezes layers."""
    network = build_network(recipe.network, classes, precision, **_regularization(recipe), **shape)
    if recipe.fine_tune:
        complete = pretrained.load_pretrained(network, NETWORKS[recipe.network], recipe.checkpoint_uri)
        suffix = "" if complete else ", with a new classification head"
        print(redact(f"starts from {recipe.checkpoint_uri}{suffix}"), flush=True)
    freeze_layers(network, recipe.advanced.layers_to_freeze)
    if recipe.advanced.freeze_batch_norm:
        freeze_batch_norm(network)
    return network


def _train_head(
    network: Any, data: feeds.FeedSource, recipe: Recipe, strategy: Any, class_weights: npt.NDArray[np.float64] | None
) -> None:
    """Trains the classification head alone, on embeddings that are computed once, so that its first gradients harm no layer."""
    steps, advanced = recipe.advanced.head_steps, recipe.advanced
    rate = HEAD_RATE_FACTOR * recipe.learning_rate
    advanced = replace(advanced, moving_average_decay=0.0, warmup_steps=0, weight_decay=HEAD_WEIGHT_DECAY)
    head = replace(recipe, train_steps=steps, learning_rate=rate, learning_rate_schedule="cosine", advanced=advanced)
    with strategy.scope():
        feed = feeds.feature_feed(network, data, head, validates=False)
        trainer = Trainer(feed.model, head, 1.0, class_weights)
    *_, last = (row for row in trainer.run(devices.distribute_batches(strategy, partial(feed.batches, 0)), None) if row)
    print(f"trained the classification head alone for {steps} steps first: loss {last['loss']:.3g}", flush=True)


def _regularization(recipe: Recipe) -> dict[str, float]:
    """Returns the builder options for batch norm and dropout.

    TF-Slim's batch_norm_decay of 0.9997 averages over 3,300 steps: too many for the statistics of a short training to converge.
    """
    decay = min(recipe.advanced.batch_norm_decay, max(0.9, 1 - BATCH_NORM_WINDOWS_PER_TRAINING / recipe.train_steps))
    keep = recipe.advanced.dropout_keep_prob
    return {"batch_norm_decay": decay} | ({"dropout": 1 - keep} if keep else {})


def _balanced_weights(train_records: Path, classes: int) -> npt.NDArray[np.float64]:
    """Returns the weight of each class, such that all classes have the same total weight, and images 1 on average."""
    labels = tf_dataset.encoded_records(train_records).map(lambda record: tf_dataset.parse_record(record)["image/class/label"])
    counts = np.bincount(list(labels.as_numpy_iterator()), minlength=classes)
    weights = np.zeros(classes)
    np.divide(counts.sum() / np.count_nonzero(counts), counts, out=weights, where=counts > 0)
    return weights


def _identity(recipe: Recipe, shape: Mapping[str, Any], labels: list[str], train_records: Path) -> dict[str, Any]:
    """Returns what must be the same when a training resumes. Anything else may change, such as the learning rate."""
    fields = {name: getattr(recipe, name) for name in ("network", "optimizer", "batch_size", "train_last_layer_only")}
    fingerprint = fingerprint_records(train_records)
    return {**fields, **shape, "labels": labels, "pictures": fingerprint, "seed": recipe.advanced.seed}


def _resume(trainer: Trainer, identity: Mapping[str, Any]) -> checkpointing.CheckpointFolder:
    """Opens the checkpoint folder, and restores the newest checkpoint if there is one."""
    folder = checkpointing.CheckpointFolder(trainer.recipe.checkpoint_dir, identity)
    if state := folder.newest():
        trainer.restore(state)
        print(f"resumes after step {trainer.step}, from {folder.uri}", flush=True)
    return folder


def _describe_first_step(trainer: Trainer) -> str:
    """Says what the first of the remaining steps waits for; empty if for nothing long."""
    recipe = trainer.recipe
    if recipe.train_last_layer_only or trainer.step >= recipe.train_steps:
        return ""
    return devices.describe_first_step(recipe.advanced.xla, len(tf.config.get_visible_devices("GPU")))


def _run_monitored(
    trainer: Trainer,
    batches: Iterator[Any],
    validation: Iterable[Any] | None,
    folder: checkpointing.CheckpointFolder | None,
    events: Path,
) -> None:
    """Takes the remaining steps, reports them, and saves checkpoints if there is a folder for them."""
    recipe = trainer.recipe
    monitored = partial(
        monitoring.monitor_training, name=trainer.run_name, first_step=trainer.step, profile_steps=recipe.advanced.profile_steps
    )
    with replacing(events) as beside, monitored(beside, recipe.log_uri, recipe.train_steps) as monitor:
        rows = trainer.run(_log_first_images(batches, trainer, monitor), validation)
        if folder:
            rows = _save_periodically(rows, trainer, folder)
        monitor.before_step(trainer.step)
        for row in _end_on_sigterm(rows, trainer):
            monitor.after_step(trainer.step - 1)
            if row:
                monitor.log_row(row)
            monitor.before_step(trainer.step)


def _log_first_images(batches: Iterator[Any], trainer: Trainer, monitor: monitoring.TrainingMonitor) -> Iterator[Any]:
    """Passes batches on, and logs the images of the first one. Features, which have fewer dimensions, are not logged."""
    first = next(batches)
    images, *_ = trainer.strategy.experimental_local_results(first[0])
    if len(images.shape) == 4:
        monitor.log_images(images)
    yield first
    yield from batches


def _end_on_sigterm(rows: Iterator[HistoryRow | None], trainer: Trainer) -> Iterator[HistoryRow | None]:
    """Passes rows on, and ends between two steps on SIGTERM, all workers after the same step.

    A single process without a `checkpoint_dir` has nothing to save, and ends at once.

    Raises:
        SystemExit: a worker received SIGTERM.
    """
    place, workers = trainer.recipe.checkpoint_dir, devices.rank_and_size()[1]
    if not place and workers == 1:
        yield from rows
        return
    with checkpointing.sigterm_event() as stop:
        trainer.wants_to_stop = stop.is_set
        yield from rows
        if trainer.stopped:
            kept = f"saved step {trainer.step} to {place}, to resume from" if place else f"step {trainer.step} is not kept"
            print(redact(f"stopped by SIGTERM{'' if stop.is_set() else ' to another worker'}: {kept}"), flush=True)
            raise SystemExit(SIGTERM_EXIT_STATUS)


def _save_periodically(
    rows: Iterator[HistoryRow | None], trainer: Trainer, folder: checkpointing.CheckpointFolder
) -> Iterator[HistoryRow | None]:
    """Passes rows on, and saves checkpoints: every `save_interval_secs`, and at the end.

    Raises:
        InputError: a checkpoint cannot be written.
    """
    last_save = time.monotonic()
    try:
        for row in rows:
            yield row
            if time.monotonic() - last_save >= trainer.recipe.advanced.save_interval_secs:
                folder.save(trainer.state())
                last_save = time.monotonic()
        folder.save(trainer.state())
    finally:
        folder.wait()


def _fit_temperature(trainer: Trainer, validation: Iterable[Any] | None) -> float:
    """Returns the temperature of the exported weights, see `temperature`; 1 if there are too few validation images."""
    none = (tf.zeros((0, 1)), tf.zeros(0, tf.int64))
    logits, labels = trainer.logits(validation) if validation is not None else none
    if len(labels) < MIN_IMAGES:
        rule = f"at least {MIN_IMAGES} validation images are needed to calibrate the scores and to tell unknown images"
        print(f"{rule}; got {len(labels)}, so neither is done. Raise validation_ratio, or add images.", flush=True)
        return 1.0
    found = fit_temperature(logits.numpy(), labels.numpy())
    print(f"calibrated the scores on {len(labels)} validation images: divides the logits by {found:.3g}", flush=True)
    return found


def _fit_novelty(feed: feeds.Feed, network: Any, data: feeds.FeedSource, recipe: Recipe, classes: int) -> Novelty | None:
    """Returns what tells known images from others, see `novelty`; None if there are too few validation images."""
    if read_records_info(data.validation_records).images < MIN_IMAGES:
        return None
    training, validation = feed.features or feeds.export_features(network, data, recipe)
    chosen = np.unique(np.linspace(0, len(training.labels) - 1, feeds.FEATURE_IMAGES).astype(int))
    embeddings, labels = training.values[chosen], training.labels[chosen]
    share = recipe.advanced.known_share
    found = fit_novelty(embeddings, labels, classes, validation.values[: feeds.FEATURE_IMAGES], share)
    print(f"tells images that are unlike the training's, so that {share:.4g} of the validation images are known", flush=True)
    return found


def _write_outputs(
    model: Path,
    page: Path,
    network: Any,
    trainer: Trainer,
    labels: list[str],
    shape: Mapping[str, Any],
    found: Mapping[str, Any],
    novelty: Novelty | None,
) -> None:
    """Writes the model folder, with what the training has found, and the page of learning curves."""
    recipe = trainer.recipe
    settings = {**asdict(recipe), **shape, **found, "preset": recipe.preset.to_json()}
    with replacing(model) as beside:
        _export(beside, network, trainer, labels, settings | {"kfp_vision": __version__}, shape, novelty)
    shown = {"recipe": recipe.preset.recipe} | _shown_settings(settings) | recipe.advanced.changed()
    pages.write_training_page(page, network=recipe.network, settings=shown, history=trainer.history)


def _export(
    folder: Path,
    network: Any,
    trainer: Trainer,
    labels: list[str],
    settings: Mapping[str, Any],
    shape: Mapping[str, Any],
    novelty: Novelty | None,
) -> None:
    """Writes the model folder with the best or the last weights, as the recipe says, and the others as a Keras file in it."""
    definition, exported = NETWORKS[trainer.recipe.network], trainer.recipe.advanced.export
    steps = {"last": trainer.step, "best": int(trainer.best_row.get("step", trainer.step))}
    weights = {which: trainer.weights(which) for which in steps}
    trainer.set_weights(weights[exported])
    settings = {**settings, "step": steps[exported]}
    export.write_model(folder, network, definition, labels, settings, shape, trainer.history, novelty)
    if steps["last"] != steps["best"]:
        other = "last" if exported == "best" else "best"
        trainer.set_weights(weights[other])
        export.rebuild_in_stock_layers(network, definition, len(labels), shape).save(folder / f"{other}.keras")


def _shown_settings(settings: Mapping[str, Any]) -> dict[str, object]:
    """Returns the settings to show: without those of `advanced`, empty ones, and the checkpoint if it was not read."""
    hidden = {"advanced", "preset"} | (set() if settings["fine_tune"] else {"checkpoint_uri"})
    return {name: value for name, value in settings.items() if name not in hidden and value != ""}


def _final_metrics(trainer: Trainer) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for row in trainer.history:
        metrics |= row
    metrics["images_per_second"] = float(np.median([row["images_per_second"] for row in trainer.history]))
    return metrics | ({"best_step": trainer.best_row["step"]} if trainer.best_row else {})
