"""The trainer on a narrow network: learning, determinism, early stopping, and the exported model."""

import io
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support import damaged_records, shade_records, small_network
from support.shade_records import NARROW, RECIPE, shade, train
from support.skip import leave_out

from kfp_vision import networks
from kfp_vision.core.advanced import Advanced
from kfp_vision.core.errors import FieldError, InputError
from kfp_vision.engines.engine import OPENVINO_FLOAT32
from kfp_vision.evaluation.temperature import fit_temperature
from kfp_vision.networks import NETWORKS
from kfp_vision.prediction.classifier import Classifier
from kfp_vision.prediction.held_out import HELD_OUT_FILE, load_held_out
from kfp_vision.records import tf_dataset
from kfp_vision.records.records_folder import read_examples
from kfp_vision.reports import pages
from kfp_vision.repository.version import exported_version
from kfp_vision.training import divergence, input_pipeline, monitoring, trainer
from kfp_vision.training.augmentation import Augmentation
from kfp_vision.training.features import compute_features, training_batches
from kfp_vision.training.frozen_layers import forward_pass
from kfp_vision.training.objectives import OneLabel
from kfp_vision.training.train import _balanced_weights


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Writes records and the label map; returns their folder."""
    return shade_records.write(tmp_path_factory.mktemp("records"))


@pytest.fixture(scope="module")
def trained(folders, tmp_path_factory):
    return train(folders, tmp_path_factory.mktemp("trained"))


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("fault", damaged_records.FAULTS)
def test_damaged_records_are_rejected_before_the_first_step(tmp_path, capsys, fault, split):
    folders = shade_records.write(tmp_path, images=8, validation=8, per_shard=4)
    change, line = damaged_records.FAULTS[fault]
    change(folders / split)
    with pytest.raises(InputError, match=line):
        train(folders, tmp_path / "out")
    assert capsys.readouterr().out == ""  # no network was built yet
    assert not (tmp_path / "out").exists()


def test_a_class_called_unknown_is_rejected_where_images_are_to_be_named_so(folders, tmp_path, capsys):
    shutil.copytree(folders, tmp_path / "records")
    (tmp_path / "records" / "labels" / "labels.txt").write_text("0:light\n1:unknown\n")
    with pytest.raises(
        FieldError, match=r"no class may be called unknown, .*; got a class unknown. Rename the class, or leave"
    ):
        train(tmp_path / "records", tmp_path / "out", advanced={"name_unknown": True})
    assert capsys.readouterr().out == ""  # no network was built yet


@pytest.mark.slow
def test_a_full_disk_ends_a_training_in_one_line(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "write_training_page", lambda *_, **__: Path("/dev/full").write_text("x"))
    with pytest.raises(InputError, match=r"got No space left on device in \S+/out\b.*Make room there, or write to"):
        train(folders, tmp_path / "out", train_steps=2)


def test_learns_to_separate_two_classes(trained):
    reached, model = trained
    history = json.loads((model / "training.json").read_text())
    best = max(row["validation_accuracy"] for row in history if "validation_accuracy" in row)
    assert best >= 0.9  # the last may be any: with twelve images and few steps, it depends on the processor's rounding
    assert reached["step"] == 60


def test_the_model_folder_has_export_labels_metadata_and_history(trained):
    _, model = trained
    assert (model / "serving" / "1" / "saved_model.pb").is_file()
    assert (model / "labels.txt").read_text() == "0:dark\n1:light\n"
    metadata = json.loads((model / "model.json").read_text())
    assert (metadata["network"], metadata["image_size"], metadata["model_name"]) == (small_network.NAME, 32, "shades")
    assert metadata["advanced"].keys() == Advanced().__dict__.keys() - {"label_separator"}  # which is of several labels
    history = json.loads((model / "training.json").read_text())
    assert [row["step"] for row in history] == list(range(1, 61))


@pytest.mark.slow
def test_the_export_classifies_encoded_images(trained):
    _, model = trained
    served = tf.saved_model.load(str(model / "serving" / "1"))
    answers = served.signatures["serving_default"](image_bytes=tf.constant([shade(0, 500), shade(1, 501), shade(1, 502)]))
    assert [name.decode() for name in answers["classes"].numpy()] == ["dark", "light", "light"]
    assert answers["class_idx"].numpy().tolist() == [0, 1, 1]
    np.testing.assert_allclose(answers["probabilities"].numpy().sum(1), 1, atol=1e-5)


@pytest.mark.slow
def test_the_export_uses_only_operations_of_old_servers(trained):
    _, model = trained
    graph = tf.saved_model.load(str(model / "serving" / "1")).signatures["serving_default"].graph
    used = set(re.findall(r'\bop: "(\w+)"', str(graph.as_graph_def())))  # including those of nested functions
    assert {"DecodeImage", "ResizeBilinear", "Conv2D", "Softmax"} <= used
    assert not [name for name in used if "Xla" in name or "StatelessRandom" in name or "OneDnn" in name], used


@pytest.mark.slow
@pytest.mark.parametrize("last_layer_only", [False, True])
def test_the_export_is_calibrated_on_the_validation_images(tmp_path, capsys, last_layer_only):
    folders = shade_records.write(tmp_path, validation=40)
    write_npz(tmp_path / "weights.npz")
    changes = {"fine_tune": True, "checkpoint_uri": str(tmp_path / "weights.npz"), "train_last_layer_only": last_layer_only}
    _, model = train(folders, tmp_path, train_steps=30, advanced=NARROW | {"precision": "float32"}, **changes)
    temperature = json.loads((model / "model.json").read_text())["temperature"]
    assert f"on 40 validation images: divides the logits by {temperature:.3g}\n" in capsys.readouterr().out
    exported = keras.saving.load_model(model / "classifier.keras")
    ((images, labels),) = input_pipeline.EvaluationBatches(folders / "validation", image_size=32, batch_size=40)
    assert temperature != 1
    assert fit_temperature(exported(images).numpy(), labels.numpy()) == pytest.approx(1, abs=0.02)  # nothing is left to correct
    version, kept = exported_version(model), load_held_out(exported_version(model))
    encoded = [image for _, image, _ in read_examples(folders / "validation")]
    answers = Classifier(version, engine=OPENVINO_FLOAT32, keep_embeddings=True).classify(encoded)  # as it was trained
    np.testing.assert_allclose(kept.scores, [answer.probabilities for answer in answers], atol=0.02)
    served, stored = np.array([answer.embedding for answer in answers]), kept.embeddings.astype(np.float32)
    cosines = (served * stored).sum(1) / np.linalg.norm(served, axis=1) / np.linalg.norm(stored, axis=1)
    assert len(cosines) == 40 and cosines.min() > 0.99  # what is compared with what a server collects is of the same kind


@pytest.mark.slow
@pytest.mark.parametrize("validation", [0, 29])
def test_too_few_validation_images_leave_the_scores_as_they_are(tmp_path, capsys, validation):
    folders = shade_records.write(tmp_path, validation=validation)
    _, model = train(folders, tmp_path, train_steps=2)
    assert json.loads((model / "model.json").read_text())["temperature"] == 1
    assert not (exported_version(model).folder / HELD_OUT_FILE).exists()
    line = f"validation images are needed to calibrate the scores and to tell unknown images; got {validation}, so neither"
    assert line in capsys.readouterr().out


@pytest.mark.slow
def test_the_keras_file_loads_without_this_library(trained, tmp_path):
    _, model = trained
    image = np.full((1, 32, 32, 3), 200, "float32")
    np.save(tmp_path / "picture.npy", image)
    program = (
        "import sys, keras, numpy as np\n"
        f"model = keras.saving.load_model({str(model / 'classifier.keras')!r})\n"
        f"np.save({str(tmp_path / 'logits.npy')!r}, model(np.load({str(tmp_path / 'picture.npy')!r})))\n"
        "assert not any(name.startswith('kfp_vision') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=tmp_path)
    pixels = tf.saved_model.load(str(model / "serving" / "1")).signatures["pixels"]
    served = pixels(images=tf.constant(image))["probabilities"].numpy()
    np.testing.assert_allclose(tf.nn.softmax(np.load(tmp_path / "logits.npy")), served, atol=1e-5)


@pytest.mark.slow
def test_bfloat16_trains_on_float32_weights_and_exports_float32(folders, tmp_path):
    advanced = NARROW | {"precision": "bfloat16"}
    reached, model = train(folders, tmp_path, network="inception_v1", advanced=advanced, train_steps=3)
    assert np.isfinite(reached["loss"])
    exported = keras.saving.load_model(model / "classifier.keras")
    assert {weight.dtype for weight in exported.weights} == {"float32"}
    assert {layer.compute_dtype for layer in exported.layers} == {"float32"}


@pytest.mark.slow
def test_the_same_seed_gives_the_same_batches(folders):
    def first_batches(seed):
        augmentation = Augmentation()
        batches = input_pipeline.training_batches(
            folders / "train", image_size=32, batch_size=8, seed=seed, augmentation=augmentation
        )
        return np.concatenate([images.numpy() for images, _ in itertools.islice(batches, 6)])

    assert np.array_equal(first_batches(3), first_batches(3))
    assert not np.array_equal(first_batches(3), first_batches(4))


def test_augmented_images_stay_in_range_and_keep_their_labels(folders):
    augmentation = Augmentation()
    batches = input_pipeline.training_batches(
        folders / "train", image_size=32, batch_size=32, seed=0, augmentation=augmentation
    )
    images, labels = next(iter(batches))
    assert images.numpy().min() >= 0 and images.numpy().max() <= 255
    bright = images.numpy().mean((1, 2, 3)) > 120
    assert np.array_equal(bright, labels.numpy() == 1)


def test_evaluation_batches_are_center_crops(folders):
    images, labels = next(iter(input_pipeline.EvaluationBatches(folders / "validation", image_size=35, batch_size=64)))
    assert len(labels) == 12
    first = next(iter(tf.data.TFRecordDataset(str(folders / "validation" / "validation-00000-of-00001.tfrecord"))))
    encoded = tf_dataset.parse_record(first)["image/encoded"].numpy()
    middle = Image.open(io.BytesIO(encoded)).convert("RGB").crop((3, 2, 45, 37)).resize((35, 35), Image.Resampling.BILINEAR)
    # Pillow antialiases and TensorFlow does not, so only the mean colours agree.
    assert np.abs(images[0].numpy().mean((0, 1)) - np.asarray(middle, "float32").mean((0, 1))).max() < 3


def write_npz(file, classes=2):
    """Writes random weights of the small network, and returns them by their names."""
    network = small_network.SMALL
    model = network.build(classes, image_size=32)
    weights_by_name = {
        network.name_in_checkpoint(layer.name, w.name): w.numpy() for layer in model.layers for w in layer.weights
    }
    np.savez(file, **weights_by_name)
    return weights_by_name


def test_a_new_head_on_pretrained_features_begins_without_an_opinion(folders, tmp_path):
    write_npz(tmp_path / "of three.npz", classes=3)
    fields = {"fine_tune": True, "checkpoint_uri": str(tmp_path / "of three.npz"), "train_steps": 1}
    _, model = train(folders, tmp_path, **fields, advanced=NARROW | {"weight_decay": 0.0})
    (first,) = json.loads((model / "training.json").read_text())
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.slow
def test_train_last_layer_only_keeps_all_other_weights(folders, tmp_path):
    weights_by_name = write_npz(tmp_path / "weights.npz")
    fields = {"fine_tune": True, "checkpoint_uri": str(tmp_path / "weights.npz"), "train_last_layer_only": True}
    _, folder = train(folders, tmp_path, train_steps=5, **fields)
    *frozen, last = keras.saving.load_model(folder / "classifier.keras").layers
    name = small_network.SMALL.name_in_checkpoint
    for layer in frozen:
        for weight in layer.weights:
            np.testing.assert_array_equal(weight.numpy(), weights_by_name[name(layer.name, weight.name)])
    assert not np.array_equal(last.kernel, weights_by_name[name(last.name, "kernel")])


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_training_and_leaves_no_files(folders, tmp_path):
    with pytest.raises(InputError, match=r"the loss must be finite; got nan at step \d+, at rate 1e\+12\. Try a learning_rate"):
        train(folders, tmp_path, optimizer="sgd", learning_rate=1e12, train_steps=20)
    assert not list(tmp_path.rglob("*"))


@pytest.mark.slow
def test_weight_decay_equals_the_gradient_of_the_penalty_of_tf_slim(folders):
    """One SGD step with weight decay differs from one without by exactly rate * decay * weight."""
    weights = []
    for decay in (0.0, 0.01):
        keras.utils.set_random_seed(0)
        advanced = Advanced.parse({"depth_multiplier": 0.1, "weight_decay": decay})
        model = trainer.build_network("inception_v1", 2, "float32", image_size=32, depth_multiplier=0.1, dropout=0.0)
        start = model.get_layer("Mixed_3b.Branch_0.Conv2d_0a_1x1.conv").kernel.numpy()
        recipe = replace(RECIPE, optimizer="sgd", learning_rate=0.5, train_steps=1, advanced=advanced)
        decayed = trainer.Trainer(model, recipe, 4)
        augmentation = Augmentation()
        batches = input_pipeline.training_batches(
            folders / "train", image_size=32, batch_size=8, seed=0, augmentation=augmentation
        )
        list(decayed.run(iter(batches), None))
        weights.append(model.get_layer("Mixed_3b.Branch_0.Conv2d_0a_1x1.conv").kernel.numpy())
    np.testing.assert_allclose(weights[0] - weights[1], 0.5 * 0.01 * start, atol=1e-5)


def test_progress_line():
    row = {"step": 120, "loss": 0.4104, "accuracy": 0.88, "images_per_second": 43.2}
    assert monitoring.progress_line(row, 6000, 136.2) == "step 120/6000  loss 0.410  acc 0.880  43 img/s  eta 2m16s"


# Optional settings of a recipe


def head_trainer(changes: dict, *, classes: int = 2, class_weights: np.ndarray | None = None, **fields) -> trainer.Trainer:
    """Makes a trainer of a single dense layer on 4 features, with weights initialised to zero."""
    return dense_trainer((4,), changes, classes=classes, class_weights=class_weights, **fields)


def dense_trainer(
    shape: tuple[int, ...], changes: dict, *, classes: int = 2, class_weights: np.ndarray | None = None, **fields
) -> trainer.Trainer:
    """Makes a trainer of a single dense layer on inputs of a shape, with weights initialised to zero."""
    numbers = keras.Input(shape)
    model = keras.Model(numbers, keras.layers.Dense(classes, kernel_initializer="zeros")(keras.layers.Flatten()(numbers)))
    advanced = Advanced.parse({"weight_decay": 0.0} | changes)
    fields = {"optimizer": "sgd", "learning_rate": 0.5, "batch_size": 4, "train_steps": 6, "advanced": advanced} | fields
    return trainer.Trainer(model, replace(RECIPE, **fields), 1, class_weights)


BATCH = (tf.constant(np.eye(4, dtype="float32")), tf.constant([0, 1, 1, 1], tf.int64))


def test_moving_averages_equal_those_of_tensorflow_with_a_step_counter():
    """Compares with `tf.train.ExponentialMovingAverage`, which TF-Slim uses."""
    averaged = head_trainer({"moving_average_decay": 0.7, "export": "last"})
    count = tf.Variable(0, dtype=tf.int64)
    reference = tf.train.ExponentialMovingAverage(0.7, num_updates=count)
    kernel = averaged.model.layers[-1].kernel.value
    reference.apply([kernel])
    for _ in averaged.run(itertools.repeat(BATCH), None):
        count.assign_add(1)
        reference.apply([kernel])
    np.testing.assert_allclose(averaged.weights("last")[0], reference.average(kernel).numpy(), rtol=1e-5)
    assert not np.allclose(averaged.weights("last")[0], kernel)


def test_validation_uses_the_averages_and_training_continues_with_the_weights():
    averaged = head_trainer({"moving_average_decay": 0.999})
    batches = tf.data.Dataset.from_tensors(BATCH)
    frozen = averaged.model.layers[-1].kernel.numpy()
    for _ in averaged.run(itertools.repeat(BATCH), None):
        pass
    moved = averaged.model.layers[-1].kernel.numpy()
    assert not np.allclose(frozen, moved)
    with_averages = averaged.validate(batches)["validation_loss"]
    np.testing.assert_array_equal(averaged.model.layers[-1].kernel.numpy(), moved)
    averaged.set_weights(averaged.weights("last"))
    logits = averaged.model(BATCH[0])
    assert with_averages == pytest.approx(
        float(tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(BATCH[1], logits))), rel=1e-5
    )


def test_a_validation_is_traced_once_though_its_last_batch_is_smaller():
    trained = head_trainer({})
    for _ in trained.run(itertools.repeat(BATCH), None):
        pass
    rng = np.random.default_rng(0)
    images, labels = rng.uniform(size=(11, 4)).astype("float32"), rng.integers(0, 2, 11)
    whole = trained.validate(tf.data.Dataset.from_tensors((images, labels)))
    traces = trained.compiled_logits.experimental_get_tracing_count()
    in_parts = trained.validate(tf.data.Dataset.from_tensor_slices((images, labels)).batch(4))
    assert trained.compiled_logits.experimental_get_tracing_count() == traces + 1
    logits = images @ trained.model.layers[-1].kernel.numpy() + trained.model.layers[-1].bias.numpy()
    log_of_sums = np.log(np.exp(logits).sum(1))
    assert in_parts["validation_loss"] == pytest.approx(np.mean(log_of_sums - logits[range(11), labels]), rel=1e-5)
    assert in_parts["validation_loss"] == pytest.approx(whole["validation_loss"], rel=1e-6)
    assert in_parts["validation_accuracy"] == whole["validation_accuracy"] == np.mean(logits.argmax(1) == labels)


def test_class_weights_scale_the_gradient_of_each_image():
    """A weighted step equals an unweighted one with each image counted as often as its class weight says."""
    weighted = head_trainer({}, class_weights=np.array([2.0, 2 / 3]))
    weighted.compiled_step(*BATCH, tf.constant(0.5))
    logits = np.zeros((4, 2))
    truth = np.eye(2)[[0, 1, 1, 1]]
    gradient = (np.exp(logits) / 2 - truth) * np.array([2.0, 2 / 3, 2 / 3, 2 / 3])[:, None] / 4
    np.testing.assert_allclose(weighted.model.layers[-1].kernel, -0.5 * np.eye(4) @ gradient, atol=1e-6)


def test_balanced_class_weights_are_inverse_to_class_sizes(tmp_path):
    folders = shade_records.write(tmp_path, dark=0.25)
    np.testing.assert_allclose(_balanced_weights(folders / "train", OneLabel()), [2.0, 2 / 3])
    np.testing.assert_allclose(OneLabel().class_weights(np.array([8, 24, 0]), 32), [2.0, 2 / 3, 0.0])


def test_label_smoothing_equals_training_on_soft_labels():
    """Label smoothing is a mixture with the uniform distribution: as soft labels, it gives the same step."""
    smoothed, mixed = head_trainer({"label_smoothing": 0.2}), head_trainer({})
    smoothed.compiled_step(*BATCH, tf.constant(0.5))
    soft = tf.one_hot(BATCH[1], 2) * 0.8 + 0.1
    mixed.compiled_step(BATCH[0], soft, tf.constant(0.5))
    np.testing.assert_allclose(smoothed.model.layers[-1].kernel, mixed.model.layers[-1].kernel, atol=1e-7)


def test_early_stopping_keeps_the_best_weights():
    overfitting = head_trainer({"validate_every_steps": 1, "early_stopping_patience": 2})
    wrong_labels = (BATCH[0], 1 - BATCH[1])  # validation gets worse with every step
    rows = list(overfitting.run(itertools.repeat(BATCH), tf.data.Dataset.from_tensors(wrong_labels)))
    assert overfitting.ended_early and len(rows) == 3 and overfitting.step == 3
    assert overfitting.best_row["step"] == 1
    first = head_trainer({})
    first.compiled_step(*BATCH, tf.constant(0.5))
    np.testing.assert_array_equal(overfitting.weights("best")[0], first.model.layers[-1].kernel)
    assert not np.allclose(overfitting.weights("last")[0], overfitting.weights("best")[0])


@pytest.mark.parametrize(
    ("optimizer", "before", "after", "line"),
    [
        ("sgd", {}, {"moving_average_decay": 0.9}, "moving_average_decay of advanced .*; got no moving averages at step 0."),
        ("momentum", {"momentum": 0.0}, {}, "layers_to_freeze, .*momentum.*; got an optimizer of other variables at step 0."),
    ],
)
def test_a_state_that_does_not_fit_names_the_settings_to_keep(optimizer, before, after, line):
    state = head_trainer(before, optimizer=optimizer).state()
    remedy = "Set it as before, or choose another, empty checkpoint_dir."
    with pytest.raises(InputError, match=f"^error: a training must resume with {line} {remedy}$"):
        head_trainer(after, optimizer=optimizer).restore(state)


@pytest.mark.parametrize(
    "changes", [{"layers_to_freeze": "block_0"}, {"freeze_batch_norm": True}, {"train_last_blocks_only": True}]
)
@pytest.mark.slow
def test_a_training_resumed_with_other_layers_frozen_is_told_the_settings(folders, tmp_path, changes):
    fields = {"train_steps": 1, "checkpoint_dir": str(tmp_path / "kept")}
    train(folders, tmp_path / "first", advanced=NARROW, **fields)
    with pytest.raises(InputError, match=f"must resume with .*{next(iter(changes))}.* as the checkpoint has it"):
        train(folders, tmp_path / "second", advanced=NARROW | changes, **fields)


@pytest.mark.parametrize(("patience", "last"), [(0, 10), (1, 3), (4, 5), (20, 10)])
def test_a_resumed_training_stops_early_by_its_own_patience(patience, last):
    wrong_labels = tf.data.Dataset.from_tensors((BATCH[0], 1 - BATCH[1]))  # validation gets worse with every step
    fields = {"train_steps": 10, "learning_rate_schedule": "fixed"}
    before = head_trainer({"validate_every_steps": 1, "early_stopping_patience": 2}, **fields)
    deque(before.run(itertools.repeat(BATCH), wrong_labels), maxlen=0)
    after = head_trainer({"validate_every_steps": 1, "early_stopping_patience": patience}, **fields)
    after.restore(before.state())
    assert after.ended_early == (last == before.step)
    deque(after.run(itertools.repeat(BATCH), wrong_labels), maxlen=0)
    assert (before.step, after.step, after.best_row["step"]) == (3, last, 1)


def test_weights_whose_validation_is_not_finite_are_not_the_best():
    class Validation:
        images = iter([np.full((4, 4), np.nan, np.float32), *[BATCH[0]] * 5])

        def __iter__(self):
            yield tf.constant(next(self.images)), tf.constant([0, 0, 0, 0], tf.int64)  # the class that is named without scores

    training = head_trainer({"validate_every_steps": 1})
    rows = list(training.run(itertools.repeat(BATCH), Validation()))
    assert np.isnan(rows[0]["validation_loss"]) and rows[0]["validation_accuracy"] == 1
    assert max(row["validation_accuracy"] for row in rows[1:]) < 1
    assert training.best_row["step"] > 1


def test_a_loss_that_is_not_finite_after_the_last_step_stops_the_training():
    images = np.full((4, 4), 1e20, np.float32)
    last = head_trainer({}, train_steps=1, learning_rate=1e20)
    with pytest.raises(divergence.Diverged, match=r"the loss must be finite; got \w+ at step 1, at rate 1e\+20\. Try"):
        deque(last.run(itertools.repeat(BATCH), tf.data.Dataset.from_tensors((images, BATCH[1]))), maxlen=0)
    assert not last.history


def test_a_training_that_others_have_outdone_ends_after_a_validation_and_may_go_on_later():
    fields, batches = {"train_steps": 10, "learning_rate_schedule": "fixed"}, tf.data.Dataset.from_tensors(BATCH)
    asked = list[int]()

    def is_behind(history):
        asked.append(len(history) and history[-1]["step"])
        return asked[-1] == 4

    outdone, alone = head_trainer({}, **fields), head_trainer({}, **fields)
    outdone.is_behind = is_behind
    deque(outdone.run(itertools.repeat(BATCH), batches), maxlen=0)
    assert (outdone.outdone, outdone.step, asked) == (True, 4, [0, 2, 4])  # at the start, and after each validation
    state = outdone.state()
    again = head_trainer({}, **fields)
    again.restore(state)
    again.is_behind = is_behind
    assert list(again.run(itertools.repeat(BATCH), batches)) == []  # it is where it ended
    resumed = head_trainer({}, **fields)
    resumed.restore(state)  # what the others have reached is not part of the state
    for trained in (resumed, alone):
        deque(trained.run(itertools.repeat(BATCH), batches), maxlen=0)
    assert (resumed.outdone, resumed.step) == (False, 10)
    np.testing.assert_array_equal(resumed.model.layers[-1].kernel, alone.model.layers[-1].kernel)


def test_a_wish_to_stop_ends_a_worker_with_queued_steps_after_the_same_step_whether_it_saves_or_not():
    """The chief reads all sums when it saves, by its own clock; the other workers read them later."""

    def steps_taken(saves: bool) -> int:
        worker = head_trainer({}, train_steps=600)
        worker._is_alone, worker._queued_steps = False, trainer.MAX_QUEUED_STEPS  # as one of several with a GPU each
        worker.wants_to_stop = lambda: worker.step == 2
        for _ in worker.run(itertools.repeat(BATCH), None):
            if saves:
                worker.state()
        assert worker.stopped
        return worker.step

    assert steps_taken(saves=True) == steps_taken(saves=False) == 8


class NotedLoss:
    """A loss that notes how many steps were called after its own when it is read."""

    def __init__(self, value: tf.Tensor, step: int, called: list[int], ages: list[tuple[int, int]]):
        self._value, self._step, self._called, self._ages = value, step, called, ages

    def __float__(self) -> float:
        self._ages.append((len(self._called), len(self._called) - self._step))
        return float(self._value)


def test_no_loss_of_a_recent_step_is_read_between_rows():
    """On a GPU, reading a loss waits for its step."""
    steps, every = 600, 600 // trainer.HISTORY_ROWS
    trained = head_trainer({}, train_steps=steps)
    compiled_step, called, ages = trained.compiled_step, list[int](), list[tuple[int, int]]()

    def note(*batch):
        called.append(len(called) + 1)
        loss, *others = compiled_step(*batch)
        return NotedLoss(loss, called[-1], called, ages), *others

    trained.compiled_step = note
    rows = [row for row in trained.run(itertools.repeat(BATCH), None) if row]
    assert [row["step"] for row in rows] == [*range(every, steps + 1, every)]
    between = [age for step, age in ages if step % every]
    # The oldest of the steps that are not yet read is the first one that may still be queued.
    assert min(between) == trainer.MAX_QUEUED_STEPS // 2 and max(between) == trainer.MAX_QUEUED_STEPS - 1
    assert {step - age for step, age in ages} == {*called}


@pytest.mark.parametrize("xla", ["off", "on"])
def test_several_steps_a_call_learn_what_single_steps_do(xla):
    """A cosine schedule, moving averages, momentum, rows and validations that no group of four ends at."""
    rng = np.random.default_rng(0)
    batches = [(tf.constant(rng.normal(size=(4, 4)), tf.float32), tf.constant(rng.integers(0, 2, 4))) for _ in range(130)]
    settings = {"optimizer": "momentum", "train_steps": 130, "learning_rate_schedule": "cosine"}
    validation = tf.data.Dataset.from_tensors(batches[0])
    advanced = {"moving_average_decay": 0.9, "validate_every_steps": 50}
    single, grouped = (head_trainer(advanced | {"xla": compiled}, **settings) for compiled in ("off", xla))
    grouped.steps_per_call = 4
    yields = [list(one.run(iter(batches), validation)) for one in (single, grouped)]
    assert len(yields[0]) == 130 and len(yields[1]) < 70
    assert grouped.compiled_steps.experimental_get_tracing_count() == 1
    figures = ("step", "loss", "accuracy", "learning_rate", "validation_loss")
    histories = [[[row.get(name, 0) for name in figures] for row in one.history] for one in (single, grouped)]
    np.testing.assert_allclose(*histories, rtol=1e-5)
    assert [row["step"] for row in grouped.history if "validation_loss" in row] == [50, 100, 130]
    for mine, theirs in zip(grouped.weights("last"), single.weights("last"), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_a_divergence_within_a_call_is_named_by_its_own_step():
    trained, batches = diverging_trainer(13)
    trained.steps_per_call = 4
    with pytest.raises(trainer.Diverged, match="got nan at step 13,"):
        deque(trained.run(batches, None), maxlen=0)


def test_the_first_batch_is_not_waited_for_by_a_step():
    """Reading starts with the training: the time to its first batch is that of the start, not of slow input."""

    delay = 0.2

    def late() -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        time.sleep(delay)
        yield from itertools.repeat((tf.zeros((4, 1, 1, 3)), BATCH[1]))

    trained = dense_trainer((1, 1, 3), {}, train_steps=60)
    first = next(row for row in trained.run(late(), None) if row)
    seconds = 4 / first["images_per_second"]
    assert first["input_wait"] * seconds < delay


@pytest.mark.parametrize("shape", [(4,), (1, 1, 4)])
def test_features_in_memory_are_not_waited_for(shape):
    """Neither by the classification head nor by the last blocks."""
    trained = dense_trainer(shape, {}, train_steps=60)
    features = tf.reshape(BATCH[0], (4, *shape))
    rows = [row for row in trained.run(itertools.repeat((features, BATCH[1])), None) if row]
    assert rows and not any("input_wait" in row for row in rows)


def diverging_trainer(bad_step: int) -> tuple[trainer.Trainer, Iterator[tuple[tf.Tensor, tf.Tensor]]]:
    """Makes a trainer with a row every tenth step, and its batches: one has an image that is not finite."""
    bad = BATCH[0] * np.inf, BATCH[1]
    batches = itertools.chain(itertools.repeat(BATCH, bad_step - 1), [bad], itertools.repeat(BATCH))
    return head_trainer({}, train_steps=600, learning_rate_schedule="cosine"), batches


def test_a_divergence_is_found_at_the_next_row_and_named_by_its_own_step():
    trained, batches = diverging_trainer(13)
    at_rate = re.escape(f"got nan at step 13, at rate {trained.learning_rate_at(12):g}.")
    with pytest.raises(divergence.Diverged, match=at_rate):
        deque(trained.run(batches, None), maxlen=0)
    assert trained.step <= 20
    assert [row["step"] for row in trained.history] == [10]
    with pytest.raises(divergence.Diverged, match=at_rate):  # no matter how often it is asked for
        trained.state()


def test_no_state_is_returned_after_a_divergence_that_was_not_yet_found():
    trained, batches = diverging_trainer(13)
    steps = trained.run(batches, None)
    while trained.step < 12:
        next(steps)
    assert trained.state().step == 12
    next(steps)
    with pytest.raises(divergence.Diverged, match="got nan at step 13,"):
        trained.state()


@pytest.mark.slow
def test_keeps_the_best_and_the_last_model(folders, tmp_path):
    changes = {"train_steps": 12, "learning_rate": 0.02, "advanced": NARROW | {"validate_every_steps": 1}}
    reached, model = train(folders, tmp_path, **changes)
    history = json.loads((model / "training.json").read_text())
    best = max(history, key=lambda row: (row["validation_accuracy"], -row["validation_loss"]))
    assert reached["best_step"] == json.loads((model / "model.json").read_text())["step"] == best["step"]
    if best["step"] < 12:
        exported, last = (keras.saving.load_model(model / name) for name in ("classifier.keras", "last.keras"))
        assert not np.allclose(exported.layers[-1].kernel, last.layers[-1].kernel)


def is_of_the_first_blocks(layer: keras.Layer) -> bool:
    return layer.name.startswith(("block_0", "block_1"))


def is_batch_norm(layer: keras.Layer) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "is_frozen"),
    [
        ({"layers_to_freeze": "block_0, block_1"}, is_of_the_first_blocks),
        ({"train_last_blocks_only": True}, is_of_the_first_blocks),
        ({"freeze_batch_norm": True}, is_batch_norm),
    ],
    ids=["by name prefix", "the first blocks", "batch norm"],
)
def test_frozen_layers_stay_as_in_the_checkpoint(folders, tmp_path, settings, is_frozen):
    advanced = NARROW | settings | {"export": "last"}
    weights = write_npz(tmp_path / "weights.npz")
    changes = {"fine_tune": True, "checkpoint_uri": str(tmp_path / "weights.npz"), "train_steps": 3, "advanced": advanced}
    _, model = train(folders, tmp_path, **changes)
    network = small_network.SMALL
    for layer in keras.saving.load_model(model / "classifier.keras").layers:
        for weight in layer.weights:
            same = np.array_equal(weight, weights[network.name_in_checkpoint(layer.name, weight.name)])
            assert same == is_frozen(layer), weight.path


@pytest.mark.slow
@pytest.mark.parametrize(("head_only", "images"), [(False, 64), (True, 76)])
def test_the_head_is_trained_alone_first_and_once(folders, tmp_path, capsys, head_only, images):
    advanced = NARROW | {"head_steps": 40, "export": "last"}
    changes = {"learning_rate": 0.01, "train_steps": 1, "advanced": advanced, "checkpoint_dir": str(tmp_path / "checkpoints")}
    changes["train_last_layer_only"] = head_only
    (tmp_path / "first").mkdir()
    train(folders, tmp_path / "first", **changes)
    printed = capsys.readouterr().out
    # Those of the training are mirrored; those of the validation are computed where the training needs them.
    assert printed.count("computed the features of ") == 1 and f"computed the features of {images} images" in printed
    assert re.search(r"trained the classification head alone for 40 steps first: loss [0-9.]+\n", printed)
    (tmp_path / "second").mkdir()
    train(folders, tmp_path / "second", **changes | {"train_steps": 2})
    printed = capsys.readouterr().out
    assert "resumes after step 1" in printed and "head alone" not in printed


@pytest.mark.parametrize(
    ("prefixes", "message"),
    [
        ("Mixd_3", "must name layers of the network; got Mixd_3. Use a prefix of one of these: Conv2d_1a_7x7"),
        ("Conv2d,Mixed,Logits", "must leave a layer to train; got Conv2d,Mixed,Logits"),
    ],
)
def test_invalid_layers_to_freeze_are_rejected(prefixes, message):
    model = NETWORKS["inception_v1"].build(2, image_size=32, depth_multiplier=0.1)
    with pytest.raises(InputError, match=message):
        trainer.freeze_layers(model, prefixes)


@pytest.mark.parametrize(
    ("advanced", "changes", "message"),
    [
        (
            {"layers_to_freeze": "block_2,logits", "train_last_blocks_only": True},
            {},
            "layers_to_freeze and train_last_blocks_only of advanced must together leave a layer to train; got block_2,logits.",
        ),
        ({"layers_to_freeze": "logits", "head_steps": 2}, {}, "leave the classification head, logits, which head_steps of"),
        ({"layers_to_freeze": "logits"}, {"train_last_layer_only": True}, "head, logits, which train_last_layer_only trains"),
    ],
)
def test_what_is_frozen_leaves_what_is_to_be_trained(folders, tmp_path, advanced, changes, message):
    with pytest.raises(InputError, match=message):
        train(folders, tmp_path, advanced=NARROW | advanced, **changes)


def test_a_head_that_diverges_alone_is_told_the_rate_to_lower(folders, tmp_path):
    found = "got another in the 20 steps of the classification head alone, at 10 times learning_rate"
    remedy = r"Try a learning_rate of 1e\+19, or head_steps=0 in advanced\."
    with pytest.raises(divergence.Diverged, match=rf"^error: the loss must be finite; {found}\. {remedy}$"):
        train(folders, tmp_path, optimizer="sgd", learning_rate=1e20, advanced=NARROW | {"head_steps": 20})


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("efficientnet_lite0", "blocks.11.depthwise_conv"),
        ("mobilenet_v3_large", "expanded_conv_12_depthwise"),  # has squeeze-and-excite, of one row in all blocks
        ("vgg16", "block5_conv1"),  # pools its last feature map once more
        ("convnext_tiny", "convnext_tiny_downsampling_block_2"),  # has a layer after the pool
    ],
)
@pytest.mark.parametrize("image_size", [32, 96])
def test_the_last_blocks_begin_with_the_last_halving_of_the_resolution(name, first, image_size):
    model = NETWORKS[name].build(2, image_size=image_size)
    weighted = [layer for layer in model.layers if layer.weights]
    frozen = trainer.freeze_first_blocks(model)
    assert weighted[frozen].name == first
    assert [layer.trainable for layer in weighted] == [False] * frozen + [True] * (len(weighted) - frozen)


def mean_network() -> tuple[keras.Model, list[tf.TensorShape]]:
    """Returns a network whose features are the mean colours, and the shapes of the batches that it is traced for."""
    pixels, traced = keras.Input((32, 32, 3)), list[tf.TensorShape]()

    class Mean(keras.layers.Layer):
        def call(self, images):
            if not isinstance(images, keras.KerasTensor):
                traced.append(images.shape)
            return tf.reduce_mean(images, (1, 2))

    features = Mean()(pixels)
    traced.clear()
    return keras.Model(pixels, keras.layers.Dense(2)(keras.layers.Dropout(0.2)(features))), traced


def test_features_are_traced_once_though_the_last_batch_is_smaller(tmp_path, folders, monkeypatch):
    monkeypatch.setattr("kfp_vision.training.features.MAX_FEATURE_BATCH", 5)
    network, traced = mean_network()
    forward = forward_pass(
        network, lambda model: networks.split_head(model)[0], RECIPE, image_size=32, images=32, scratch=tmp_path
    )
    features = compute_features(forward, folders / "train", 32, tmp_path, mirrored=False)
    assert traced == [(5, 32, 32, 3)]
    images, labels = next(iter(input_pipeline.EvaluationBatches(folders / "train", image_size=32, batch_size=32)))
    np.testing.assert_array_equal(features.labels, labels)
    np.testing.assert_allclose(features.values, images.numpy().mean((1, 2)), atol=0.07)  # float16 has steps of 1/8 there


@pytest.fixture
def with_huge_features(trained, tmp_path):
    """Returns a checkpoint whose features are larger than float16 can hold."""
    model = keras.models.load_model(trained[1] / "classifier.keras")
    mean = model.get_layer(f"block_{len(small_network.WIDTHS) - 1}.BatchNorm").moving_mean
    mean.assign(mean - 1e7)
    model.save(tmp_path / "huge.keras")
    return {"fine_tune": True, "checkpoint_uri": str(tmp_path / "huge.keras")}


def test_a_model_is_exported_though_its_features_are_too_large_to_tell_unknown_images(tmp_path, capsys, with_huge_features):
    folders = shade_records.write(tmp_path, validation=32)
    changes = {"optimizer": "sgd", "learning_rate": 1e-12, "train_steps": 1}
    _, model = train(folders, tmp_path / "out", **with_huge_features, **changes)
    assert "at most 65504 to tell unknown images; got others, so this is not done. Train longer" in capsys.readouterr().out
    version = exported_version(model)
    assert not (version.folder / HELD_OUT_FILE).exists()
    (answer,) = Classifier(version, engine=OPENVINO_FLOAT32).classify([shade(0, 500)])
    assert (answer.label in shade_records.LABELS, answer.known) == (True, None)


@pytest.mark.parametrize("changes", [{"train_last_layer_only": True}, {"advanced": {"head_steps": 2}}])
def test_a_head_is_not_trained_on_features_that_are_too_large(folders, tmp_path, with_huge_features, changes):
    with pytest.raises(InputError, match=r"at most 65504 to train .* alone; got 64 of 64 with others\. Start from"):
        train(folders, tmp_path / "out", **with_huge_features, **changes)


@pytest.mark.slow
def test_frozen_features_equal_the_network_and_are_batched_in_a_seeded_order(tmp_path, folders):
    model = NETWORKS["inception_v1"].build(2, image_size=32, depth_multiplier=0.1)
    body, last = networks.split_head(model)
    forward = forward_pass(model, lambda _: body, RECIPE, image_size=32, images=64, scratch=tmp_path)
    features = compute_features(forward, folders / "train", 32, tmp_path, mirrored=True)
    assert features.values.shape == (64, body.output.shape[-1]) and features.labels.tolist().count(0) == 32
    images, labels = next(iter(input_pipeline.EvaluationBatches(folders / "train", image_size=32, batch_size=64)))
    np.testing.assert_allclose(last(features.values[:32].astype("float32")), model(images), atol=0.02)
    assert np.array_equal(features.labels[:32], labels)

    def batches(first_step: int, part: tuple[int, int] = (0, 1)) -> list[tuple[np.ndarray, np.ndarray]]:
        iterator = training_batches(features, batch_size=8, seed=3, first_step=first_step, part=part)
        return [(values.numpy(), numbers.numpy()) for values, numbers in itertools.islice(iterator, 10)]

    all_batches = batches(0)
    epoch = np.concatenate([values for values, _ in all_batches[:8]])
    assert np.array_equal(np.sort(epoch, 0), np.sort(features.values.astype("float32"), 0))
    for expected, resumed in zip(all_batches[4:], batches(4), strict=False):
        assert np.array_equal(expected[0], resumed[0]) and np.array_equal(expected[1], resumed[1])
    halves = zip(batches(0, (0, 2)), batches(0, (1, 2)), strict=True)
    for expected, (left, right) in zip(all_batches, halves, strict=True):
        assert np.array_equal(expected[0], np.concatenate([left[0], right[0]]))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_memory_does_not_grow_over_a_thousand_steps(folders):
    if not Path("/proc/self/statm").exists():
        leave_out("Linux alone tells how much memory a process has")
    model = small_network.SMALL.build(2, image_size=32)
    recipe = replace(RECIPE, train_steps=1000, advanced=Advanced.parse(NARROW | {"moving_average_decay": 0.99}))
    long_training = trainer.Trainer(model, recipe, 4)
    batches = input_pipeline.training_batches(
        folders / "train", image_size=32, batch_size=8, seed=0, augmentation=Augmentation()
    )
    sizes = [resident_bytes() for _ in long_training.run(iter(batches), None) if long_training.step % 250 == 0]
    assert len(sizes) == 4
    # What leaks grows all the time; what an allocator keeps, in a process that ran a thousand other tests, only at times.
    assert min(later - earlier for earlier, later in itertools.pairwise(sizes)) < 5 << 19


@pytest.mark.slow
@pytest.mark.parametrize("last_layer_only", [False, True])
def test_the_export_tells_images_that_are_unlike_the_training_images(tmp_path, last_layer_only):
    folders = shade_records.write(tmp_path, validation=120)  # of forty, the threshold would be rough
    write_npz(tmp_path / "weights.npz")
    changes = {"fine_tune": True, "checkpoint_uri": str(tmp_path / "weights.npz"), "train_last_layer_only": last_layer_only}
    _, model = train(folders, tmp_path, train_steps=30, advanced=NARROW | {"known_share": 0.9}, **changes)
    classifier = Classifier(exported_version(model))
    answers = classifier.classify([shade(number % 2, 700 + number) for number in range(40)])
    assert np.mean([answer.known for answer in answers]) >= 0.7  # of new images like those of the training
    chequered = np.kron(np.indices((5, 6)).sum(0) % 2, np.ones((8, 8)))[..., None] * np.array([255, 0, 160])
    file = io.BytesIO()
    Image.fromarray(chequered.astype("uint8")).save(file, "PNG")
    (other,) = classifier.classify([file.getvalue()])
    assert other.known is False and other.known_score < min(answer.known_score for answer in answers)
