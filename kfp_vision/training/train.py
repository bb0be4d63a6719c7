"""Training of a classifier on TFRecords, with monitoring and checkpoints."""

import hashlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kfp_vision import __version__
from kfp_vision.core import hardware
from kfp_vision.core.advanced import Advanced
from kfp_vision.core.crop_shapes import WHOLE
from kfp_vision.core.errors import FieldError, InputError, redact
from kfp_vision.core.frameworks import keras, tf
from kfp_vision.core.subprocesses import SIGTERM_STATUS
from kfp_vision.core.values import ONE, SEVERAL
from kfp_vision.dataset.label_map import read_labels
from kfp_vision.evaluation import thresholds
from kfp_vision.evaluation.temperature import MIN_IMAGES, fit_temperature
from kfp_vision.networks import NETWORKS, pretrained, split_head
from kfp_vision.prediction import export
from kfp_vision.prediction.batch import UNKNOWN
from kfp_vision.prediction.held_out import HeldOut, keep_held_out
from kfp_vision.prediction.likeness import Novelty
from kfp_vision.prediction.novelty import fit_novelty, known_pairs
from kfp_vision.records import tf_dataset
from kfp_vision.records.records_folder import (
    LABELS_PER_IMAGE,
    RecordsInfo,
    fingerprint_records,
    read_records_info,
    verify_records,
)
from kfp_vision.reports import pages
from kfp_vision.storage import unwritable
from kfp_vision.storage.atomic import replacing, temporary_folder
from kfp_vision.training import checkpointing, collectives, devices, feeds, monitoring, xla
from kfp_vision.training.divergence import RULE, Diverged
from kfp_vision.training.features import LARGEST_FEATURE
from kfp_vision.training.objectives import Objective, choose_objective
from kfp_vision.training.recipe import Recipe
from kfp_vision.training.successive_halving import Ended, Rungs, rung_steps
from kfp_vision.training.trainer import (
    HistoryRow,
    Trainer,
    build_network,
    freeze_batch_norm,
    freeze_first_blocks,
    freeze_layers,
    takes_images,
)

__all__ = ["Diverged", "Recipe", "train_classifier"]

BATCH_NORM_WINDOWS_PER_TRAINING = 10.0  # batch norm's moving averages cover at most a tenth of a training
HEAD_RATE_FACTOR, HEAD_WEIGHT_DECAY = 10.0, 0.01  # of the steps of the classification head alone, before the others
# In place of the default of `min_crop_area` where images have several labels: a smaller crop leaves out what some of them name.
SEVERAL_LABELS_MIN_CROP_AREA = 0.8
OF_SWEEP = ("rungs_uri", "trial_number")  # fields of a recipe that say where a training belongs, and not how to repeat it
NO_RUNGS = "is not compared with the other trials, since no validation takes place before the last step"
# Fields that may differ between workers: where each reads, and what the first alone writes.
OF_ONE_WORKER = ("checkpoint_uri", "checkpoint_dir", "log_uri", "model_name", "workers", "trained_from", "preset", "advanced")
SAME_START = "Give all the same checkpoint_uri, and a checkpoint_dir that all reach."


