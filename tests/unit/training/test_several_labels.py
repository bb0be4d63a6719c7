"""Training on images with several labels or none: batches, the model folder, the recipe's options and where it may start."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from support import several_labels, shade_records
from support.shade_records import NARROW, train

from kfp_vision.core.crop_shapes import WHOLE
from kfp_vision.core.errors import InputError
from kfp_vision.engines.engine import TENSORFLOW
from kfp_vision.prediction.classifier import Classifier
from kfp_vision.records.records_folder import read_fields
from kfp_vision.repository.version import exported_version
from kfp_vision.training import input_pipeline
from kfp_vision.training.augmentation import Augmentation
from kfp_vision.training.features import compute_features
from kfp_vision.training.objectives import SeveralLabels
from kfp_vision.training.train import SEVERAL_LABELS_MIN_CROP_AREA, _balanced_weights

VALIDATION = 40


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Writes records and the label map; returns their folder."""
    return several_labels.write_records(tmp_path_factory.mktemp("records"), images=48, validation=VALIDATION)


@pytest.fixture(scope="module")
def trained(folders, tmp_path_factory):
    return train(folders, tmp_path_factory.mktemp("trained"), train_steps=40)


def write_shades(folder):
    """Writes records of one label an image; returns their folder."""
    (folder / "shades").mkdir()
    return shade_records.write(folder / "shades")


def hot(folder) -> np.ndarray:
    """The labels of all records, read without TensorFlow."""
    return np.array([[number in fields.numbers for number in range(3)] for fields in read_fields(folder)], np.float32)


def test_labels_are_multi_hot_and_images_without_labels_are_among_them(folders):
    batches = input_pipeline.EvaluationBatches(folders / "validation", image_size=32, batch_size=16)
    labels = np.concatenate([labels.numpy() for _, labels in batches])
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels, hot(folders / "validation"))
    assert (labels.sum(1) == 0).sum() == VALIDATION // 8
    settings = {"image_size": 32, "batch_size": 48, "seed": 3}
    _, drawn = next(input_pipeline.training_batches(folders / "train", augmentation=Augmentation(), **settings))
    assert sorted(drawn.numpy().tolist()) == sorted(hot(folders / "train").tolist())
    _, blended = next(
        input_pipeline.training_batches(folders / "train", augmentation=Augmentation(mixup_alpha=1.0), **settings)
    )
    assert ((blended.numpy() > 0) & (blended.numpy() < 1)).any()
    np.testing.assert_allclose(blended.numpy().mean(0), drawn.numpy().mean(0), atol=0.2)


def mean_colours(images: tf.Tensor) -> np.ndarray:
    return images.numpy().mean((1, 2)).astype(np.float16)


def test_features_carry_the_labels_of_their_images(folders, tmp_path):
    found = compute_features(mean_colours, folders / "validation", 32, tmp_path, mirrored=True)
    np.testing.assert_array_equal(found.labels[:VALIDATION], hot(folders / "validation"))
    np.testing.assert_array_equal(found.labels[VALIDATION:], hot(folders / "validation"))


def test_balanced_weights_come_from_the_records(folders):
    counts = hot(folders / "train").sum(0)
    np.testing.assert_allclose(_balanced_weights(folders / "train", SeveralLabels()), (48 - counts) / counts)


@pytest.mark.slow
def test_the_model_folder_says_that_images_have_several_labels(trained):
    reached, model = trained
    assert {"micro_f1", "validation_mean_average_precision", "best_step"} <= reached.keys()
    assert not {"accuracy", "validation_accuracy"} & reached.keys()
    version = exported_version(model)
    assert version.several
    assert len(version.thresholds) == 3
    assert all(0 < threshold < 1 for threshold in version.thresholds)
    history = json.loads((model / "training.json").read_text())
    validated = [row for row in history if "validation_loss" in row]
    best = max(validated, key=lambda row: (row["validation_mean_average_precision"], -row["validation_loss"]))
    assert reached["best_step"] == best["step"]


