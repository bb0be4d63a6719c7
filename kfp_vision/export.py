"""The model folder: one SavedModel that any TensorFlow server takes, one `.keras` file of stock layers, and what they are.

classifier.keras    pictures (batch, size, size, 3) RGB in 0 to 255 to logits
labels.txt          0:daisy ...
model.json          network, image size, and how it was trained
training.json       the rows of its learning curves
serving/            a model repository with one version: the SavedModel, encoded pictures in, names out
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from kfp_vision import checkpoints, inputs, repository, splitting
from kfp_vision.checkpoints import KERAS_FILE
from kfp_vision.networks import Network

ABOUT_FILE, HISTORY_FILE = "model.json", "training.json"


def write_model(
    folder: Path,
    trained: Any,
    network: Network,
    labels: list[str],
    settings: Mapping[str, Any],
    shape: Mapping[str, Any],
    history: list[dict[str, float]],
) -> None:
    """Writes the model folder.

    Args:
        folder: to be made.
        trained: the Keras model, in any precision.
        network: what it is.
        labels: names of the classes, in order.
        settings: how it was trained; written to `model.json`.
        shape: options of `network.build` that decide the shapes: image_size, depth_multiplier.
        history: rows of its learning curves; written to `training.json`.
    """
    folder.mkdir()
    stock = in_stock_layers(trained, network, len(labels), shape)
    stock.save(folder / KERAS_FILE)
    splitting.write_labels(folder, labels)
    about = json.dumps({**settings, "labels": labels}, indent=1, ensure_ascii=False) + "\n"
    (folder / ABOUT_FILE).write_text(about, encoding="utf-8")
    (folder / HISTORY_FILE).write_text(json.dumps(history, indent=1) + "\n")
    version = repository.exported(folder).folder
    write_saved_model(version, stock, labels, shape["image_size"])
    (version / repository.ABOUT_FILE).parent.mkdir()
    (version / repository.ABOUT_FILE).write_text(about, encoding="utf-8")


def write_backbone(folder: Path, network: Network, checkpoint_uri: str) -> None:
    """Writes a model folder of a network that was trained on other pictures, for the embeddings that it gives.

    What it names pictures is without meaning: its class layer is none, whatever the checkpoint has there.

    Args:
        folder: to be made.
        network: what it is.
        checkpoint_uri: what it was trained to; see `checkpoints.load`.

    Raises:
        InputError: as `checkpoints.load` does.
    """
    shape: dict[str, Any] = {"image_size": network.image_size, "depth_multiplier": 1.0}
    model = network.build(1, **shape)
    checkpoints.load(model, network, checkpoint_uri)
    settings = {"network": network.name, "model_name": network.name, "checkpoint_uri": checkpoint_uri, **shape}
    write_model(folder, model, network, ["picture"], settings, shape, [])


def in_stock_layers(trained: Any, network: Network, classes: int, shape: Mapping[str, Any]) -> Any:
    """The same network in float32 and of Keras's own layers alone, with the trained weights."""
    stock = network.build(classes, fast=False, **shape)
    weights = {layer.name: layer for layer in trained.layers if layer.weights}
    for layer in stock.layers:
        if layer.name in weights:
            layer.set_weights(weights[layer.name].get_weights())
    return stock


def write_saved_model(folder: Path, model: Any, labels: list[str], image_size: int) -> None:
    """Writes a SavedModel with three signatures, of which two give `classes`, `class_idx` and `probabilities`.

    `serving_default` takes `image_bytes`, string (batch,): encoded pictures. `pixels` and `embed` take `images`, float32
    (batch, size, size, 3), RGB in 0 to 255. `embed` gives `embedding`, float32 (batch, width): what the class layer sees of
    each picture, of length 1.
    """
    body = keras.Model(model.input, model.layers[-1].input)

    def named(pictures: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = tf.nn.softmax(model(pictures, training=False))
        best = tf.argmax(probabilities, 1)
        return {"classes": tf.gather(tf.constant(labels), best), "class_idx": best, "probabilities": probabilities}

    def from_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        shape = tf.TensorSpec((image_size, image_size, 3), tf.float32)
        return named(tf.map_fn(lambda one: inputs.central_crop(one, image_size), image_bytes, fn_output_signature=shape))

    def embedded(pictures: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"embedding": tf.math.l2_normalize(body(pictures, training=False), axis=1)}

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serving_default", from_bytes, [tf.TensorSpec((None,), tf.string, name="image_bytes")])
    pixels = tf.TensorSpec((None, image_size, image_size, 3), tf.float32, name="images")
    archive.add_endpoint("pixels", named, [pixels])
    archive.add_endpoint("embed", embedded, [pixels])
    archive.write_out(str(folder), verbose=False)