@unwritable.in_one_line("model", "events", "page")
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
        The newest finite value of each metric in the history, the median `images_per_second`, and, after a validation,
        `best_step`.

    Raises:
        InputError: there are no images, records are incomplete, the checkpoint does not fit, fewer GPUs are visible than
            requested, `checkpoint_dir` belongs to another training, with `name_unknown` a class is called `unknown`, or a
            disk is full.
        Diverged: the loss is not finite.
        WorkerLost: another worker has ended, or cannot be reached.
        SystemExit: this process, or another worker, received SIGTERM; `checkpoint_dir` holds the state to resume from.
    """
    about = _check_records(train_records, validation_records)
    labels, objective = read_labels(label_map), choose_objective(about.several)
    if recipe.advanced.name_unknown and UNKNOWN in labels:
        rule = f"with name_unknown of advanced, no class may be called {UNKNOWN}, as images that are not known are named"
        raise FieldError(rule, f"a class {UNKNOWN}", "Rename the class, or leave name_unknown out.")
    if about.several:
        recipe = _keep_labels_in_crops(recipe)
    shape = _shape(recipe)
    strategy = devices.choose_strategy(recipe.gpu_count)
    choices = xla.KeptChoices(recipe.checkpoint_dir) if devices.count_gpus() else None
    tuned = choices.prepare() if choices else False
    is_chief = devices.rank_and_size()[0] == 0
    _set_seeds(recipe.advanced)
    _check_workers(strategy, recipe, labels, (train_records, validation_records))
    precision = _choose_precision(strategy, recipe.advanced)
    for line in recipe.preset.describe():
        print(redact(line), flush=True)
    print(f"trains {recipe.network} in {precision} on {devices.describe_devices()}", flush=True)

    with temporary_folder() as scratch:
        with strategy.scope():
            network = _build_network(recipe, len(labels), precision, shape, several=about.several)
            crop = WHOLE if about.several else NETWORKS[recipe.network].crop
            data = feeds.FeedSource(train_records, validation_records, shape["image_size"], scratch, crop)
            feed = _choose_feed(recipe)(network, data, recipe)
            balanced = recipe.advanced.class_weights == "balanced"
            class_weights = _balanced_weights(train_records, objective) if balanced else None
            how = partial(Trainer, prepare=feed.prepare, tuned=tuned)
            trainer = how(feed.model, recipe, about.images / recipe.batch_size, class_weights, objective)
        folder = _resume(trainer, _identity(recipe, shape, labels, train_records)) if recipe.checkpoint_dir else None
        if devices.rank_and_size()[1] > 1:
            collectives.check_same(strategy, {"weights to start from": _state_bytes(trainer)}, SAME_START)
        if recipe.advanced.head_steps and not trainer.step:
            head_feed = feed if recipe.train_last_layer_only else None
            _train_head(network, data, head_feed, recipe, strategy, class_weights, objective)
        if line := _describe_first_step(trainer, tuned=tuned):
            print(line, flush=True)
        comparison = _TrialComparison(trainer) if recipe.rungs_uri else None
        batches = devices.distribute_batches(strategy, partial(feed.batches, trainer.step))
        if is_chief:
            _run_monitored(trainer, batches, feed.validation, folder, events, choices)
        else:
            deque(_end_on_sigterm(trainer.run(batches, feed.validation), trainer), maxlen=0)
        if is_chief:
            with trainer.exported_weights():
                scores = _fit_scores(trainer, feed.validation, labels, about.several)
                compared = _fit_novelty(feed, network, data, recipe, len(labels), scores)
            settings = {**scores, "precision": precision, **({"crop": crop} if about.several else {})}
            line = comparison.line() if comparison else ""
            _write_outputs(model, page, network, trainer, labels, shape, settings, *compared, line)
    collectives.wait_for_workers(strategy)
    return _final_metrics(trainer) | (comparison.metrics() if comparison else {})


def _check_records(train_records: Path, validation_records: Path) -> RecordsInfo:
    """Returns what there is to train on."""
    about = verify_records(train_records)
    held_out = verify_records(validation_records)
    if held_out.several != about.several:
        kinds = [f"{one.split} with {SEVERAL if one.several else ONE}" for one in (about, held_out)]
        remedy = "Write the records of all splits in one run."
        raise InputError("all splits must have the same number of labels an image", ", ".join(kinds), remedy)
    if not about.images:
        found, remedy = f"none in {train_records}", "Look at the list of rejected images."
        raise InputError("there must be images to train on", found, remedy)
    return about


def _check_workers(strategy: tf.distribute.Strategy, recipe: Recipe, labels: list[str], records: tuple[Path, Path]) -> None:
    """Checks that all workers were started alike: else they would wait for each other for ever, or train on other images."""
    facts = {one.name: getattr(recipe, one.name) for one in fields(recipe) if one.name not in OF_ONE_WORKER}
    facts |= {f"{name} of advanced": value for name, value in asdict(recipe.advanced).items()}
    names = ("training records", "validation records")
    facts |= {name: fingerprint_records(folder) for name, folder in zip(names, records, strict=True)}
    facts |= {"labels": labels, "version of kfp-vision": __version__}
    facts["number of GPUs"] = devices.count_gpus()
    collectives.check_same(strategy, facts, "Start all workers with the same command, on the same records.")


def _choose_precision(strategy: tf.distribute.Strategy, advanced: Advanced) -> str:
    """Returns the precision of all workers: bfloat16 by itself only where the hardware of each multiplies in it."""
    if advanced.precision != "auto":
        return advanced.precision
    each = collectives.gather(strategy, [hardware.precision() == "bfloat16"])
    return "bfloat16" if each.all() else "float32"


def _state_bytes(trainer: Trainer) -> bytes:
    """Returns a digest of all that the first step depends on."""
    state = trainer.state()
    digest = hashlib.sha256(str(state.step).encode())
    for name in sorted(state.arrays):
        digest.update(state.arrays[name].tobytes())
    return digest.digest()


def _keep_labels_in_crops(recipe: Recipe) -> Recipe:
    """Returns the recipe with larger crops, unless it has a `min_crop_area` of its own or sees whole images anyway."""
    if recipe.advanced.min_crop_area != Advanced().min_crop_area or recipe.train_last_layer_only:
        return recipe
    share = SEVERAL_LABELS_MIN_CROP_AREA
    print(f"crops keep {share:.0%} of an image at least, for its labels (min_crop_area of advanced)", flush=True)
    return replace(recipe, advanced=replace(recipe.advanced, min_crop_area=share))


def _shape(recipe: Recipe) -> dict[str, Any]:
    """Returns the options that decide the shapes of a network's weights and input."""
    image_size = recipe.image_size or NETWORKS[recipe.network].image_size
    return {"image_size": image_size, "depth_multiplier": recipe.advanced.depth_multiplier}


