"""Fast layers equal Keras's own: outputs and gradients, at every stride, padding, and size of images and kernels."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from kfp_vision.networks import NETWORKS, layers
from kfp_vision.networks.layers import FastDepthwiseConv2D, FastGroupedConv2D, FastReLU, PointwiseConv2D

# Less than one strip of columns, one, two and three; strides below, at and above the kernel; images of odd and even size.
DEPTHWISE = list(itertools.product([(1, 1), (3, 3), (5, 5), (2, 7)], [1, 2, 3], ["same", "valid"]))
SIZE = (7, 8)
BFLOAT16_ROUNDING = 2**-8
MOBILE = [(keras.layers.DepthwiseConv2D, FastDepthwiseConv2D), (keras.layers.ReLU, FastReLU)]
FAST = {
    "efficientnet_lite0": MOBILE,
    "mobilenet_v3_large": MOBILE,
    "convnext_tiny": [(keras.layers.Conv2D, FastGroupedConv2D)],
}


def run(layer: keras.layers.Layer, images: np.ndarray, seed: int = 0) -> list[np.ndarray]:
    """Returns outputs, and the gradients of the images and of each weight in a compiled training step, in float32."""
    weights = tf.random.stateless_normal(layer.compute_output_shape(images.shape), (seed, 1))

    @tf.function
    def step(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = layer(images, training=True)
            loss = tf.reduce_sum(tf.cast(outputs, tf.float32) * weights)
        return outputs, *tape.gradient(loss, [images, *(weight.value for weight in layer.trainable_weights)])

    return [tf.cast(value, tf.float32).numpy() for value in step(tf.cast(images, layer.compute_dtype))]


def assert_close(ours: list[np.ndarray], reference: list[np.ndarray], tolerance: float) -> None:
    """Compares in proportion to the largest value of each array."""
    for value, expected in zip(ours, reference, strict=True):
        np.testing.assert_allclose(value, expected, atol=tolerance * np.abs(expected).max(), rtol=0)


def depthwise_pair(dtype: str, kernel, stride, padding, **options) -> tuple[keras.layers.Layer, keras.layers.Layer]:
    """Returns our layer in this precision and Keras's in float32, with the same weights, which bfloat16 holds exactly."""
    ours, reference = (
        kind(kernel, stride, padding=padding, dtype=policy, **options)
        for kind, policy in ((FastDepthwiseConv2D, dtype), (keras.layers.DepthwiseConv2D, "float32"))
    )
    for layer in (ours, reference):
        layer.build((None, None, None, 24))
    rng = np.random.default_rng(0)
    values = [tf.cast(tf.cast(rng.normal(size=w.shape), tf.bfloat16), tf.float32) for w in reference.weights]
    ours.set_weights(values)
    reference.set_weights(values)
    return ours, reference


@pytest.mark.parametrize(("kernel", "stride", "padding"), DEPTHWISE)
def test_a_depthwise_convolution_equals_that_of_keras(kernel, stride, padding):
    images = np.random.default_rng(1).integers(-9, 9, (2, *SIZE, 24)).astype("float32")  # exact in bfloat16
    options = {"use_bias": True, "activation": "relu"}
    ours, reference = depthwise_pair("float32", kernel, stride, padding, **options)
    assert_close(run(ours, images), run(reference, images), 1e-5)
    half, _ = depthwise_pair("mixed_bfloat16", kernel, stride, padding, **options)
    stock = keras.layers.DepthwiseConv2D(kernel, stride, padding=padding, dtype="mixed_bfloat16", **options)
    stock.build((None, None, None, 24))
    stock.set_weights(reference.get_weights())
    # Where bfloat16 is emulated, Keras's own layer rounds more as well.
    for value, same, expected in zip(*(run(layer, images) for layer in (half, stock, reference)), strict=True):
        rounding = 2 * max(BFLOAT16_ROUNDING * np.abs(expected).max(), np.abs(same - expected).max())
        np.testing.assert_allclose(value, expected, atol=rounding, rtol=0)


def test_a_depthwise_convolution_with_dilation_or_multiplier_equals_that_of_keras():
    images = np.random.default_rng(1).normal(size=(2, 9, 9, 24)).astype("float32")
    for options in ({"dilation_rate": 2}, {"depth_multiplier": 2}):
        ours, reference = depthwise_pair("float32", 5, 1, "same", **options)
        assert_close(run(ours, images), run(reference, images), 1e-5)


def test_a_depthwise_convolution_compiled_by_xla_equals_that_of_keras():
    images = tf.random.stateless_normal((2, 9, 9, 24), (0, 0))
    ours, reference = depthwise_pair("float32", 5, 2, "same")

    @tf.function(jit_compile=True)
    def gradient(images):
        with tf.GradientTape() as tape:
            outputs = ours(images, training=True)
        return tape.gradient(outputs, ours.kernel.value)

    with tf.GradientTape() as tape:
        outputs = reference(images)
    assert_close([gradient(images).numpy()], [tape.gradient(outputs, reference.kernel.value).numpy()], 1e-5)


@pytest.mark.parametrize(
    ("groups", "options"),
    [(24, {}), (24, {"strides": 2, "padding": "valid"}), (8, {}), (1, {"activation": "relu"}), (24, {"dilation_rate": 2})],
)
def test_a_convolution_in_groups_equals_that_of_keras(groups, options):
    images = np.random.default_rng(1).normal(size=(2, 9, 9, 24)).astype("float32")
    options = {"padding": "same", "groups": groups, **options}
    ours, reference = (kind(24, 7 if groups == 24 else 3, **options) for kind in (FastGroupedConv2D, keras.layers.Conv2D))
    for layer in (ours, reference):
        layer.build(images.shape)
    ours.set_weights(reference.get_weights())
    assert_close(run(ours, images), run(reference, images), 1e-5)


@pytest.mark.parametrize("on_processor", [True, False])
def test_a_pointwise_convolution_is_a_product_on_a_processor_alone(monkeypatch, on_processor):
    monkeypatch.setattr(layers, "_computes_on_processor", lambda: on_processor)
    images = np.random.default_rng(0).normal(size=(2, *SIZE, 6)).astype("float32")
    fast, stock = (
        kind(5, kernel_size=1, kernel_initializer="ones", use_bias=False) for kind in (PointwiseConv2D, keras.layers.Conv2D)
    )
    for mine, expected in zip(run(fast, images), run(stock, images), strict=True):
        np.testing.assert_allclose(mine, expected, atol=1e-4)
    graph = tf.function(lambda batch: fast(batch, training=True)).get_concrete_function(tf.TensorSpec(images.shape)).graph
    kinds = {operation.type for operation in graph.get_operations()}
    assert ("MatMul" in kinds, "Conv2D" in kinds) == (on_processor, not on_processor)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("limit", [None, 6.0])
def test_a_rectifier_equals_that_of_keras(limit, dtype):
    images = np.random.default_rng(1).normal(2, 4, (2, 5, 5, 3)).astype("float32")
    images[0, 0] = [[0, 6, -0.0]] * 5  # where the slope changes
    ours, reference = (run(kind(limit, dtype=dtype), images) for kind in (FastReLU, keras.layers.ReLU))
    assert_close(ours, reference, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAST)
def test_networks_have_fast_layers_in_training_and_stock_ones_in_what_is_saved(name):
    for fast in (True, False):
        model = NETWORKS[name].build(2, image_size=32, fast=fast)
        for kind, fast_kind in FAST[name]:
            assert {type(layer) for layer in model.layers if isinstance(layer, kind)} == {fast_kind if fast else kind}
