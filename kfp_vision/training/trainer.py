"""The training loop: a model, its optimizer, its learning rate, and all state needed to resume."""

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from kfp_vision.core.errors import InputError
from kfp_vision.core.frameworks import keras, tf
from kfp_vision.networks import NETWORKS
from kfp_vision.training import collectives, devices, monitoring, schedules, xla
from kfp_vision.training.checkpointing import TrainingState
from kfp_vision.training.divergence import RULE, Diverged
from kfp_vision.training.objectives import Objective, OneLabel
from kfp_vision.training.optimizers import make_optimizer
from kfp_vision.training.padding import of_one_size
from kfp_vision.training.recipe import Recipe

HISTORY_ROWS = 60
MAX_QUEUED_STEPS = 8  # steps that may wait for the GPU; each keeps its batch in memory
IMAGE_DIMENSIONS, IMAGE_CHANNELS = 4, 3  # of a batch of images
SEEDS = 1 << 32  # more than Keras draws from; it takes them modulo 2^31 - 2, so that those of two devices differ by 4
VALIDATIONS_PER_TRAINING = 5  # per training, including the last step's, unless validate_every_steps is set
# Kinds of a state's variables, the settings that decide which of them there are, and what a state has that does not fit.
MISFITS = {
    "model": ("dropout_keep_prob and train_last_blocks_only", "a model with other variables"),
    "optimizer": (
        "layers_to_freeze, freeze_batch_norm, momentum and rmsprop_momentum",
        "an optimizer of other variables",
    ),
    "averages": ("moving_average_decay", "no moving averages"),
}

HistoryRow = dict[str, float]
Weights = list[npt.NDArray[Any]]


def build_network(name: str, classes: int, precision: str, **options: Any) -> Any:
    """Builds a network that computes in the given precision and keeps its weights in float32.

    Args:
        name: one of `networks.NETWORKS`.
        classes: number of classes.
        precision: `bfloat16` or `float32`.
        **options: of the network's builder, such as `image_size`.

    Returns:
        A Keras model: images (batch, size, size, 3) in 0 to 255 to logits (batch, classes).
    """
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    try:
        return NETWORKS[name].build(classes, **options)
    finally:
        keras.config.set_dtype_policy(policy)


def takes_images(model: Any) -> bool:
    """Returns whether a model takes images, and not features of them.

    Args:
        model: a Keras model.
    """
    return len(model.input_shape) == IMAGE_DIMENSIONS and model.input_shape[-1] == IMAGE_CHANNELS


