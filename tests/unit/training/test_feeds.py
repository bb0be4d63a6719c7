"""What the last blocks are trained on: the frozen layers' features of augmented images, computed once."""

import errno
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from scipy.optimize import linear_sum_assignment
from support import shade_records, small_network
from support.shade_records import RECIPE

from kfp_vision import networks
from kfp_vision.core.advanced import Advanced
from kfp_vision.core.crop_shapes import STRETCHED
from kfp_vision.networks import NETWORKS
from kfp_vision.training import feeds, monitoring
from kfp_vision.training.trainer import build_network, freeze_first_blocks

TRAINING, VALIDATION, SIZE = 24, 12, 32
STEPS, BATCH = 7, 8


@pytest.fixture
def data(tmp_path):
    folders = shade_records.write(tmp_path, images=TRAINING, validation=VALIDATION)
    return feeds.FeedSource(folders / "train", folders / "validation", SIZE, tmp_path, STRETCHED)


@pytest.fixture
def network():
    with small_network.registered():
        built = build_network(small_network.NAME, 2, "float32", image_size=SIZE)
        freeze_first_blocks(built)
        yield built


def recipe(**advanced):
    return replace(RECIPE, train_steps=STEPS, batch_size=BATCH, advanced=Advanced.parse(advanced))


def take(feed, batches, part=(0, 1), first_step=0):
    iterator = feed.batches(first_step, part)
    return [[tensor.numpy() for tensor in next(iterator)] for _ in range(batches)]


def sorted_rows(rows) -> np.ndarray:
    flat = np.concatenate(rows).reshape(-1, np.prod(rows[0].shape[1:]))
    return flat[np.lexsort(flat.T)]


def test_the_last_blocks_see_each_augmented_image_once(data, network, capsys):
    of_images, of_blocks = feeds.image_feed(network, data, recipe()), feeds.block_feed(network, data, recipe())
    assert f"computed the features of {STEPS * BATCH + VALIDATION} images" in capsys.readouterr().out
    assert of_blocks.model.layers[-1] is network.layers[-1]
    frozen, _ = networks.split_at(network, networks.find_frozen_part(network))
    expected = [frozen(images, training=False).numpy() for images, _ in take(of_images, STEPS)]
    seen, expected = (
        np.concatenate(batches).reshape(STEPS * BATCH, -1)
        for batches in ([features for features, _ in take(of_blocks, STEPS)], expected)
    )
    differences = np.abs(seen[:, None] - expected).max(2)
    rows, columns = linear_sum_assignment(differences)  # in another order, and rounded to float16
    assert differences[rows, columns].max() < 1e-2


def test_logits_of_a_validation_are_those_of_the_whole_network(data, network):
    of_images, of_blocks = feeds.image_feed(network, data, recipe()), feeds.block_feed(network, data, recipe())
    ((images, labels),), ((features, same),) = of_images.validation, of_blocks.validation
    np.testing.assert_array_equal(labels, same)
    np.testing.assert_allclose(of_blocks.model(features), network(images), atol=1e-2)


def test_a_resumed_worker_sees_its_slice_of_the_same_batches(data, network):
    feed = feeds.block_feed(network, data, recipe())
    whole = take(feed, STEPS)
    for number in (0, 1):
        resumed = take(feed, STEPS - 3, (number, 2), first_step=3)
        for (features, labels), (expected, truth) in zip(resumed, whole[3:], strict=True):
            half = slice(number * BATCH // 2, (number + 1) * BATCH // 2)
            assert np.array_equal(features, expected[half]) and np.array_equal(labels, truth[half])


def test_images_have_no_more_views_than_pay(data, network, monkeypatch, capsys):
    monkeypatch.setattr(feeds, "MAX_VIEWS", 2)
    feed = feeds.block_feed(network, data, recipe())
    assert f"of {2 * TRAINING + VALIDATION} images" in capsys.readouterr().out
    features = [features for features, _ in take(feed, 4 * TRAINING // BATCH)]
    first, second = features[: len(features) // 2], features[len(features) // 2 :]
    assert np.array_equal(sorted_rows(first), sorted_rows(second))


def test_a_line_every_few_seconds_says_how_far_the_features_are(data, network, monkeypatch, capsys):
    monkeypatch.setattr(monitoring, "SECONDS_BETWEEN_LINES", 0.0)
    feeds.block_feed(network, data, recipe())
    lines = re.findall(r"^features of (\d+)/56 images  \d+ img/s", capsys.readouterr().out, re.MULTILINE)
    assert lines == [str(BATCH * batches) for batches in range(1, STEPS)]


@pytest.mark.parametrize("feed", [feeds.block_feed, feeds.feature_feed])
def test_features_that_do_not_fit_on_the_disk_are_known_with_the_first_batch(data, network, feed, monkeypatch, capfd):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(monitoring, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"No space left on device: .*features\.npy"):
        feed(network, data, recipe())
    assert "features of" not in capfd.readouterr().out


def test_blended_labels_go_with_the_features(data, network):
    feed = feeds.block_feed(network, data, recipe(mixup_alpha=1.0))
    labels = np.concatenate([labels for _, labels in take(feed, STEPS)])
    assert labels.shape == (STEPS * BATCH, 2)
    assert ((labels > 0) & (labels < 1)).any()
    np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)


def test_what_does_not_fit_on_the_disk_is_not_kept(data, network, monkeypatch):
    monkeypatch.setattr(feeds, "MAX_VIEW_BYTES", 1000)
    feed = feeds.block_feed(network, data, recipe())
    assert feed.model is network
    assert take(feed, 1)[0][0].shape == (BATCH, SIZE, SIZE, 3)


def test_nothing_is_computed_once_where_no_layer_is_frozen(data):
    with small_network.registered():
        network = build_network(small_network.NAME, 2, "float32", image_size=SIZE)
    assert feeds.block_feed(network, data, recipe()).model is network


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("inception_v1", "MaxPool_5a_2x2"),
        ("efficientnet_lite0", "blocks.10.add"),  # not the block's wider output
        ("resnet50_v2", "conv4_block5_out"),  # has operations that are no layers
        ("nasnet_mobile", ""),  # each cell takes the outputs of two before it
    ],
)
def test_the_frozen_part_ends_where_little_leads_on(name, last):
    network = NETWORKS[name].build(2, image_size=96)
    freeze_first_blocks(network)
    assert networks.find_frozen_part(network) == last
    if last:
        frozen, rest = networks.split_at(network, last)
        images = tf.random.stateless_uniform((1, 96, 96, 3), (1, 2), maxval=255.0)
        np.testing.assert_allclose(rest(frozen(images)), network(images), rtol=1e-3, atol=1e-4)


QUIET = """
import sys
from pathlib import Path
from support import shade_records, small_network
from kfp_vision.core.crop_shapes import STRETCHED
from kfp_vision.training import feeds
from kfp_vision.training.trainer import Trainer, build_network
folder = Path(sys.argv[1])
data = feeds.FeedSource(folder / "train", folder / "validation", 32, folder, STRETCHED)
with small_network.registered():
    feed = feeds.feature_feed(build_network(small_network.NAME, 2, "float32", image_size=32), data, shade_records.RECIPE)
    print(Trainer(feed.model, shade_records.RECIPE, 1.0).validate(feed.validation))
"""


def test_a_processor_is_given_no_graph_of_features_in_float16_of_which_onednn_complains(data, tmp_path):
    child = {"env": os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", QUIET, str(tmp_path)], **child)
    assert "validation_accuracy" in done.stdout
    assert "DT_HALF" not in done.stderr