@pytest.mark.slow
def test_scores_of_the_export_are_calibrated_sigmoids(trained, folders):
    _, model = trained
    version = exported_version(model)
    encoded = [fields.encoded for fields in read_fields(folders / "validation")]
    scores = Classifier(version, engine=TENSORFLOW).probabilities(encoded)
    assert np.abs(scores.sum(1) - 1).max() > 0.1
    assert version.crop == WHOLE  # a label may be at an edge
    batches = input_pipeline.EvaluationBatches(folders / "validation", image_size=32, batch_size=VALIDATION, crop=WHOLE)
    ((images, _),) = batches
    logits = keras.saving.load_model(model / "classifier.keras")(images)
    np.testing.assert_allclose(scores, tf.sigmoid(logits), atol=1e-3)


@pytest.mark.slow
def test_crops_are_large_unless_the_recipe_says_otherwise(trained, folders, tmp_path):
    def share(model) -> float:
        return json.loads((model / "model.json").read_text())["advanced"]["min_crop_area"]

    assert share(trained[1]) == SEVERAL_LABELS_MIN_CROP_AREA
    assert share(train(folders, tmp_path, train_steps=2, advanced=NARROW | {"min_crop_area": 0.5})[1]) == 0.5


@pytest.mark.slow
def test_the_page_shows_the_curves_of_several_labels(trained):
    _, model = trained
    page = (model.parent / "page.html").read_text()
    assert "Mean average precision" in page
    assert "Accuracy" not in page


@pytest.mark.slow
def test_the_head_alone_is_trained_on_features_with_all_options(folders, tmp_path, capsys):
    advanced = NARROW | {"class_weights": "balanced", "label_smoothing": 0.1, "flip": True}
    changes = {"train_last_layer_only": True, "train_steps": 200, "learning_rate": 0.03, "advanced": advanced}
    reached, _ = train(folders, tmp_path, **changes)
    assert np.isfinite(reached["validation_mean_average_precision"])
    assert "thresholds of 3 labels on 40 validation images" in capsys.readouterr().out
    train(folders, tmp_path / "whole", train_steps=4, advanced=NARROW | {"head_steps": 5})
    assert "trained the classification head alone for 5 steps first" in capsys.readouterr().out


@pytest.mark.slow
def test_a_model_of_the_other_kind_lends_its_head_if_it_has_as_many_classes(trained, folders, tmp_path, capsys):
    """Three colours, and two shades: the head of the colours fits those of other colours, not the shades."""
    _, model = trained
    start = {"fine_tune": True, "checkpoint_uri": str(model), "train_steps": 2}
    train(folders, tmp_path / "again", **start)
    assert f"starts from {model}, with its classification head\n" in capsys.readouterr().out
    shades = write_shades(tmp_path)
    _, one = train(shades, tmp_path / "one", **start)
    assert f"starts from {model}, with a new classification head\n" in capsys.readouterr().out
    train(folders, tmp_path / "back", **start | {"checkpoint_uri": str(one)})
    assert f"starts from {one}, with a new classification head\n" in capsys.readouterr().out


@pytest.mark.slow
def test_a_training_does_not_resume_with_the_other_kind(folders, tmp_path):
    kept = {"checkpoint_dir": str(tmp_path / "kept"), "train_steps": 2}
    train(write_shades(tmp_path), tmp_path / "first", **kept)
    with pytest.raises(InputError, match="labels_per_image"):
        train(folders, tmp_path / "second", **kept)


@pytest.mark.slow
@pytest.mark.parametrize("validation", [0, 8])
def test_too_few_validation_images_leave_thresholds_of_one_half(tmp_path, capsys, validation):
    folders = several_labels.write_records(tmp_path, images=16, validation=validation)
    _, model = train(folders, tmp_path, train_steps=2)
    assert exported_version(model).thresholds == [0.5] * 3
    assert f"got {validation}, so neither is done, and every label has the threshold 0.5." in capsys.readouterr().out


def test_splits_of_both_kinds_are_refused(folders, tmp_path):
    mixed = write_shades(tmp_path)
    (mixed / "train").rename(mixed / "other")
    (mixed / "train").symlink_to(folders / "train")
    with pytest.raises(InputError, match="got train with several, validation with one"):
        train(mixed, tmp_path / "out")
