"""Weights from elsewhere: what fits is taken over, what does not is refused in one line."""

import tarfile

import numpy as np
import pytest
import tensorflow as tf

from kfp_vision import checkpoints
from kfp_vision.errors import InputError
from kfp_vision.networks import NETWORKS

SMALL = {"image_size": 32, "depth_multiplier": 0.1}


def slim_values(classes: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights of a narrow Inception v1, under TF-Slim's names, with an optimizer's slots and a step counter."""
    model = NETWORKS["inception_v1"].build(classes, **SMALL)
    rng = np.random.default_rng(seed)
    values = {}
    for layer in model.layers:
        for weight in layer.weights:
            name = NETWORKS["inception_v1"].name_in_checkpoint(layer.name, weight.name)
            values[name] = rng.normal(0, 0.1, weight.shape).astype("float32")
    stem = "InceptionV1/Conv2d_1a_7x7/weights"
    return values | {f"{stem}/Momentum": np.zeros(values[stem].shape, "float32"), "global_step": np.int64(7)}


def write_slim_checkpoint(folder, values, version):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = [tf.compat.v1.get_variable(name, initializer=value) for name, value in values.items()]
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(variables, write_version=version)
        return saver.save(session, str(folder / "model.ckpt"), write_meta_graph=False, write_state=False)


@pytest.mark.parametrize("version", [tf.compat.v1.train.SaverDef.V1, tf.compat.v1.train.SaverDef.V2], ids=["V1", "V2"])
def test_both_kinds_of_tf_slim_checkpoints_are_read(tmp_path, version):
    values = slim_values(4)
    path = write_slim_checkpoint(tmp_path, values, version)
    network = NETWORKS["inception_v1"]
    model = network.build(4, **SMALL)
    assert checkpoints.load(model, network, path)
    np.testing.assert_array_equal(model.get_layer("Conv2d_1a_7x7.conv").kernel, values["InceptionV1/Conv2d_1a_7x7/weights"])
    np.testing.assert_array_equal(
        model.get_layer("Mixed_5b.Branch_2.Conv2d_0a_3x3.BatchNorm").moving_variance,
        values["InceptionV1/Mixed_5b/Branch_2/Conv2d_0a_3x3/BatchNorm/moving_variance"],
    )
    np.testing.assert_array_equal(model.layers[-1].bias, values["InceptionV1/Logits/Conv2d_0c_1x1/biases"])


def test_the_class_layer_is_left_alone_when_the_classes_differ(tmp_path):
    np.savez(tmp_path / "weights.npz", **slim_values(4))
    network = NETWORKS["inception_v1"]
    model = network.build(3, **SMALL)
    before = model.layers[-1].kernel.numpy()
    assert not checkpoints.load(model, network, str(tmp_path / "weights.npz"))
    np.testing.assert_array_equal(model.layers[-1].kernel, before)
    assert np.abs(model.get_layer("Conv2d_1a_7x7.conv").kernel).max() > 0


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_an_npz_may_hold_any_float_type(tmp_path, kind):
    values = {name: np.asarray(value, kind) for name, value in slim_values(4).items()}
    np.savez(tmp_path / "weights.npz", **values)
    network = NETWORKS["inception_v1"]
    model = network.build(4, **SMALL)
    checkpoints.load(model, network, str(tmp_path / "weights.npz"))
    kernel = model.get_layer("Conv2d_1a_7x7.conv").kernel
    assert kernel.dtype == "float32"
    np.testing.assert_allclose(kernel, values["InceptionV1/Conv2d_1a_7x7/weights"].astype("float32"))


def test_an_archive_with_one_checkpoint_is_a_checkpoint(tmp_path):
    path = write_slim_checkpoint(tmp_path, slim_values(4), tf.compat.v1.train.SaverDef.V1)
    with tarfile.open(tmp_path / "published.tar.gz", "w:gz") as archive:
        archive.add(path, "./inception_v1.ckpt")
    network = NETWORKS["inception_v1"]
    assert checkpoints.load(network.build(4, **SMALL), network, str(tmp_path / "published.tar.gz"))


def test_an_archive_with_two_checkpoints_is_refused(tmp_path):
    np.savez(tmp_path / "weights.npz", **slim_values(4))
    with tarfile.open(tmp_path / "two.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "weights.npz", "a.npz")
        archive.add(tmp_path / "weights.npz", "b.npz")
    assert "must hold one checkpoint; got 2 in" in refusal("inception_v1", tmp_path / "two.tar.gz")


def test_a_checkpoint_of_another_network_is_refused_with_the_names(real_data):
    said = refusal("inception_v1", real_data / "googlenet" / "bvlc_googlenet.npz")
    assert "must fit network=inception_v1" in said
    assert "228 weights missing (such as InceptionV1/Conv2d_1a_7x7/BatchNorm/beta)" in said
    assert "116 weights left over (such as conv1/7x7_s2/biases)" in said
    assert "network=googlenet" in said


def test_a_narrower_checkpoint_is_refused_as_of_another_shape(tmp_path):
    np.savez(tmp_path / "weights.npz", **slim_values(4))
    said = refusal("inception_v1", tmp_path / "weights.npz")
    assert "of another shape (such as InceptionV1/Conv2d_1a_7x7/BatchNorm/beta)" in said


@pytest.mark.parametrize("name", ["text.ckpt", "text.npz", "torn.npz", "empty.npz", "one-array.npz", "nowhere.ckpt"])
def test_what_is_no_checkpoint_is_refused(tmp_path, name):
    if name == "torn.npz":
        np.savez(tmp_path / name, weights=np.zeros(1000))
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:2000])
    if name == "empty.npz":
        (tmp_path / name).touch()
    if name == "one-array.npz":
        with (tmp_path / name).open("wb") as file:
            np.save(file, np.zeros(3))
    if name.startswith("text"):
        (tmp_path / name).write_text("not a checkpoint")
    assert str(tmp_path / name) in refusal("inception_v1", tmp_path / name)


def refusal(network: str, path) -> str:
    with pytest.raises(InputError) as caught:
        checkpoints.check(NETWORKS[network], str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)