def _set_seeds(advanced: Advanced) -> None:
    keras.utils.set_random_seed(advanced.seed)
    if advanced.deterministic:
        tf.config.experimental.enable_op_determinism()


def _build_network(recipe: Recipe, classes: int, precision: str, shape: Mapping[str, Any], *, several: bool) -> Any:
    """Builds the network, loads its checkpoint if there is one, and freezes layers."""
    network = build_network(recipe.network, classes, precision, **_regularization(recipe), **shape)
    if recipe.fine_tune:
        complete = pretrained.load_pretrained(network, NETWORKS[recipe.network], recipe.checkpoint_uri)
        # A head of softmax scores ranks the images of a class as one of sigmoids does, so either serves the other as a start.
        suffix = (", with its classification head" if several else "") if complete else ", with a new classification head"
        print(redact(f"starts from {recipe.checkpoint_uri}{suffix}"), flush=True)
        if not complete:
            _clear_head(network)
    freeze_layers(network, recipe.advanced.layers_to_freeze)
    if recipe.advanced.train_last_blocks_only:
        freeze_first_blocks(network)
    if recipe.advanced.freeze_batch_norm:
        freeze_batch_norm(network)
    _check_trainable(network, recipe)
    return network


def _clear_head(network: Any) -> None:
    """Sets the classification head to zeros, from where it learns on pretrained features.

    With random weights, as in TF-Slim, what the classes do not need of the features would add noise to the scores, which a
    training at a low rate removes slowly; benchmarks/README.md has what that is worth.
    """
    for variable in network.layers[-1].variables:
        variable.assign(keras.ops.zeros_like(variable))


def _check_trainable(network: Any, recipe: Recipe) -> None:
    """Raises FieldError if what is frozen, all together, leaves no layer to train, or not the head that is trained alone."""
    advanced, head = recipe.advanced, network.layers[-1]
    if not head.trainable and (recipe.train_last_layer_only or advanced.head_steps):
        field = "train_last_layer_only" if recipe.train_last_layer_only else "head_steps of advanced"
        rule = f"layers_to_freeze of advanced must leave the classification head, {head.name}, which {field} trains alone"
        raise FieldError(rule, advanced.layers_to_freeze, "Name fewer layers.")
    if not network.trainable_variables:
        names = ("layers_to_freeze", "train_last_blocks_only", "freeze_batch_norm")
        together = " and ".join(name for name in names if getattr(advanced, name))
        rule = f"{together} of advanced must together leave a layer to train"
        raise FieldError(rule, advanced.layers_to_freeze, "Name fewer layers in layers_to_freeze.")


def _choose_feed(recipe: Recipe) -> Callable[[Any, feeds.FeedSource, Recipe], feeds.Feed]:
    if recipe.train_last_layer_only:
        return feeds.feature_feed
    return feeds.block_feed if recipe.advanced.train_last_blocks_only else feeds.image_feed


