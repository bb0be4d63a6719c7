"""One step after another: a model, its optimizer and its learning rate."""

import math
import time
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kfp_vision import schedules
from kfp_vision.errors import InputError
from kfp_vision.networks import NETWORKS
from kfp_vision.training.optimizers import make_optimizer
from kfp_vision.training.recipe import Recipe

HISTORY_ROWS = 60
VALIDATIONS = 5  # while training, the last step's included


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
