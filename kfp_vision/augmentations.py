"""Stronger augmentation, of Keras's own layers: every draw follows from a number, not from how often a layer was called."""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import tensorflow as tf

DRAWS = 1024  # more than there are seeds of one picture or batch


class Seeds(keras.random.SeedGenerator):
    """Seeds for Keras's layers that follow from a number: its parent counts in a variable, which would forget and be shared.

    Args:
        stream: what is drawn for.
        number: of the picture or batch, int64.
    """

    def __init__(self, stream: int, number: tf.Tensor):  # without its parent's, which makes the variable
        self.stream, self.number, self.drawn = stream, number, 0

    def next(self, ordered: bool = True) -> tf.Tensor:
        """Another seed, int64 (2,)."""
        self.drawn += 1
        return tf.stack([tf.constant(self.stream, tf.int64), self.number * DRAWS + self.drawn])


def rand_augment(operations: int, magnitude: float) -> Callable[[tf.Tensor, Seeds], tf.Tensor]:
    """RandAugment (https://arxiv.org/abs/1909.13719): some operations drawn for each picture, one after the other.

    The operations are Keras's layers in the ranges of AutoAugment's table 6 (https://arxiv.org/abs/1805.09501), of which
    magnitude is the share. Not `keras.layers.RandAugment`: it draws once for the whole batch, computes all operations to take
    one, and turns pictures up to upside down. Solarization is left out, since Keras's draws its threshold from near 0 up,
    whatever is asked for; brightness is a shift.

    Args:
        operations: how many for each picture.
        magnitude: from 0 to 1; the paper's M by 30.

    Returns:
        What makes of a picture, float32 (height, width, 3) in 0 to 255, another, with seeds that `Seeds` gives.
    """
    layers, share = keras.layers, 0.9 * magnitude
    choices = [
        layers.RandomShear(x_factor=0.3 * magnitude),
        layers.RandomShear(y_factor=0.3 * magnitude),
        layers.RandomTranslation(0.0, 0.45 * magnitude),
        layers.RandomTranslation(0.45 * magnitude, 0.0),
        layers.RandomRotation(30 / 360 * magnitude),
        layers.RandomBrightness(share / 2),
        layers.RandomContrast((share, share)),
        layers.RandomColorDegeneration((0.0, share)),
        layers.RandomSharpness((0.5 - share / 2, 0.5 + share / 2)),
        layers.RandomPosterization((8 - round(4 * magnitude), 8)),
        layers.AutoContrast(),
        layers.Equalization(),
    ]

    def varied(picture: tf.Tensor, seeds: Seeds) -> tf.Tensor:
        for _ in range(operations):
            choice = tf.random.stateless_uniform((), seeds.next(), maxval=len(choices) + 1, dtype=tf.int32)
            branches = [_branch(layer, picture, seeds) for layer in choices]
            picture = tf.switch_case(choice, [*branches, partial(tf.identity, picture)])
        return tf.clip_by_value(picture, 0.0, 255.0)

    return varied


def _branch(layer: Any, picture: tf.Tensor, seeds: Seeds) -> Callable[[], tf.Tensor]:
    def applied() -> tf.Tensor:
        drawn = layer.get_random_transformation(picture[None], seed=seeds)
        return tf.ensure_shape(layer.transform_images(picture[None], drawn)[0], picture.shape)

    return applied


def mix_up(alpha: float, classes: int) -> Callable[[tf.Tensor, tf.Tensor, Seeds], tuple[tf.Tensor, tf.Tensor]]:
    """MixUp (https://arxiv.org/abs/1710.09412): each picture blended with another of its batch, and their labels likewise.

    Args:
        alpha: above 0; the smaller, the less is blended. The share of a picture is drawn from Beta(alpha, alpha).
        classes: of the label map.

    Returns:
        What makes of pictures, float32 (batch, height, width, 3), and labels, int64 (batch,), such pictures and labels
        float32 (batch, classes), with seeds that `Seeds` gives.
    """
    layer = keras.layers.MixUp(alpha)

    def mixed(pictures: tf.Tensor, labels: tf.Tensor, seeds: Seeds) -> tuple[tf.Tensor, tf.Tensor]:
        drawn = layer.get_random_transformation(pictures, seed=seeds)
        return layer.transform_images(pictures, drawn), layer.transform_labels(tf.one_hot(labels, classes), drawn)

    return mixed
