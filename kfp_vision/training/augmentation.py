"""RandAugment and MixUp from Keras's layers, where every random draw follows from a given number."""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import tensorflow as tf

DRAWS_PER_NUMBER = 1024  # upper bound of the draws for one image or batch


class NumberedSeeds(keras.random.SeedGenerator):
    """Seeds for Keras's layers that follow from a number.

    The parent class counts draws in a variable, which is shared between images and lost when a training restarts.

    Attributes:
        stream: number of the random stream; each purpose has its own.
        number: of the image or batch, int64.
        drawn: draws so far.
    """

    def __init__(self, stream: int, number: tf.Tensor):
        """Starts a sequence of seeds.

        Args:
            stream: number of the random stream.
            number: of the image or batch, int64.
        """
        # Not super().__init__(), which would create the variable.
        self.stream, self.number, self.drawn = stream, number, 0

    def next(self, ordered: bool = True) -> tf.Tensor:
        """Returns the next seed, int64 (2,).

        Args:
            ordered: ignored; the parent class has it.
        """
        self.drawn += 1
        return tf.stack([tf.constant(self.stream, tf.int64), self.number * DRAWS_PER_NUMBER + self.drawn])


def rand_augment(operations: int, magnitude: float) -> Callable[[tf.Tensor, NumberedSeeds], tf.Tensor]:
    """Builds RandAugment (https://arxiv.org/abs/1909.13719): random operations for each image, one after the other.

    The operations are Keras's layers; their ranges are those of AutoAugment's table 6 (https://arxiv.org/abs/1805.09501)
    times the magnitude. `keras.layers.RandAugment` is not used: it draws once per batch, computes all operations to use one,
    and rotates images up to 180 degrees. Solarization is left out, since Keras draws its threshold from near 0 whatever the
    range; brightness is a shift.

    Args:
        operations: number of operations per image.
        magnitude: from 0 to 1; the paper's M divided by 30.

    Returns:
        A function from an image, float32 (height, width, 3) in 0 to 255, and its seeds to the augmented image.
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

    def augment(image: tf.Tensor, seeds: NumberedSeeds) -> tf.Tensor:
        for _ in range(operations):
            choice = tf.random.stateless_uniform((), seeds.next(), maxval=len(choices) + 1, dtype=tf.int32)
            branches = [_branch(layer, image, seeds) for layer in choices]
            image = tf.switch_case(choice, [*branches, partial(tf.identity, image)])
        return tf.clip_by_value(image, 0.0, 255.0)

    return augment


def _branch(layer: Any, image: tf.Tensor, seeds: NumberedSeeds) -> Callable[[], tf.Tensor]:
    def apply() -> tf.Tensor:
        transformation = layer.get_random_transformation(image[None], seed=seeds)
        return tf.ensure_shape(layer.transform_images(image[None], transformation)[0], image.shape)

    return apply


def mix_up(alpha: float, classes: int) -> Callable[[tf.Tensor, tf.Tensor, NumberedSeeds], tuple[tf.Tensor, tf.Tensor]]:
    """Builds MixUp (https://arxiv.org/abs/1710.09412): blends each image, and its label, with another of its batch.

    Args:
        alpha: above 0; the share of an image is drawn from Beta(alpha, alpha), so a smaller alpha blends less.
        classes: number of classes.

    Returns:
        A function from images, float32 (batch, height, width, 3), labels, int64 (batch,), and seeds to blended images and
        labels, float32 (batch, classes).
    """
    layer = keras.layers.MixUp(alpha)

    def blend(images: tf.Tensor, labels: tf.Tensor, seeds: NumberedSeeds) -> tuple[tf.Tensor, tf.Tensor]:
        transformation = layer.get_random_transformation(images, seed=seeds)
        return layer.transform_images(images, transformation), layer.transform_labels(
            tf.one_hot(labels, classes), transformation
        )

    return blend
