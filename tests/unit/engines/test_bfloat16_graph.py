"""A network in bfloat16 answers as in float32, computed operation by operation or compiled, in batches of any size."""

import time
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from kfp_vision.engines import bfloat16_graph
from kfp_vision.engines.bfloat16_graph import BFloat16Graph, rewrite

SIZE, CLASSES = 16, 3
IMAGES = np.random.default_rng(0).uniform(0, 255, (11, SIZE, SIZE, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> object:
    """A SavedModel with what our networks are made of: batch norm, branches, padding, a norm of its own, sigmoids."""
    keras.utils.set_random_seed(0)
    images = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(8, 3, 2, padding="same")(images / 127.5 - 1)
    x = keras.layers.BatchNormalization()(x)
    branches = [keras.layers.DepthwiseConv2D(5, padding="same")(x), keras.layers.MaxPooling2D(3, 1, padding="same")(x)]
    x = keras.activations.silu(keras.layers.Concatenate()(branches))
    x = keras.layers.LayerNormalization()(keras.layers.ZeroPadding2D(1)(x))
    x = x * keras.ops.sigmoid(keras.layers.Dense(16)(keras.ops.mean(x, (1, 2), keepdims=True)))
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(24, 1)(x))
    model = keras.Model(images, [keras.layers.Dense(CLASSES)(features), features])
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]

    def answer(images: tf.Tensor) -> dict[str, tf.Tensor]:
        logits, features = model(images, training=False)
        return {"probabilities": tf.nn.softmax(8 * logits), "embedding": tf.math.l2_normalize(features, axis=1)}

    pixels = tf.TensorSpec((None, SIZE, SIZE, 3), tf.float32, name="images")
    folder = tmp_path_factory.mktemp("model")
    tf.saved_model.save(module, str(folder), {"pixels": tf.function(answer).get_concrete_function(pixels)})
    return tf.saved_model.load(str(folder))


def nodes(function) -> Iterator[object]:
    concrete = tf.function(function).get_concrete_function(tf.TensorSpec((None, SIZE, SIZE, 3)))
    parts = {field.name: part for field, part in concrete.graph.as_graph_def().ListFields()}
    for body in parts["library"].function:
        yield from body.node_def


def test_products_are_in_bfloat16_and_scores_in_float32(loaded):
    kinds = {(node.op, node.attr["T"].type) for node in nodes(rewrite(loaded.signatures["pixels"]))}
    in_bfloat16 = {kind for kind, number in kinds if number == tf.bfloat16.as_datatype_enum}
    assert {"Conv2D", "DepthwiseConv2dNative", "MatMul", "MaxPool"} <= in_bfloat16
    in_float32 = {kind for kind, number in kinds if number == tf.float32.as_datatype_enum}
    assert "Softmax" in in_float32 and not in_float32 & bfloat16_graph.PRODUCTS


def assert_close(answers: dict[str, np.ndarray], expected: dict[str, tf.Tensor]) -> None:
    """Compares to a few roundings of bfloat16, 2^-8 of a value each; it must not have been computed in float32 either."""
    for name in ("probabilities", "embedding"):
        assert answers[name].dtype == np.float32 and answers[name].shape == expected[name].shape
        np.testing.assert_allclose(answers[name], expected[name], atol=0.04)
        assert np.abs(answers[name] - expected[name]).max() > 1e-5


def test_answers_as_in_float32(loaded):
    signature = loaded.signatures["pixels"]
    expected = signature(images=tf.constant(IMAGES))
    assert np.ptp(expected["probabilities"], axis=0).max() > 0.1  # answers depend on the images
    assert_close(BFloat16Graph(signature, compiled=False)(tf.constant(IMAGES)), expected)


@pytest.mark.slow
def test_compiled_programs_take_over_and_answer_batches_of_any_size(loaded, monkeypatch):
    monkeypatch.setattr(bfloat16_graph, "COMPILED_SIZES", (4, 1))
    signature = loaded.signatures["pixels"]
    graph = BFloat16Graph(signature)
    deadline = time.monotonic() + 600
    while graph._ready != {4, 1} and time.monotonic() < deadline:
        time.sleep(0.05)
    assert graph._ready == {4, 1}
    graph._compute = None  # it is not used any more
    for count in (1, 2, 4, 11):
        assert_close(graph(tf.constant(IMAGES[:count])), signature(images=tf.constant(IMAGES[:count])))


def test_a_graph_that_bfloat16_cannot_compute_says_so_before_the_first_request(tmp_path: Path):
    module = tf.Module()
    function = tf.function(lambda images: {"probabilities": tf.linalg.matmul(tf.linalg.inv(images[..., 0]), images[..., 1])})
    spec = tf.TensorSpec((None, 2, 2, 3), tf.float32, name="images")
    tf.saved_model.save(module, str(tmp_path), {"pixels": function.get_concrete_function(spec)})
    loaded = tf.saved_model.load(str(tmp_path))
    with pytest.raises((ValueError, TypeError, tf.errors.OpError)):
        BFloat16Graph(loaded.signatures["pixels"], compiled=False)
