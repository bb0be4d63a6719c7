"""Writes the model folder: a SavedModel for any TensorFlow server, the same for OpenVINO, a `.keras` file, and metadata.

classifier.keras    from images (batch, size, size, 3) RGB in 0 to 255 to logits
labels.txt          0:daisy ...
model.json          network, image size and training settings
training.json       rows of the learning curves
serving/            a model repository with one version: a SavedModel from encoded images to class names, and beside it
                    `openvino/model.xml` from pixels to scores, embeddings and feature maps
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kfp_vision.core import json_text
from kfp_vision.core.crop_shapes import STRETCHED
from kfp_vision.core.frameworks import keras, tf
from kfp_vision.core.values import SEVERAL
from kfp_vision.dataset import label_map
from kfp_vision.engines import openvino_conversion, openvino_export
from kfp_vision.engines.engine import OPENVINO_FILE, OPENVINO_HEAD_FILE
from kfp_vision.networks import Network, decoding, find_feature_map, pretrained
from kfp_vision.networks.pretrained import KERAS_FILE
from kfp_vision.prediction.held_out import HELD_OUT_FILE, HeldOut
from kfp_vision.prediction.likeness import Novelty
from kfp_vision.prediction.novelty import NOVELTY_FILE
from kfp_vision.repository.version import HISTORY_FILE, VERSION_FILE, exported_version

MODEL_FILE = "model.json"


def write_model(
    folder: Path,
    trained: Any,
    network: Network,
    labels: list[str],
    settings: Mapping[str, Any],
    shape: Mapping[str, Any],
    history: list[dict[str, float]],
    novelty: Novelty | None = None,
    held_out: HeldOut | None = None,
) -> None:
    """Writes the model folder.

    Args:
        folder: to create.
        trained: the Keras model, in any precision.
        network: of the model.
        labels: class names, in the order of their numbers.
        settings: of the training; written to `model.json`. The logits of the export are divided by its `temperature`, if any.
            Its `thresholds`, if any, make it a model of several labels, see `write_saved_model`. Its `crop`, if any, is what
            the model sees of an image instead of the network's.
        shape: options of `network.build` that determine the shapes: image_size, depth_multiplier.
        history: rows of the learning curves; written to `training.json`.
        novelty: what tells known images from others; None for a model that does not tell.
        held_out: validation images, with which images in use are compared; None for a model that keeps none.
    """
    folder.mkdir()
    stock = rebuild_in_stock_layers(trained, network, len(labels), shape)
    _divide_logits(stock, settings.get("temperature", 1.0))
    stock.save(folder / KERAS_FILE)
    label_map.write_labels(folder, labels)
    thresholds = settings.get("thresholds", [])
    several = {"labels_per_image": SEVERAL} if thresholds else {}
    crop = settings.get("crop", network.crop)
    about = {**settings, **several, "crop": crop, "labels": labels}
    metadata = json_text.write(about, indent=1) + "\n"
    (folder / MODEL_FILE).write_text(metadata, encoding="utf-8")
    (folder / HISTORY_FILE).write_text(json_text.write(history, indent=1) + "\n")
    version = exported_version(folder).folder
    write_saved_model(version, stock, labels, shape["image_size"], crop, thresholds)
    (version / VERSION_FILE).parent.mkdir()
    (version / VERSION_FILE).write_text(metadata, encoding="utf-8")
    if novelty:
        novelty.save(version / NOVELTY_FILE)
    if held_out:
        held_out.save(version / HELD_OUT_FILE)


def write_backbone(folder: Path, network: Network, checkpoint_uri: str) -> None:
    """Writes a model folder of a pretrained network, for its embeddings.

    Its predictions are meaningless: the classification head is not loaded.

    Args:
        folder: to create.
        network: of the model.
        checkpoint_uri: pretrained weights; see `pretrained.load_pretrained`.

    Raises:
        InputError: as `pretrained.load_pretrained` does.
    """
    shape: dict[str, Any] = {"image_size": network.image_size, "depth_multiplier": 1.0}
    model = network.build(1, **shape)
    pretrained.load_pretrained(model, network, checkpoint_uri)
    settings = {"network": network.name, "model_name": network.name, "checkpoint_uri": checkpoint_uri, **shape}
    write_model(folder, model, network, ["picture"], settings, shape, [])


def rebuild_in_stock_layers(trained: Any, network: Network, classes: int, shape: Mapping[str, Any]) -> Any:
    """Rebuilds a trained model in float32 with stock Keras layers only.

    Args:
        trained: the Keras model, in any precision.
        network: of the model.
        classes: number of classes.
        shape: options of `network.build` that determine the shapes: image_size, depth_multiplier.

    Returns:
        A Keras model with the trained weights.
    """
    stock = network.build(classes, fast=False, **shape)
    weights = {layer.name: layer for layer in trained.layers if layer.weights}
    for layer in stock.layers:
        if layer.name in weights:
            layer.set_weights(weights[layer.name].get_weights())
    return stock


def _divide_logits(model: Any, temperature: float) -> None:
    """Divides kernel and bias of the classification head, so that whatever loads the model gives calibrated scores."""
    head = model.layers[-1]
    head.set_weights([weight / np.float32(temperature) for weight in head.get_weights()])


def write_saved_model(
    folder: Path, model: Any, labels: list[str], image_size: int, crop: str = STRETCHED, thresholds: Sequence[float] = ()
) -> None:
    """Writes a SavedModel with its signatures, and beside it the same network for OpenVINO.

    `serving_default` maps `image_bytes`, string (batch,), encoded images, to `classes`, `class_idx` and `probabilities`.
    `pixels` maps `images`, float32 (batch, size, size, 3) RGB in 0 to 255, to the same and `embedding`.
    `embed` maps `images` to `embedding` alone, float32 (batch, width): the input of the classification head, of length 1.
    `explain` maps `images` to `probabilities`, `embedding` and `maps`, float32 (batch, classes, rows, columns): the class
    activation map of each class, whose mean is its logit less its bias. Only networks that `find_feature_map` knows have it.

    With `thresholds`, an image may have several labels: `probabilities` are sigmoids of the logits instead of their softmax,
    and `serving_default` and `pixels` also answer `labels`, string (batch, classes): those whose probability is at least
    their threshold, the most probable first, then empty strings. `classes` and `class_idx` stay the most probable one.

    OpenVINO's file maps `images` to `probabilities` and `embedding`, and if there are maps, to `feature_map`. Its product with
    the kernel in `OPENVINO_HEAD_FILE` is the maps; with those of all classes in the file, every answer would pay for them. If
    the network cannot be converted, a line says why, and TensorFlow will compute its answers.

    Args:
        folder: to create.
        model: from images to logits.
        labels: class names, in the order of their numbers.
        image_size: height and width of the images in pixels.
        crop: what `serving_default` sees of an image, see `crop_shapes`.
        thresholds: the probability from which on an image has each label, in their order; empty if an image has one label.
    """
    score = tf.nn.sigmoid if len(thresholds) else tf.nn.softmax
    pixels = tf.TensorSpec((None, image_size, image_size, 3), tf.float32, name="images")
    encoded = tf.TensorSpec((None,), tf.string, name="image_bytes")
    head, feature_map = model.layers[-1], find_feature_map(model)
    outputs = [model.output, head.input, *([] if feature_map is None else [feature_map])]
    parts = keras.Model(model.input, outputs)
    # Traced once: all signatures call it. Every further trace of a deep network takes seconds.
    compute = tf.function(lambda images: parts(images, training=False), autograph=False).get_concrete_function(pixels)

    def classify(images: tf.Tensor) -> dict[str, tf.Tensor]:
        logits, features, *_ = compute(images)
        probabilities = score(logits)
        best = tf.argmax(probabilities, 1)
        named = {"classes": tf.gather(tf.constant(labels), best), "class_idx": best, "probabilities": probabilities}
        if len(thresholds):
            named["labels"] = _choose_labels(probabilities, labels, thresholds)
        return named | {"embedding": tf.math.l2_normalize(features, axis=1)}

    def classify_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        see = partial(decoding.central_crop, image_size=image_size, shape=crop)
        crops = tf.map_fn(see, image_bytes, fn_output_signature=tf.TensorSpec(pixels.shape[1:], tf.float32))
        return {name: values for name, values in classify(crops).items() if name != "embedding"}  # a client would get them all

    def embed(images: tf.Tensor) -> dict[str, tf.Tensor]:
        _, features, *_ = compute(images)
        return {"embedding": tf.math.l2_normalize(features, axis=1)}

    def explain(images: tf.Tensor) -> dict[str, tf.Tensor]:
        logits, features, feature_map = compute(images)
        maps = tf.einsum("brcw,wn->bnrc", feature_map, tf.convert_to_tensor(head.kernel))
        answers = {"probabilities": score(logits), "embedding": tf.math.l2_normalize(features, axis=1)}
        return answers | {"maps": maps}

    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    endpoints = {"serving_default": (classify_bytes, encoded), "pixels": (classify, pixels), "embed": (embed, pixels)}
    if feature_map is not None:
        endpoints["explain"] = (explain, pixels)
    signatures = {
        name: tf.function(function, autograph=False).get_concrete_function(inputs)
        for name, (function, inputs) in endpoints.items()
    }
    tf.saved_model.save(module, str(folder), signatures=signatures)

    def pixels_to_all(images: tf.Tensor) -> dict[str, tf.Tensor]:
        logits, features, *rest = compute(images)
        answers = {"probabilities": score(logits), "embedding": tf.math.l2_normalize(features, axis=1)}
        return answers | ({"feature_map": rest[0]} if rest else {})

    try:
        openvino_export.write_function(pixels_to_all, image_size, folder / OPENVINO_FILE)
    except openvino_conversion.NotConverted as reason:
        print(f"TensorFlow will compute the answers of this model, since OpenVINO does not: {reason}")
        return
    if feature_map is not None:
        np.save(folder / OPENVINO_HEAD_FILE, head.kernel.numpy())


def _choose_labels(probabilities: tf.Tensor, labels: list[str], thresholds: Sequence[float]) -> tf.Tensor:
    """Returns the labels of each image, the most probable first, padded with empty strings: string (batch, classes)."""
    chosen = probabilities >= tf.constant(thresholds, tf.float32)
    order = tf.argsort(tf.where(chosen, probabilities, probabilities - 2), axis=1, direction="DESCENDING", stable=True)
    return tf.where(tf.gather(chosen, order, batch_dims=1), tf.gather(tf.constant(labels), order), "")
