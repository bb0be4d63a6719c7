"""One step after another: a model, its optimizer, its learning rate, and all that must be kept to go on with them."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kfp_vision import schedules
from kfp_vision.errors import InputError
from kfp_vision.networks import NETWORKS
from kfp_vision.training import watching
from kfp_vision.training.optimizers import make_optimizer
from kfp_vision.training.recipe import Recipe
from kfp_vision.training.saving import State

HISTORY_ROWS = 60
VALIDATIONS = 5  # while training, the last step's included, unless it is said how often

Row = dict[str, float]


def build(name: str, classes: int, precision: str, **options: Any) -> Any:
    """A network that computes in the given precision and keeps its weights in float32."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    try:
        return NETWORKS[name].build(classes, **options)
    finally:
        keras.config.set_dtype_policy(policy)


class Trainer:
    """A model on its way through the steps of a recipe.

    Made, like the model, in the scope of the strategy that spreads its steps over devices. A batch is what all of them take
    together in one step.

    Args:
        model: pictures, or whatever else the batches hold, to logits; those of its layers that are trainable are trained.
        recipe: how to train.
        advanced: the fields of `advanced`, all of them.
        steps_per_epoch: steps in which every picture is seen once.
        class_weights: the weight of each class in the loss; none for 1.

    Attributes:
        step: steps taken.
        history: a row every now and then: `step`, `loss`, `accuracy`, `learning_rate`, `images_per_second`, `input_wait` (the
            share of the time in which the network waited for pictures), sometimes `validation_loss`, `validation_accuracy`.
        best_row: the row of the best validation; empty where there was none.
        run_name: of its events, the one that it began with.
        ended_early: whether validation has stopped to become better for as long as the recipe bears.
    """

    def __init__(
        self,
        model: Any,
        recipe: Recipe,
        advanced: Mapping[str, Any],
        steps_per_epoch: float,
        class_weights: np.ndarray | None = None,
    ):
        self.model, self.recipe, self.advanced, self.steps_per_epoch = model, recipe, advanced, steps_per_epoch
        self.strategy = tf.distribute.get_strategy()
        if recipe.batch_size % self.strategy.num_replicas_in_sync:
            found = f"batch_size={recipe.batch_size} on {self.strategy.num_replicas_in_sync} devices"
            raise InputError("batch_size must be a multiple of the devices that share it", found, "Choose another batch_size.")
        self.optimizer = make_optimizer(recipe.optimizer, advanced)
        self.optimizer.build(model.trainable_variables)
        self.class_weights = None if class_weights is None else tf.constant(class_weights, tf.float32)
        self._penalised = {id(variable) for variable in _penalised(model, recipe)}
        self._averages = [tf.Variable(weight, trainable=False) for weight in self._averaged_weights()]
        self._steps_taken = tf.Variable(0, trainable=False, dtype=tf.int64)
        self.step, self.history, self.ended_early = 0, list[Row](), False
        self.run_name = watching.run_name(recipe.model_name)
        self._loss: tf.Tensor | None = None
        self._best: list[np.ndarray] = []
        self.best_row: Row = {}
        compiled = {"jit_compile": True} if _with_xla(advanced["xla"]) else {}
        self.compiled_step = tf.function(self._step, **compiled)
        self.compiled_logits = tf.function(self._logits, **compiled)

    def run(self, batches: Iterator[Any], validation: tf.data.Dataset | None) -> Iterator[Row | None]:
        """Takes the steps that are left; gives, after each, a row of history or nothing.

        Args:
            batches: what the next steps take, from the one on at which this stands: (pictures, labels).
            validation: what the model is measured with every now and then, or nothing.

        Raises:
            InputError: the loss is no longer a number.
        """
        steps = self.recipe.train_steps
        every = math.ceil(steps / HISTORY_ROWS)
        validate_every = self.advanced["validate_every_steps"] or math.ceil(steps / VALIDATIONS)
        losses, hits, waited, since = [], [], 0.0, time.perf_counter()
        while self.step < steps and not self.ended_early:
            asked = time.perf_counter()
            pictures, labels = next(batches)
            waited += time.perf_counter() - asked
            rate = self.learning_rate_at(self.step)
            loss, hit = self.compiled_step(pictures, labels, tf.constant(rate, tf.float32))
            self._check_finite()  # the step before, so that a GPU is never waited for
            losses.append(loss)
            hits.append(hit)
            self._loss = loss
            self.step += 1
            last, to_validate = self.step == steps, self.step % validate_every == 0
            if self.step % every and not to_validate and not last:
                yield None
                continue
            self._check_finite()
            seconds = time.perf_counter() - since
            row = {
                "step": self.step,
                "loss": float(np.mean([float(value) for value in losses])),
                "accuracy": float(np.mean([float(value) for value in hits])),
                "learning_rate": rate,
                "images_per_second": len(losses) * self.recipe.batch_size / seconds,
                "input_wait": waited / seconds,
            }
            if validation is not None and (last or to_validate):
                row |= self.validate(validation)
                self._judge(row)
            self.history.append(row)
            yield row
            losses, hits, waited, since = [], [], 0.0, time.perf_counter()

    def validate(self, batches: tf.data.Dataset) -> Row:
        """Loss and accuracy over all batches, with the moving averages of the weights where there are any."""
        with self._averages_in_place():
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

    def state(self) -> State:
        """All that must be kept to go on from here.

        Raises:
            InputError: the loss is no longer a number.
        """
        self._check_finite()
        arrays = {name: variable.numpy() for name, variable in self._variables().items()}
        arrays |= {f"best/{number}": array for number, array in enumerate(self._best)}
        about = {
            "history": self.history,
            "best": self.best_row,
            "ended_early": self.ended_early,
            "run_name": self.run_name,
        }
        return State(self.step, arrays, about)

    def restore(self, state: State) -> None:
        """Puts everything back to where it was.

        Raises:
            InputError: the state is of a model or an optimizer with other variables.
        """
        for name, variable in self._variables().items():
            if name not in state.arrays or state.arrays[name].shape != variable.shape:
                remedy = "Choose another checkpoint_dir."
                raise InputError(
                    "a training goes on with the same model and optimizer only", f"no {name} of this shape", remedy
                )
            variable.assign(state.arrays[name])
        self.step, self.history = state.step, list(state.about["history"])
        self.best_row, self.ended_early = dict(state.about["best"]), state.about["ended_early"]
        self.run_name = state.about["run_name"]
        self._best = [
            state.arrays[f"best/{number}"] for number in range(sum(name.startswith("best/") for name in state.arrays))
        ]

    def weights(self, which: str) -> list[np.ndarray]:
        """The model's weights, in the order of `model.weights`: their averages where there are any.

        Args:
            which: `last`, or `best`, those of the best validation; the same where there was none.
        """
        if which == "best" and self._best:
            return self._best
        return [weight.numpy() for weight in self._averages or self.model.weights]

    def put(self, weights: list[np.ndarray]) -> None:
        """Gives the model other weights, in the order of `model.weights`."""
        for weight, value in zip(self.model.weights, weights, strict=True):
            weight.assign(value)

    def _step(self, pictures: Any, labels: Any, learning_rate: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        sums = self.strategy.run(self._replica_step, args=(pictures, labels, learning_rate))
        loss, hits = (self.strategy.reduce("SUM", value, axis=None) for value in sums)
        if self._averages:
            self._average()
        return loss, hits

    def _replica_step(self, pictures: tf.Tensor, labels: tf.Tensor, learning_rate: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            logits = self.model(pictures, training=True)
            classes = logits.shape[-1]
            truth = labels if labels.dtype.is_floating else tf.one_hot(labels, classes)
            smoothing = self.advanced["label_smoothing"]
            losses = tf.nn.softmax_cross_entropy_with_logits(truth * (1 - smoothing) + smoothing / classes, logits)
            if self.class_weights is not None:
                losses *= tf.linalg.matvec(truth, self.class_weights)
            loss = tf.reduce_sum(losses) / self.recipe.batch_size
        # TF-Slim adds weight_decay / 2 * |w|^2 to the loss; this is its gradient, which the replicas' sum makes whole.
        decay = self.advanced["weight_decay"] / self.strategy.num_replicas_in_sync
        gradients = [
            gradient + decay * variable if id(variable) in self._penalised else gradient
            for gradient, variable in zip(tape.gradient(loss, variables), variables, strict=True)
        ]
        self.optimizer.learning_rate.assign(learning_rate)
        self.optimizer.apply(gradients, variables)
        hits = tf.reduce_sum(tf.cast(tf.argmax(logits, 1) == tf.argmax(truth, 1), tf.float32))
        return loss, hits / self.recipe.batch_size

    def _logits(self, pictures: tf.Tensor) -> tf.Tensor:
        return self.model(pictures, training=False)

    def _averaged_weights(self) -> list[Any]:
        return [weight.value for weight in self.model.weights] if self.advanced["moving_average_decay"] else []

    def _average(self) -> None:
        """Moves the averages; early ones forget faster, as `tf.train.ExponentialMovingAverage` does with a count of steps."""
        taken = tf.cast(self._steps_taken.assign_add(1), tf.float32)
        decay = tf.minimum(self.advanced["moving_average_decay"], (1 + taken) / (10 + taken))
        for average, weight in zip(self._averages, self._averaged_weights(), strict=True):
            average.assign_sub((1 - decay) * (average - weight))

    @contextmanager
    def _averages_in_place(self) -> Iterator[None]:
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        """Changes averages and weights about."""
        for average, weight in zip(self._averages, self._averaged_weights(), strict=True):
            value = average.numpy()
            average.assign(weight)
            weight.assign(value)

    def _judge(self, row: Row) -> None:
        """Keeps the weights of the best validation so far, and sees whether it is long ago."""
        rank = (row["validation_accuracy"], -row["validation_loss"])
        if not self.best_row or rank > (self.best_row["validation_accuracy"], -self.best_row["validation_loss"]):
            self.best_row = row
            self._best = self.weights("last")
        since = sum("validation_loss" in later for later in self.history if later["step"] > self.best_row["step"])
        since += row is not self.best_row
        patience = self.advanced["early_stopping_patience"]
        if patience and since >= patience:
            self.ended_early = True

    def _variables(self) -> dict[str, Any]:
        kinds = {
            "model": self.model.variables,  # with the states of random generators, which are no weights
            "optimizer": self.optimizer.variables,
            "averages": self._averages,
            "steps": [self._steps_taken],
        }
        return {f"{kind}/{number}": variable for kind, held in kinds.items() for number, variable in enumerate(held)}

    def _check_finite(self) -> None:
        if self._loss is None or math.isfinite(float(self._loss)):
            return
        rate = self.learning_rate_at(self.step - 1)
        remedy = f"Try a learning_rate of {rate / 10:g}, or warmup_steps in advanced."
        raise Diverged("the loss must stay a number", f"{float(self._loss)} at step {self.step}, at rate {rate:g}", remedy)


class Diverged(InputError):
    """The loss of a training is no longer a number."""


def freeze(model: Any, layers_to_freeze: str) -> int:
    """Keeps layers as they are, with their batch statistics.

    Args:
        model: whose layers.
        layers_to_freeze: what the names of the layers begin with, one or several with commas between; empty for none.

    Returns:
        How many layers with weights that are.

    Raises:
        InputError: no layer has a name that begins so, or all that have weights do.
    """
    prefixes = [prefix.strip().replace("/", ".") for prefix in layers_to_freeze.split(",") if prefix.strip()]
    weighty = [layer for layer in model.layers if layer.weights]
    for prefix in prefixes:
        if not any(layer.name.startswith(prefix) for layer in weighty):
            names = ", ".join(dict.fromkeys(layer.name.partition(".")[0] for layer in weighty))
            remedy = f"Take the beginning of one of these: {names}."
            raise InputError("layers_to_freeze of advanced must name layers of the network", prefix, remedy)
    frozen = [layer for layer in weighty if layer.name.startswith(tuple(prefixes))] if prefixes else []
    if len(frozen) == len(weighty):
        raise InputError("layers_to_freeze of advanced must leave a layer to train", layers_to_freeze, "Name fewer.")
    for layer in frozen:
        layer.trainable = False
    return len(frozen)


def _penalised(model: Any, recipe: Recipe) -> list[Any]:
    """The kernels, whose size is held down by `weight_decay`; AdamW does that itself."""
    kernels = {"kernel", "depthwise_kernel", "pointwise_kernel"}
    return [] if recipe.optimizer == "adamw" else [v for v in model.trainable_variables if v.name in kernels]


def _with_xla(wish: str) -> bool:
    """Whether to compile with XLA: `on`, `off`, or `auto`, which is on one GPU."""
    return wish == "on" or (wish == "auto" and len(tf.config.get_visible_devices("GPU")) == 1)