def _train_head(
    network: Any,
    data: feeds.FeedSource,
    feed: feeds.Feed | None,
    recipe: Recipe,
    strategy: Any,
    class_weights: npt.NDArray[np.float64] | None,
    objective: Objective,
) -> None:
    """Trains the classification head alone, on embeddings that are computed once, so that its first gradients harm no layer."""
    steps, advanced = recipe.advanced.head_steps, recipe.advanced
    rate = HEAD_RATE_FACTOR * recipe.learning_rate
    advanced = replace(advanced, moving_average_decay=0.0, warmup_steps=0, weight_decay=HEAD_WEIGHT_DECAY)
    head = replace(recipe, train_steps=steps, learning_rate=rate, learning_rate_schedule="cosine", advanced=advanced)
    with strategy.scope():
        feed = feed or feeds.feature_feed(network, data, head, validates=False)
        trainer = Trainer(feed.model, head, 1.0, class_weights, objective)
    batches = devices.distribute_batches(strategy, partial(feed.batches, 0))
    try:
        *_, last = (row for row in trainer.run(batches, None) if row)
    except Diverged:
        found = f"another in the {steps} steps of the classification head alone, at {HEAD_RATE_FACTOR:g} times learning_rate"
        remedy = f"Try a learning_rate of {recipe.learning_rate / 10:g}, or head_steps=0 in advanced."
        raise Diverged(RULE, found, remedy) from None
    print(f"trained the classification head alone for {steps} steps first: loss {last['loss']:.3g}", flush=True)


def _regularization(recipe: Recipe) -> dict[str, float]:
    """Returns the builder options for batch norm and dropout.

    TF-Slim's batch_norm_decay of 0.9997 averages over 3,300 steps: too many for the statistics of a short training to converge.
    """
    decay = min(recipe.advanced.batch_norm_decay, max(0.9, 1 - BATCH_NORM_WINDOWS_PER_TRAINING / recipe.train_steps))
    keep = recipe.advanced.dropout_keep_prob
    return {"batch_norm_decay": decay} | ({"dropout": 1 - keep} if keep else {})


def _balanced_weights(train_records: Path, objective: Objective) -> npt.NDArray[np.float64]:
    """Returns the weight of each class for `class_weights=balanced`, see `Objective.class_weights`."""
    about = read_records_info(train_records)
    parse = partial(tf_dataset.parse_record, several=about.several)
    numbers = tf_dataset.encoded_records(train_records).map(lambda record: parse(record)["image/class/label"])
    counts = np.zeros(len(about.labels), np.int64)
    for of_image in numbers.as_numpy_iterator():
        counts[of_image] += 1
    return objective.class_weights(counts, about.images)


def _identity(recipe: Recipe, shape: Mapping[str, Any], labels: list[str], train_records: Path) -> dict[str, Any]:
    """Returns what must be the same when a training resumes. Anything else may change, such as the learning rate."""
    chosen = {name: getattr(recipe, name) for name in ("network", "optimizer", "batch_size", "train_last_layer_only")}
    fingerprint = fingerprint_records(train_records)
    kind = {LABELS_PER_IMAGE: SEVERAL} if read_records_info(train_records).several else {}
    return {**chosen, **shape, **kind, "labels": labels, "pictures": fingerprint, "seed": recipe.advanced.seed}


def _resume(trainer: Trainer, identity: Mapping[str, Any]) -> checkpointing.CheckpointFolder:
    """Opens the checkpoint folder, and restores the newest checkpoint if there is one: of all workers the chief's newest."""
    folder = checkpointing.CheckpointFolder(trainer.recipe.checkpoint_dir, identity)
    state = folder.newest() if devices.rank_and_size()[0] == 0 else None
    (step,) = map(int, collectives.of_chief(trainer.strategy, [state.step if state else 0]))
    if state is None and step:
        state = folder.at(step)
    if state:
        trainer.restore(state)
        print(f"resumes after step {trainer.step}, from {folder.uri}", flush=True)
        if trainer.ended_early and trainer.step < trainer.recipe.train_steps:
            print("takes no further step: early_stopping_patience of advanced is used up; raise it to go on", flush=True)
    return folder


def _describe_first_step(trainer: Trainer, *, tuned: bool) -> str:
    """Says what the first of the remaining steps waits for; empty if for nothing long."""
    recipe = trainer.recipe
    if not takes_images(trainer.model) or trainer.step >= recipe.train_steps:
        return ""
    gpus, images = devices.count_gpus(), recipe.train_steps * recipe.batch_size
    return xla.describe_first_step(recipe.advanced.xla, gpus, images, workers=devices.rank_and_size()[1], tuned=tuned)


