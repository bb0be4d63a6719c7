"""Every optimizer and learning rate schedule of the form, tried on the drawn images with a small network."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support import shade_records

from kfp_vision.core.advanced import Advanced
from kfp_vision.pipelines import PIPELINES
from kfp_vision.pipelines.form import read_form
from kfp_vision.preflight import rules
from kfp_vision.storage import sample
from kfp_vision.training import optimizers, schedules, trainer

FORM = {field.name: field.default for field in read_form(PIPELINES["image_classification"])}
# Those that need another rate than the form's, as docs/reference/advanced.md says.
OTHER_RATES = {"adadelta": 1.0, "adagrad": 0.02, "momentum": 0.01, "sgd": 0.05}
PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "advanced.md"
SIDE, BATCH, STEPS = 48, 32, 200
HELD_OUT = 24  # of the 120 images of each class


class Images(NamedTuple):
    pixels: np.ndarray
    labels: np.ndarray


@pytest.fixture(scope="module")
def drawn() -> tuple[Images, Images]:
    """Draws the sample; returns the images to train on and those to validate on, small."""
    parts = [Images(*map(np.array, zip(*part, strict=True))) for part in _draw()]
    return parts[0], parts[1]


def _draw() -> tuple[list[Any], list[Any]]:
    parts: tuple[list[Any], list[Any]] = ([], [])
    for name in sample.image_names():
        label, file_name = name.split("/")
        image = Image.open(io.BytesIO(sample.draw(name))).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
        held_out = int(file_name[:4]) <= HELD_OUT
        parts[held_out].append((np.asarray(image, "float32"), sample.CLASSES.index(label)))
    return parts


def small_network() -> keras.Model:
    """Four convolutions with batch norm, narrow enough for seconds."""
    pixels = keras.Input((SIDE, SIDE, 3))
    values = keras.layers.Rescaling(1 / 127.5, -1)(pixels)
    for filters in (16, 32, 64, 64):
        values = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)(values)
        values = keras.layers.BatchNormalization(momentum=0.9)(values)
        values = keras.layers.MaxPooling2D()(keras.layers.ReLU()(values))
    features = keras.layers.GlobalAveragePooling2D(name="features")(values)
    return keras.Model(pixels, keras.layers.Dense(len(sample.CLASSES), name="head")(features))


def batches(images: Images) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """Random batches without end, half of the images mirrored."""
    rng = np.random.default_rng(0)
    while True:
        for chosen in rng.permutation(len(images.labels))[: len(images.labels) // BATCH * BATCH].reshape(-1, BATCH):
            pixels = images.pixels[chosen]
            if pixels.ndim == 4:
                pixels = np.where(rng.random((BATCH, 1, 1, 1)) < 0.5, pixels[:, :, ::-1], pixels)
            yield tf.constant(pixels), tf.constant(images.labels[chosen], tf.int64)


def accuracy(model: keras.Model, drawn: tuple[Images, Images], **fields: Any) -> float:
    """Trains with the form's defaults and the given fields; returns the best accuracy on the held-out images."""
    train, held_out = drawn
    chosen = {name: FORM[name] for name in ("optimizer", "learning_rate", "learning_rate_schedule")} | fields
    recipe = replace(shade_records.RECIPE, batch_size=BATCH, train_steps=STEPS, advanced=Advanced(), **chosen)
    trained = trainer.Trainer(model, recipe, len(train.labels) / BATCH)
    validation = tf.data.Dataset.from_tensor_slices((held_out.pixels, held_out.labels)).batch(len(held_out.labels))
    for _ in trained.run(batches(train), validation):
        pass
    return trained.best_row["validation_accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [name for name in rules.OPTIMIZERS if name != rules.FTRL])
def test_every_optimizer_learns_the_drawn_images_at_the_rate_of_the_form_or_that_of_the_page(drawn, optimizer):
    keras.utils.set_random_seed(0)
    rate = OTHER_RATES.get(optimizer, FORM["learning_rate"])
    table = PAGE.read_text().partition("## Optimizers")[2]
    (row,) = [line for line in table.splitlines() if line.startswith(f"| `{optimizer}` |")]
    assert f"| {rate:g} |" in row
    assert accuracy(small_network(), drawn, optimizer=optimizer, learning_rate=rate) >= 0.9


@pytest.mark.slow
def test_ftrl_learns_a_head_alone_and_loses_a_whole_network(drawn):
    keras.utils.set_random_seed(0)
    model = small_network()
    assert accuracy(model, drawn, optimizer="ftrl") == 1 / len(sample.CLASSES)
    model = small_network()
    accuracy(model, drawn, optimizer="adam")
    body = keras.Model(model.input, model.get_layer("features").output)
    features = tuple(Images(body.predict(part.pixels, verbose=0), part.labels) for part in drawn)
    given = keras.Input(body.output.shape[1:])
    head = keras.Model(given, keras.layers.Dense(len(sample.CLASSES))(given))
    assert accuracy(head, features, optimizer="ftrl", learning_rate=0.05) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("schedule", schedules.SCHEDULES)
def test_every_schedule_learns_the_drawn_images(drawn, schedule):
    keras.utils.set_random_seed(0)
    assert accuracy(small_network(), drawn, optimizer="adam", learning_rate_schedule=schedule) >= 0.9


@pytest.mark.parametrize("name", rules.OPTIMIZERS)
def test_every_optimizer_reduces_the_loss(name):
    optimizer = optimizers.make_optimizer(name, Advanced())
    variable = keras.Variable(np.array([3.0, -2.0], "float32"))
    optimizer.build([variable])
    optimizer.learning_rate.assign(OTHER_RATES["adadelta"] if name == "adadelta" else 0.1)
    for _ in range(20):
        optimizer.apply([2 * variable.value], [variable])
    assert float(tf.reduce_sum(tf.square(variable.value))) < 13.0


@pytest.mark.parametrize("name", ["adadelta", "adam", "adamw"])
def test_an_optimizers_own_epsilon_is_that_of_keras_unless_another_is_given(name):
    given = getattr(keras.optimizers, {"adadelta": "Adadelta", "adam": "Adam", "adamw": "AdamW"}[name])().epsilon
    assert optimizers.make_optimizer(name, Advanced()).epsilon == given
    assert optimizers.make_optimizer(name, Advanced(opt_epsilon=0.5)).epsilon == 0.5
