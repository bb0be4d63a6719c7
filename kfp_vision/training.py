"""Training a classifier from TFRecords: one step after another, watched and written down."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kfp_vision import __version__, checkpoints, export, hardware, inputs, parameters, records, reports, schedules, splitting
from kfp_vision.errors import InputError
from kfp_vision.networks import NETWORKS
from kfp_vision.storage import replacing

HISTORY_ROWS = 60
VALIDATIONS = 5  # while training, the last step's included
VALIDATION_BATCH = 64
VALIDATION_PICTURES = 512  # for the learning curve; the evaluation stage looks at all
SECONDS_BETWEEN_LINES = 5.0
LONGEST_AVERAGE = 10.0  # batch norm's moving averages reach back over a tenth of a short run


@dataclass(frozen=True)
class Recipe:
    """How to train: the training fields of the run form, under their names there."""

    network: str
    fine_tune: bool
    checkpoint_uri: str
    train_last_layer_only: bool
    batch_size: int
    learning_rate: float
    train_steps: int
    optimizer: str
    learning_rate_schedule: str
    image_size: int
    gpu_count: int
    model_name: str
    advanced: Mapping[str, Any] = field(default_factory=dict)


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


def build(name: str, classes: int, precision: str, **options: Any) -> Any:
    """A network that computes in the given precision and keeps its weights in float32."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    try:
        return NETWORKS[name].build(classes, **options)
    finally:
        keras.config.set_dtype_policy(policy)


class Trainer:
    """A model with its optimizer and its learning rate."""

    def __init__(self, model: Any, recipe: Recipe, advanced: dict[str, Any], steps_per_epoch: float):
        self.model, self.recipe, self.advanced, self.steps_per_epoch = model, recipe, advanced, steps_per_epoch
        for layer in model.layers[:-1]:
            layer.trainable = not recipe.train_last_layer_only
        self.optimizer = make_optimizer(recipe.optimizer, advanced)
        self.optimizer.build(model.trainable_variables)
        self.compiled_step, self.compiled_logits = tf.function(self._step), tf.function(self._logits)

    def run(self, batches: tf.data.Dataset, validation: tf.data.Dataset | None) -> Iterator[dict[str, float]]:
        """Takes all steps; gives a row of history every now and then, the last step's included.

        Raises:
            InputError: the loss is no longer a number.
        """
        steps = self.recipe.train_steps
        every, validate_every = math.ceil(steps / HISTORY_ROWS), math.ceil(steps / VALIDATIONS)
        losses, hits, since = [], [], time.perf_counter()
        for step, (pictures, labels) in enumerate(batches.take(steps)):
            rate = self.learning_rate_at(step)
            loss, hit = self.compiled_step(pictures, labels, tf.constant(rate, tf.float32))
            losses.append(loss)
            hits.append(hit)
            last = step + 1 == steps
            if (step + 1) % every and (step + 1) % validate_every and not last:
                continue
            mean_loss = float(np.mean([float(value) for value in losses]))
            if not math.isfinite(mean_loss):
                remedy = f"Try a learning_rate of {rate / 10:g}."
                raise InputError("the loss must stay a number", f"{mean_loss} near step {step + 1}, at rate {rate:g}", remedy)
            seconds = time.perf_counter() - since
            row = {
                "step": step + 1,
                "loss": mean_loss,
                "accuracy": float(np.mean([float(value) for value in hits])),
                "learning_rate": rate,
                "images_per_second": len(losses) * self.recipe.batch_size / seconds,
            }
            if validation is not None and (last or (step + 1) % validate_every == 0):
                row |= self.validate(validation)
            yield row
            losses, hits, since = [], [], time.perf_counter()

    def validate(self, batches: tf.data.Dataset) -> dict[str, float]:
        """Loss and accuracy over all batches."""
        logits, labels = [], []
        for pictures, numbers in batches:
            logits.append(self.compiled_logits(pictures))
            labels.append(numbers)
        all_logits, all_labels = tf.concat(logits, 0), tf.concat(labels, 0)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(all_labels, all_logits))
        accuracy = np.mean(np.argmax(all_logits, 1) == all_labels.numpy())
        return {"validation_loss": float(loss), "validation_accuracy": float(accuracy)}

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return schedules.learning_rate_at(
            step,
            schedule=self.recipe.learning_rate_schedule,
            learning_rate=self.recipe.learning_rate,
            train_steps=self.recipe.train_steps,
            steps_per_epoch=self.steps_per_epoch,
            **{name: self.advanced[name] for name in schedules.FIELDS},
        )

    def _step(self, pictures: tf.Tensor, labels: tf.Tensor, learning_rate: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        variables = self.model.trainable_variables
        smoothing = self.advanced["label_smoothing"]
        with tf.GradientTape() as tape:
            # Frozen layers also keep their batch statistics, as at serving.
            logits = self.model(pictures, training=not self.recipe.train_last_layer_only)
            targets = tf.one_hot(labels, logits.shape[-1]) * (1 - smoothing) + smoothing / logits.shape[-1]
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))
        gradients = [
            # TF-Slim adds weight_decay / 2 * |w|^2 to the loss; this is its gradient.
            gradient + self.advanced["weight_decay"] * variable if variable.name == "kernel" else gradient
            for gradient, variable in zip(tape.gradient(loss, variables), variables, strict=True)
        ]
        self.optimizer.learning_rate.assign(learning_rate)
        self.optimizer.apply(gradients, variables)
        return loss, tf.reduce_mean(tf.cast(tf.argmax(logits, 1) == labels, tf.float32))

    def _logits(self, pictures: tf.Tensor) -> tf.Tensor:
        return self.model(pictures, training=False)


def make_optimizer(name: str, advanced: Mapping[str, Any]) -> Any:
    """A Keras optimizer with TF-Slim's fields and defaults; its learning rate is set before every step."""
    epsilon = advanced["opt_epsilon"]
    betas = {"beta_1": advanced["adam_beta1"], "beta_2": advanced["adam_beta2"], "epsilon": epsilon}
    optimizers = keras.optimizers
    made = {
        "adadelta": lambda: optimizers.Adadelta(rho=advanced["adadelta_rho"], epsilon=epsilon),
        "adagrad": lambda: optimizers.Adagrad(initial_accumulator_value=advanced["adagrad_initial_accumulator_value"]),
        "adam": lambda: optimizers.Adam(**betas),
        "adamw": lambda: optimizers.AdamW(weight_decay=advanced["weight_decay"], **betas),
        "ftrl": lambda: optimizers.Ftrl(
            learning_rate_power=advanced["ftrl_learning_rate_power"],
            initial_accumulator_value=advanced["ftrl_initial_accumulator_value"],
            l1_regularization_strength=advanced["ftrl_l1"],
            l2_regularization_strength=advanced["ftrl_l2"],
        ),
        "momentum": lambda: optimizers.SGD(momentum=advanced["momentum"]),
        "rmsprop": lambda: optimizers.RMSprop(
            rho=advanced["rmsprop_decay"], momentum=advanced["rmsprop_momentum"], epsilon=epsilon
        ),
        "sgd": lambda: optimizers.SGD(),
    }
    return made[name]()


def watched(rows: Iterator[dict[str, float]], recipe: Recipe, events: Path) -> list[dict[str, float]]:
    """Collects history while it is made: prints a line every few seconds, and writes TensorBoard's events."""
    history: list[dict[str, float]] = []
    start = printed = time.perf_counter()
    writer = tf.summary.create_file_writer(str(events))
    with writer.as_default():
        for row in rows:
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