class _TrialComparison:
    """Compares a trial of a sweep with the others, by its first worker, and ends it on all workers if it is behind."""

    def __init__(self, trainer: Trainer):
        recipe, factor = trainer.recipe, trainer.recipe.advanced.trial_reduction_factor
        self._trainer = trainer
        self._ended: Ended | None = None
        steps = rung_steps(recipe.train_steps, trainer.validate_every, factor)
        print(f"compares with the other trials after step {', '.join(map(str, steps))}" if steps else NO_RUNGS, flush=True)
        self._rungs = Rungs(recipe.rungs_uri, recipe.trial_number, factor, steps) if devices.rank_and_size()[0] == 0 else None
        if self._rungs:
            self._rungs.begin(trainer.step)
        trainer.is_behind = self._is_behind

    def _is_behind(self, history: list[HistoryRow]) -> bool:
        figure = self._trainer.objective.validation_figure
        if self._rungs:
            reached = {int(row["step"]): row[figure] for row in history if figure in row}
            self._ended = self._rungs.compare(self._trainer.step, reached)
        if self._ended:
            print(f"ends early {self._ended.describe(self._trainer.recipe.train_steps)}", flush=True)
        return bool(collectives.of_chief(self._trainer.strategy, [self._ended is not None])[0])

    def metrics(self) -> dict[str, float]:
        """Returns the figures of `Ended`; empty if the trial has not ended early."""
        return self._ended.metrics() if self._ended else {}

    def line(self) -> str:
        """Says when and why the trial has ended early; empty if it has not."""
        return self._ended.describe(self._trainer.recipe.train_steps) if self._ended else ""


def _run_monitored(
    trainer: Trainer,
    batches: Iterator[Any],
    validation: Iterable[Any] | None,
    folder: checkpointing.CheckpointFolder | None,
    events: Path,
    choices: xla.KeptChoices | None,
) -> None:
    """Takes the remaining steps, reports them, and saves checkpoints if there is a folder for them, and what XLA has chosen."""
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
                if choices:
                    choices.keep()
            monitor.before_step(trainer.step)


def _log_first_images(batches: Iterator[Any], trainer: Trainer, monitor: monitoring.TrainingMonitor) -> Iterator[Any]:
    """Passes batches on, and logs the images of the first one, unless the batches are of features."""
    first = next(batches)
    images = tf.nest.map_structure(lambda parts: trainer.strategy.experimental_local_results(parts)[0], first[0])
    prepared = trainer.prepare(images)
    if takes_images(trainer.model):
        monitor.log_images(prepared)
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
            raise SystemExit(SIGTERM_STATUS)


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


def _fit_scores(trainer: Trainer, validation: Iterable[Any] | None, labels: list[str], several: bool) -> dict[str, Any]:
    """Returns what makes scores of the exported weights' logits: the temperature and, for several labels, the thresholds.

    With too few validation images, the temperature is 1 and every threshold `thresholds.FALLBACK`.
    """
    none = (tf.zeros((0, len(labels))), tf.zeros(0, tf.int64))
    logits, truth = trainer.logits(validation) if validation is not None else none
    kind: dict[str, Any] = {LABELS_PER_IMAGE: SEVERAL} if several else {}
    if len(truth) < MIN_IMAGES:
        rule = f"at least {MIN_IMAGES} validation images are needed to calibrate the scores and to tell unknown images"
        half = f", and every label has the threshold {thresholds.FALLBACK}" if several else ""
        print(f"{rule}; got {len(truth)}, so neither is done{half}. Raise validation_ratio, or add images.", flush=True)
        return {"temperature": 1.0} | (kind | {"thresholds": [thresholds.FALLBACK] * len(labels)} if several else {})
    found = fit_temperature(logits.numpy(), truth.numpy())
    print(f"calibrated the scores on {len(truth)} validation images: divides the logits by {found:.3g}", flush=True)
    if not several:
        return {"temperature": found}
    chosen, line = thresholds.choose_thresholds(truth.numpy() > 0, tf.sigmoid(logits / found).numpy(), labels)
    print(line, flush=True)
    return {"temperature": found, **kind, "thresholds": chosen}