class Trainer:
    """Trains a model step by step.

    Create it, like the model, in the scope of the strategy that distributes its steps. A batch holds the images of all devices.

    Example:
        trainer = Trainer(model, recipe, steps_per_epoch=100)
        for row in trainer.run(batches, validation):
            if row:
                print(row["step"], row["loss"])

    Args:
        model: Keras model from images, or features, to logits. Its trainable layers are trained.
        recipe: how to train.
        steps_per_epoch: steps per pass over all images.
        class_weights: float (classes,), the weight of each class in the loss; None for 1.
        objective: loss and figures; by default those of images of one label.
        prepare: makes what the model takes of the images of a batch, as a part of the step; by default they are that already.
        tuned: whether XLA has choices of an earlier run, see `xla.uses_xla`.

    Attributes:
        step: steps taken.
        history: rows with `step`, `loss`, `accuracy`, `learning_rate`, `images_per_second`, `input_wait` (the share of the time
            in which the network waited for images, unless it takes features that are in memory), and sometimes
            `validation_loss` and `validation_accuracy`. Where images have several labels, `micro_f1` and
            `validation_mean_average_precision` take the place of the accuracies.
        best_row: row of the best validation; empty before the first one.
        run_name: name of the events folder, kept when the training resumes.
        ended_early: whether early stopping has ended the training.
        wants_to_stop: returns whether this worker wishes to end, on SIGTERM for example. The wishes of all workers ride in the
            sums of each step, so that all end after the same one.
        stopped: whether a worker's wish has ended the training. Every other decision is taken by the step, or by figures that
            all workers share: never by a clock or by what one worker computes alone.
        steps_per_call: how many steps a device is given at a time, see `devices.steps_per_call`.
        is_behind: returns whether the training is to end because others are better, given its history; asked at the start and
            after each validation, by all workers, and says the same to all.
        outdone: whether the training has ended because others are better.
    """

    def __init__(
        self,
        model: Any,
        recipe: Recipe,
        steps_per_epoch: float,
        class_weights: npt.NDArray[np.float64] | None = None,
        objective: Objective | None = None,
        *,
        prepare: Callable[[Any], tf.Tensor] = lambda images: images,
        tuned: bool = False,
    ):
        self.model, self.recipe, self.steps_per_epoch = model, recipe, steps_per_epoch
        self.objective, self.prepare = objective or OneLabel(), prepare
        self.strategy = tf.distribute.get_strategy()
        if recipe.batch_size % self.strategy.num_replicas_in_sync:
            found = f"batch_size={recipe.batch_size} on {self.strategy.num_replicas_in_sync} devices"
            raise InputError("batch_size must be a multiple of the devices that share it", found, "Choose another batch_size.")
        self.optimizer = make_optimizer(recipe.optimizer, recipe.advanced)
        self.optimizer.build(model.trainable_variables)
        self.class_weights = None if class_weights is None else tf.constant(class_weights, tf.float32)
        self._decayed = {id(variable) for variable in _decayed_variables(model, recipe)}
        self._averages = [tf.Variable(weight, trainable=False) for weight in self._averaged_weights()]
        self._steps_taken = tf.Variable(0, trainable=False, dtype=tf.int64)
        self.step, self.history, self.ended_early = 0, list[HistoryRow](), False
        self.wants_to_stop: Callable[[], bool] = lambda: False
        self.stopped = False
        self.is_behind: Callable[[list[HistoryRow]], bool] = lambda history: False
        self.outdone = False
        self.run_name = monitoring.run_name(recipe.model_name)
        self._wish_step: int | None = None  # the first at which a worker wished to stop
        self._unread_sums = deque[tuple[int, tf.Tensor, tf.Tensor]]()  # step, loss, and how many devices wish to stop
        self._best: Weights = []
        self.best_row: HistoryRow = {}
        gpus = devices.count_gpus()
        self._is_alone = devices.rank_and_size()[1] == 1
        self.steps_per_call = devices.steps_per_call(gpus, recipe.batch_size)
        # A processor's sums are there with the step.
        self._queued_steps = max(MAX_QUEUED_STEPS, 2 * self.steps_per_call) if gpus or self._is_alone else 1
        images = recipe.train_steps * recipe.batch_size if takes_images(model) else 0
        workers = devices.rank_and_size()[1]
        compiles = xla.uses_xla(recipe.advanced.xla, gpus, images, workers=workers, tuned=tuned)
        compile_options = {"jit_compile": True} if compiles else {}
        self.compiled_step = tf.function(self._step, **compile_options)
        self.compiled_steps = tf.function(self._steps, autograph=False, **compile_options)
        # Without XLA: to compile it a second time takes longer than all validations of a training.
        self.compiled_logits = tf.function(self._logits)
        self._has_gpu = gpus > 0
        self._no_wish = tf.constant(0.0)

    def run(self, batches: Iterator[Any], validation: Iterable[Any] | None) -> Iterator[HistoryRow | None]:
        """Takes the remaining steps.

        Args:
            batches: (images, labels) of the remaining steps.
            validation: batches to validate on at intervals, or None.

        Yields:
            After each step, or each call of several steps, a row of history, or None.

        Raises:
            Diverged: the loss is not finite.
        """
        self._draw_apart()
        self.outdone = self.is_behind(self.history)
        if self.step < self.recipe.train_steps and not self.outdone:  # the start waits for the first batch, not a step
            batches = itertools.chain([next(batches)], batches)
        interval = _Interval()
        while self.step < self.recipe.train_steps and not (self.ended_early or self.stopped or self.outdone):
            self._take_steps(batches, interval)
            if not self._row_is_due():
                yield None
                continue
            self._read_sums()
            self._heed_wishes(self.step)
            row = interval.row(self.step, self.learning_rate_at(self.step - 1), self.recipe.batch_size, self.objective)
            if not takes_images(self.model):
                row.pop("input_wait")  # for features, which neither more cores nor smaller images would speed up
            if validation is not None and self._validation_is_due():
                row |= self._validate_once(validation)
                if self.step == self.recipe.train_steps:  # no step follows whose loss would tell
                    self._check_finite(row["validation_loss"], self.step)
                self._track_best(row)
            self.history.append(row)
            if "validation_loss" in row:
                self.outdone = self.is_behind(self.history)
            yield row
            interval = _Interval()

    @property
    def validate_every(self) -> int:
        """Returns the number of steps between two validations."""
        return self.recipe.advanced.validate_every_steps or math.ceil(self.recipe.train_steps / VALIDATIONS_PER_TRAINING)

    def validate(self, batches: Iterable[Any]) -> HistoryRow:
        """Computes loss and figure over all batches, with the moving averages of the weights if there are any.

        Args:
            batches: (images, labels); the last one may be smaller.

        Returns:
            `validation_loss` and `validation_accuracy`, or the validation figure of the objective.
        """
        with self._averages_in_place():
            logits, labels = self.logits(batches)
        return self.objective.validate(labels, logits)

    @contextmanager
    def exported_weights(self) -> Iterator[None]:
        """Sets the weights of the model to those that the recipe exports, while the body runs."""
        before = [weight.numpy() for weight in self.model.weights]
        self.set_weights(self.weights(self.recipe.advanced.export))
        try:
            yield
        finally:
            self.set_weights(before)

    def logits(self, batches: Iterable[Any]) -> tuple[tf.Tensor, tf.Tensor]:
        """Computes the logits of all batches with the weights that the model has.

        Args:
            batches: (images, labels), at least one; the last one may be smaller.

        Returns:
            Logits, float32 (images, classes), and labels as in `input_pipeline`.
        """
        compute = of_one_size(self.compiled_logits)
        pairs = [(compute(images), labels) for images, labels in batches]
        logits, labels = (tf.concat(parts, 0) for parts in zip(*pairs, strict=True))
        return logits, labels

    def learning_rate_at(self, step: int) -> float:
        """Returns the learning rate of a step.

        Args:
            step: from 0.
        """
        return schedules.learning_rate_at(
            step,
            schedule=self.recipe.learning_rate_schedule,
            learning_rate=self.recipe.learning_rate,
            train_steps=self.recipe.train_steps,
            steps_per_epoch=self.steps_per_epoch,
            **{name: getattr(self.recipe.advanced, name) for name in schedules.SCHEDULE_FIELDS},
        )

    def state(self) -> TrainingState:
        """Returns all that is needed to resume.

        Raises:
            Diverged: the loss is not finite.
        """
        self._read_sums()
        arrays = {name: variable.numpy() for name, variable in self._variables().items()}
        arrays |= {f"best/{number}": array for number, array in enumerate(self._best)}
        about = {
            "history": self.history,
            "best": self.best_row,
            "run_name": self.run_name,
        }
        return TrainingState(self.step, arrays, about)

    def restore(self, state: TrainingState) -> None:
        """Resumes from a state.

        Args:
            state: what `state` returned, maybe in another process.

        Raises:
            InputError: it is of a model or an optimizer with other variables, or lacks the moving averages.
        """
        for name, variable in self._variables().items():
            if name not in state.arrays or state.arrays[name].shape != variable.shape:
                raise self._misfit(name, state)
            variable.assign(state.arrays[name])
        self.step, self.history = state.step, list(state.about["history"])
        self.best_row = dict(state.about["best"])
        self.ended_early = bool(self.best_row) and self._is_stopped_early(self.history)
        self.run_name = state.about["run_name"]
        self._best = [
            state.arrays[f"best/{number}"] for number in range(sum(name.startswith("best/") for name in state.arrays))
        ]

    def _misfit(self, name: str, state: TrainingState) -> InputError:
        """Makes the error of a state in which the variable of a name is missing or has another shape: says what to set."""
        settings, found = MISFITS.get(name.partition("/")[0], MISFITS["model"])
        rule = f"a training must resume with {settings} of advanced as the checkpoint has it"
        remedy = "Set it as before, or choose another, empty checkpoint_dir."
        return InputError(rule, f"{found} at step {state.step}", remedy)

    def weights(self, which: str) -> Weights:
        """Returns the weights to export, in the order of `model.weights`: their moving averages if there are any.

        Args:
            which: `last`, or `best` for those of the best validation; without a validation, `best` is `last`.
        """
        if which == "best" and self._best:
            return self._best
        return [weight.numpy() for weight in self._averages or self.model.weights]

    def set_weights(self, weights: Weights) -> None:
        """Sets the weights of the model.

        Args:
            weights: in the order of `model.weights`.
        """
        for weight, value in zip(self.model.weights, weights, strict=True):
            weight.assign(value)

    def _draw_apart(self) -> None:
        """Gives each device random numbers of its own. Keras starts all with one seed, so that they would drop the same units.

        The first device of the chief, whose state is kept, draws what a single device would.
        """
        if self.strategy.num_replicas_in_sync == 1:
            return
        own = devices.own_devices(self.strategy)
        for variable in self.model.non_trainable_variables:
            if variable.name == "seed_generator_state":
                for device, state in zip(own, self.strategy.experimental_local_results(variable.value), strict=True):
                    seed, drawn = state.numpy()
                    state.assign([seed % SEEDS + device * SEEDS, drawn])

    def _take_steps(self, batches: Iterator[Any], interval: "_Interval") -> None:
        """Takes as many steps as the device is given at a time, at most up to the next row of history."""
        count = min(self.steps_per_call, self._steps_to_row()) if self.steps_per_call > 1 else 1
        start = time.perf_counter()
        group = [next(batches) for _ in range(count)]
        waited = time.perf_counter() - start
        if self.steps_per_call > 1:
            rates = self._rates[self.step : self.step + count]
            missing = self.steps_per_call - count  # a group of another size would be compiled anew
            sums = self.compiled_steps(group + group[-1:] * missing, tf.pad(rates, [[0, missing]]), tf.constant(count))[:count]
        else:
            wish = self._no_wish if self._is_alone else tf.constant(self.wants_to_stop(), tf.float32)
            rate = self._rates[self.step] if self._has_gpu else tf.constant(self.learning_rate_at(self.step), tf.float32)
            sums = [self.compiled_step(*group[0], rate, wish)]
        for loss, counts, wishes in sums:
            self.step += 1
            interval.add(loss, counts)
            self._unread_sums.append((self.step, loss, wishes))
        interval.waited += waited
        if self._is_alone:
            self.stopped = self.wants_to_stop()
        # Not at every step on a GPU: TensorFlow copies from it only when all steps are done that were called before the copy.
        unread = self._queued_steps // 2
        is_due = len(self._unread_sums) >= self._queued_steps if self._is_alone else self.step % max(unread, 1) == 0
        if is_due:
            self._read_sums(unread)
            self._heed_wishes(self.step - unread)

    def _heed_wishes(self, until: int) -> None:
        """Ends the training if a worker wished so at a step until this one.

        The step decides, not what was read: the chief has read more when it saved, by its own clock.
        """
        self.stopped = self.stopped or (self._wish_step is not None and self._wish_step <= until)

    def _validate_once(self, batches: Iterable[Any]) -> HistoryRow:
        """Validates on the chief; returns its figures on all workers, whose own may differ in the last digits."""
        names = ("validation_loss", self.objective.validation_figure)
        is_chief = devices.rank_and_size()[0] == 0
        own = self.validate(batches) if is_chief else dict.fromkeys(names, 0.0)
        return dict(zip(names, collectives.of_chief(self.strategy, [own[name] for name in names]), strict=True))

    @cached_property
    def _rates(self) -> tf.Tensor:
        """The learning rates of all steps, float32 (steps,), on the device, so that no step waits for a number from Python."""
        return tf.constant([self.learning_rate_at(step) for step in range(self.recipe.train_steps)], tf.float32)

    def _steps_to_row(self) -> int:
        """Returns in how many steps the next row of history is due, or the last step."""
        due = (every - self.step % every for every in (self._steps_per_row(), self.validate_every))
        return min(*due, self.recipe.train_steps - self.step)

    def _row_is_due(self) -> bool:
        return self.step % self._steps_per_row() == 0 or self._validation_is_due()

    def _validation_is_due(self) -> bool:
        return self.step % self.validate_every == 0 or self.step == self.recipe.train_steps

    def _steps_per_row(self) -> int:
        return math.ceil(self.recipe.train_steps / HISTORY_ROWS)

    def _steps(self, batches: list[Any], rates: tf.Tensor, count: tf.Tensor) -> list[tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
        """Takes the first `count` steps of a group of batches in a loop on the device."""
        group = tf.nest.map_structure(lambda *parts: tf.stack(parts), *batches)
        zeros = tf.zeros((1, self.model.output_shape[-1]))
        shapes = (), self.objective.counts(zeros, zeros).shape
        tables = tuple(tf.TensorArray(tf.float32, len(batches), element_shape=shape) for shape in shapes)

        def take(number: tf.Tensor, losses: tf.TensorArray, counts: tf.TensorArray) -> tuple[Any, ...]:
            images, labels = tf.nest.map_structure(lambda parts: parts[number], group)
            loss, hits, _ = self._step(images, labels, rates[number])
            return number + 1, losses.write(number, loss), counts.write(number, hits)

        limits = {"maximum_iterations": len(batches), "parallel_iterations": 1}  # a step needs the weights of the one before
        _, *tables = tf.while_loop(lambda number, *_: number < count, take, (tf.constant(0), *tables), **limits)
        losses, counts = (tf.unstack(table.stack()) for table in tables)
        return [(loss, hits, tf.constant(0.0)) for loss, hits in zip(losses, counts, strict=True)]

    def _step(
        self, images: Any, labels: Any, learning_rate: tf.Tensor, wish: tf.Tensor | float = 0.0
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        parts = self.strategy.run(self._replica_sums, args=(images, labels, learning_rate, wish))
        sums = self.strategy.reduce("SUM", parts, axis=None)
        if self._averages:
            self._update_averages()
        return sums[0], sums[1:-1], sums[-1]

    def _replica_sums(
        self, images: tf.Tensor, labels: tf.Tensor, learning_rate: tf.Tensor, wish: tf.Tensor | float
    ) -> tf.Tensor:
        """Takes the step of one device; returns what is summed over all, as one vector, since each sum is a message."""
        loss, counts = self._replica_step(images, labels, learning_rate)
        return tf.concat([loss[None], tf.cast(counts, loss.dtype), tf.cast(wish, loss.dtype)[None]], 0)

    def _replica_step(self, images: tf.Tensor, labels: tf.Tensor, learning_rate: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        variables = self.model.trainable_variables
        images = self.prepare(images)
        with tf.GradientTape() as tape:
            logits = self.model(images, training=True)
            losses = self.objective.losses(labels, logits, self.recipe.advanced.label_smoothing, self.class_weights)
            loss = tf.reduce_sum(losses) / self.recipe.batch_size
        # TF-Slim adds weight_decay / 2 * |w|^2 to the loss. This is its gradient, divided because replicas are summed.
        decay = self.recipe.advanced.weight_decay / self.strategy.num_replicas_in_sync
        gradients = [
            gradient + decay * variable if id(variable) in self._decayed else gradient
            for gradient, variable in zip(tape.gradient(loss, variables), variables, strict=True)
        ]
        self.optimizer.learning_rate.assign(learning_rate)
        self.optimizer.apply(gradients, variables)
        return loss, self.objective.counts(labels, logits)

    def _logits(self, images: tf.Tensor) -> tf.Tensor:
        return self.model(images, training=False)

    def _averaged_weights(self) -> list[Any]:
        return [weight.value for weight in self.model.weights] if self.recipe.advanced.moving_average_decay else []

    def _update_averages(self) -> None:
        """Updates the averages; the first steps decay faster, as in `tf.train.ExponentialMovingAverage` with `num_updates`."""
        taken = tf.cast(self._steps_taken.assign_add(1), tf.float32)
        decay = tf.minimum(self.recipe.advanced.moving_average_decay, (1 + taken) / (10 + taken))
        for average, weight in zip(self._averages, self._averaged_weights(), strict=True):
            average.assign_sub((1 - decay) * (average - weight))

    @contextmanager
    def _averages_in_place(self) -> Iterator[None]:
        self._swap_averages()
        try:
            yield
        finally:
            self._swap_averages()

    def _swap_averages(self) -> None:
        for average, weight in zip(self._averages, self._averaged_weights(), strict=True):
            value = average.numpy()
            average.assign(weight)
            weight.assign(value)

    def _track_best(self, row: HistoryRow) -> None:
        """Keeps the weights of the best validation, and applies early stopping."""

        def rank(row: HistoryRow) -> tuple[bool, float, float]:
            # Nothing compares as better than NaN, and the figure of scores that are none is that of the first class.
            loss = row["validation_loss"]
            return math.isfinite(loss), row[self.objective.validation_figure], -loss

        if not self.best_row or rank(row) > rank(self.best_row):
            self.best_row = row
            self._best = self.weights("last")
        self.ended_early = self._is_stopped_early([*self.history, row])

    def _is_stopped_early(self, history: list[HistoryRow]) -> bool:
        """Returns whether the patience of the recipe is used up, which may be another than that of before a resumption."""
        patience = self.recipe.advanced.early_stopping_patience
        since = sum("validation_loss" in row for row in history if row["step"] > self.best_row["step"]) if patience else 0
        return patience > 0 and since >= patience

    def _variables(self) -> dict[str, Any]:
        kinds = {
            "model": self.model.variables,  # unlike `weights`, includes the states of random generators
            "optimizer": self.optimizer.variables,
            "averages": self._averages,
            "steps": [self._steps_taken],
        }
        return {f"{kind}/{number}": variable for kind, held in kinds.items() for number, variable in enumerate(held)}

    def _read_sums(self, unread: int = 0) -> None:
        """Reads the sums of all steps but the newest `unread`: reading waits until a step is computed."""
        while len(self._unread_sums) > unread:
            step, tensor, wishes = self._unread_sums[0]
            self._check_finite(float(tensor), step)
            if self._wish_step is None and float(wishes) > 0:
                self._wish_step = step
            self._unread_sums.popleft()

    def _check_finite(self, loss: float, step: int) -> None:
        if not math.isfinite(loss):
            rate = self.learning_rate_at(step - 1)
            remedy = f"Try a learning_rate of {rate / 10:g}, or warmup_steps in advanced."
            raise Diverged(RULE, f"{loss} at step {step}, at rate {rate:g}", remedy)


class _Interval:
    """The steps between two rows of history."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.waited = 0.0  # seconds for images
        self._losses: list[tf.Tensor] = []
        self._counts: list[tf.Tensor] = []

    def add(self, loss: tf.Tensor, counts: tf.Tensor) -> None:
        """Adds a step, without reading its tensors, which may still be computed."""
        self._losses.append(loss)
        self._counts.append(counts)

    def row(self, step: int, learning_rate: float, batch_size: int, objective: Objective) -> HistoryRow:
        """Returns the figures of the interval, which ends now."""
        seconds = time.perf_counter() - self._start
        return {
            "step": step,
            "loss": float(np.mean([float(value) for value in self._losses])),
            objective.figure: objective.training_figure([counts.numpy() for counts in self._counts], batch_size),
            "learning_rate": learning_rate,
            "images_per_second": len(self._losses) * batch_size / seconds,
            "input_wait": self.waited / seconds,
        }


def freeze_layers(model: Any, layers_to_freeze: str) -> int:
    """Freezes layers, including their batch norm statistics.

    Args:
        model: Keras model to change.
        layers_to_freeze: prefixes of layer names, separated by commas; empty for none.

    Returns:
        The number of layers with weights that were frozen.

    Raises:
        InputError: a prefix matches no layer, or no layer is left to train.
    """
    prefixes = [prefix.strip().replace("/", ".") for prefix in layers_to_freeze.split(",") if prefix.strip()]
    weighted = [layer for layer in model.layers if layer.weights]
    for prefix in prefixes:
        if not any(layer.name.startswith(prefix) for layer in weighted):
            names = ", ".join(dict.fromkeys(layer.name.partition(".")[0] for layer in weighted))
            remedy = f"Use a prefix of one of these: {names}."
            raise InputError("layers_to_freeze of advanced must name layers of the network", prefix, remedy)
    frozen = [layer for layer in weighted if layer.name.startswith(tuple(prefixes))] if prefixes else []
    if len(frozen) == len(weighted):
        raise InputError("layers_to_freeze of advanced must leave a layer to train", layers_to_freeze, "Name fewer.")
    return _freeze(frozen)


def freeze_first_blocks(model: Any) -> int:
    """Freezes the layers before the last halving of the resolution, including their batch norm statistics.

    Args:
        model: Keras model to change, from images to logits.

    Returns:
        The number of layers with weights that were frozen.
    """
    weighted = [layer for layer in model.layers if layer.weights]
    rows = [layer.output.shape[1] if len(layer.output.shape) == IMAGE_DIMENSIONS else 1 for layer in weighted]
    fewest = next(layer.output.shape[1] for layer in reversed(weighted) if len(layer.output.shape) == IMAGE_DIMENSIONS)
    # Squeeze-and-excite has layers of one row in all blocks.
    frozen = weighted[: max((number for number, count in enumerate(rows) if count not in (fewest, 1)), default=-1) + 1]
    return _freeze(frozen)


def freeze_batch_norm(model: Any) -> int:
    """Freezes batch norm: its statistics, scales and shifts stay those of the checkpoint.

    Args:
        model: Keras model to change.

    Returns:
        The number of layers that were frozen.
    """
    frozen = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    return _freeze(frozen)


def _freeze(layers: list[Any]) -> int:
    for layer in layers:
        layer.trainable = False
    return len(layers)


def _decayed_variables(model: Any, recipe: Recipe) -> list[Any]:
    """Returns the kernels, to which `weight_decay` applies; AdamW decays weights itself."""
    kernels = {"kernel", "depthwise_kernel", "pointwise_kernel"}
    return [] if recipe.optimizer == "adamw" else [v for v in model.trainable_variables if v.name in kernels]
