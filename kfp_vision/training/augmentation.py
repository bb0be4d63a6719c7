"""Data augmentation: random crops, flips, colour distortion, RandAugment and mixup."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from kfp_vision.core.frameworks import keras, tf
from kfp_vision.engines.resizing import Floats

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
        A function from images, float32 (batch, height, width, 3), labels, int64 (batch,) or float32 (batch, classes), and seeds
        to blended images and labels, float32 (batch, classes).
    """
    layer = keras.layers.MixUp(alpha)

    def blend(images: tf.Tensor, labels: tf.Tensor, seeds: NumberedSeeds) -> tuple[tf.Tensor, tf.Tensor]:
        transformation = layer.get_random_transformation(images, seed=seeds)
        truth = labels if labels.dtype.is_floating else tf.one_hot(labels, classes)
        return layer.transform_images(images, transformation), layer.transform_labels(truth, transformation)

    return blend


LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of training images: TF-Slim's Inception preprocessing, with its names and all but one of its defaults.

    Attributes:
        min_crop_area: smallest share of the image that a crop keeps. TF-Slim's 0.05 needs tens of thousands of steps to pay
            off; 0.3 learns faster in a few hundred.
        min_aspect_ratio: smallest width by height of a crop.
        max_aspect_ratio: largest width by height of a crop.
        max_brightness_delta: largest shift in brightness, as a share of white.
        lower_saturation: smallest factor of the saturation; 1 keeps the colours, 0 gives grey.
        upper_saturation: largest factor of the saturation.
        flip: mirror images with a probability of one half.
        rand_augment: operations of RandAugment per image; 0 for none.
        rand_augment_magnitude: strength of the operations, from 0 to 1: 0.3 is the paper's magnitude 9 of 30, for ResNet-50.
        mixup_alpha: blend images with others of their batch, by shares from Beta(alpha, alpha); 0 for none.
    """

    min_crop_area: float = 0.3
    min_aspect_ratio: float = 0.75
    max_aspect_ratio: float = 1.33
    max_brightness_delta: float = 32 / 255
    lower_saturation: float = 0.5
    upper_saturation: float = 1.5
    flip: bool = True
    rand_augment: int = 0
    rand_augment_magnitude: float = 0.3
    mixup_alpha: float = 0.0


def draw_augmentation(
    numbers: tf.Tensor, sides: tf.Tensor, streams: tuple[int, int], augmentation: Augmentation
) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws how to augment images, each by its own number: TF-Slim's random windows, and the input of `flip_and_distort`.

    Args:
        numbers: of the images, int64 (images,).
        sides: their heights and widths, int64 (images, 2).
        streams: numbers of the random streams of windows and of colours.
        augmentation: area and aspect ratio of the windows.

    Returns:
        Windows: int64 (images, 4), top, left, height and width in pixels; and float32 (images, 3) from 0 to 1.
    """

    def draw(number_and_sides: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        number, (height, width) = number_and_sides[0], tf.unstack(number_and_sides[1])
        seeds = [tf.stack([tf.constant(stream, tf.int64), number]) for stream in streams]
        begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.stack([height, width, tf.constant(3, tf.int64)]),
            bounding_boxes=tf.zeros((1, 0, 4)),
            seed=seeds[0],
            min_object_covered=0.0,
            aspect_ratio_range=(augmentation.min_aspect_ratio, augmentation.max_aspect_ratio),
            area_range=(augmentation.min_crop_area, 1.0),
            max_attempts=100,
            use_image_if_no_bounding_boxes=True,
        )
        return tf.concat([begin[:2], size[:2]], 0), tf.random.stateless_uniform((3,), seeds[1])

    drawn = (tf.TensorSpec((4,), tf.int64), tf.TensorSpec((3,), tf.float32))
    windows, uniform = tf.map_fn(draw, (numbers, sides), fn_output_signature=drawn)
    return windows, uniform


def flip_and_distort(image: Floats, uniform: npt.NDArray[np.float32], augmentation: Augmentation) -> None:
    """Mirrors an image, and changes its brightness and saturation, as drawn: TF-Slim's fast mode.

    Args:
        image: (height, width, 3) RGB in 0 to 255, contiguous; is overwritten.
        uniform: three numbers from 0 to 1, from which the changes follow.
        augmentation: ranges of the changes.
    """
    flip, shift, factor = uniform.tolist()
    if augmentation.flip and flip < 0.5:
        cv2.flip(image, 1, dst=image)
    shift = (2 * shift - 1) * 255 * augmentation.max_brightness_delta
    factor = augmentation.lower_saturation + factor * (augmentation.upper_saturation - augmentation.lower_saturation)
    # grey + factor * (colour - grey) + shift as one matrix: one pass over the image instead of five.
    saturation = factor * np.eye(3) + (1 - factor) * np.array(LUMA)
    cv2.transform(image, np.column_stack([saturation, np.full(3, shift)]), dst=image)
    np.clip(image, 0.0, 255.0, out=image)


def augment_on_device(pixels: tf.Tensor, uniform: tf.Tensor, augmentation: Augmentation) -> tf.Tensor:
    """Computes what `flip_and_distort` does for a batch, in the graph of the training step.

    Args:
        pixels: uint8 (images, height, width, 3) RGB: a quarter of what floats take on the way to a GPU.
        uniform: float32 (images, 3) from 0 to 1, as from `draw_augmentation`.
        augmentation: ranges of the changes.

    Returns:
        float32 (images, height, width, 3) in 0 to 255.
    """
    flip, shift, factor = (values[:, None, None, None] for values in tf.unstack(uniform, axis=1))
    images = tf.cast(pixels, tf.float32)
    if augmentation.flip:
        images = tf.where(flip < 0.5, images[:, :, ::-1], images)
    shift = (2 * shift - 1) * 255 * augmentation.max_brightness_delta
    factor = augmentation.lower_saturation + factor * (augmentation.upper_saturation - augmentation.lower_saturation)
    grey = tf.reduce_sum(images * tf.constant(LUMA), axis=-1, keepdims=True)
    return tf.clip_by_value(grey + factor * (images - grey) + shift, 0.0, 255.0)