def _fit_novelty(
    feed: feeds.Feed, network: Any, data: feeds.FeedSource, recipe: Recipe, classes: int, settings: Mapping[str, Any]
) -> tuple[Novelty | None, HeldOut | None]:
    """Returns what tells known images from others, and the validation images that images in use are compared with.

    Both are None if there are too few validation images, or if features are no numbers or too large to be stored; the first
    also if no image has a label.
    """
    if read_records_info(data.validation_records).images < MIN_IMAGES:
        return None, None
    training, validation = feed.features or feeds.export_features(network, data, recipe)
    if training.overflowing or validation.overflowing:
        rule = f"the features of each image must be numbers of at most {LARGEST_FEATURE} to tell unknown images"
        remedy = "Train longer, or start from weights that are trained."
        print(f"{rule}; got others, so this is not done. {remedy}", flush=True)
        return None, None
    held_out = _keep_held_out(network, validation.values, settings)
    images, labels = known_pairs(training.labels, feeds.FEATURE_IMAGES)
    if not len(images):
        return None, held_out
    embeddings = training.values[images]
    share = recipe.advanced.known_share
    found = fit_novelty(embeddings, labels, classes, validation.values[: feeds.FEATURE_IMAGES], share)
    print(f"tells images that are unlike the training's, so that {share:.4g} of the validation images are known", flush=True)
    return found, held_out


def _keep_held_out(network: Any, features: npt.NDArray[Any], settings: Mapping[str, Any]) -> HeldOut:
    """Returns validation images as an export keeps them, with the scores that it will give them."""
    _, head = split_head(network)
    logits = tf.cast(head(tf.constant(features[: feeds.FEATURE_IMAGES], tf.float32)), tf.float32) / settings["temperature"]
    scores = tf.sigmoid(logits) if settings.get("thresholds") else tf.nn.softmax(logits)
    return keep_held_out(features[: feeds.FEATURE_IMAGES], scores.numpy())


def _write_outputs(
    model: Path,
    page: Path,
    network: Any,
    trainer: Trainer,
    labels: list[str],
    shape: Mapping[str, Any],
    found: Mapping[str, Any],
    novelty: Novelty | None,
    held_out: HeldOut | None,
    ended: str,
) -> None:
    """Writes the model folder, with what the training has found, and the page of learning curves."""
    recipe = trainer.recipe
    settings = {**asdict(recipe), **shape, **found, "preset": recipe.preset.to_json()}
    if not recipe.advanced.label_separator:
        del settings["advanced"]["label_separator"]  # that of data with several labels only
    settings = {name: value for name, value in settings.items() if name not in OF_SWEEP}
    with replacing(model) as beside:
        _export(beside, network, trainer, labels, settings | {"kfp_vision": __version__}, shape, novelty, held_out)
    shown = {"recipe": recipe.preset.recipe} | _shown_settings(settings) | recipe.advanced.changed()
    pages.write_training_page(page, network=recipe.network, settings=shown, history=trainer.history, ended=ended)


def _export(
    folder: Path,
    network: Any,
    trainer: Trainer,
    labels: list[str],
    settings: Mapping[str, Any],
    shape: Mapping[str, Any],
    novelty: Novelty | None,
    held_out: HeldOut | None,
) -> None:
    """Writes the model folder with the best or the last weights, as the recipe says, and the others as a Keras file in it."""
    definition, exported = NETWORKS[trainer.recipe.network], trainer.recipe.advanced.export
    steps = {"last": trainer.step, "best": int(trainer.best_row.get("step", trainer.step))}
    weights = {which: trainer.weights(which) for which in steps}
    trainer.set_weights(weights[exported])
    settings = {**settings, "step": steps[exported]}
    export.write_model(folder, network, definition, labels, settings, shape, trainer.history, novelty, held_out)
    if steps["last"] != steps["best"]:
        other = "last" if exported == "best" else "best"
        trainer.set_weights(weights[other])
        export.rebuild_in_stock_layers(network, definition, len(labels), shape).save(folder / f"{other}.keras")


def _shown_settings(settings: Mapping[str, Any]) -> dict[str, object]:
    """Returns the settings to show: without those of `advanced`, empty ones, and the checkpoint if it was not read."""
    hidden = {"advanced", "preset", "thresholds"} | (set() if settings["fine_tune"] else {"checkpoint_uri"})
    return {name: value for name, value in settings.items() if name not in hidden and value != ""}


def _final_metrics(trainer: Trainer) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for row in trainer.history:
        metrics |= {name: value for name, value in row.items() if math.isfinite(value)}  # a dashboard rejects others
    metrics["images_per_second"] = float(np.median([row["images_per_second"] for row in trainer.history]))
    return metrics | ({"best_step": trainer.best_row["step"]} if trainer.best_row else {})
