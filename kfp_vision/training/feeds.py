"""The input of a training: batches of images, or of features that are computed once."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from kfp_vision import networks
from kfp_vision.core import hardware
from kfp_vision.core.errors import InputError
from kfp_vision.core.frameworks import tf
from kfp_vision.records import records_folder
from kfp_vision.training import augmentation, devices, input_pipeline
from kfp_vision.training.features import (
    LARGEST_FEATURE,
    CachedFeatures,
    compute_features,
    training_batches,
    validation_batches,
)
from kfp_vision.training.frozen_layers import forward_to_features
from kfp_vision.training.padding import even_batch_size
from kfp_vision.training.recipe import Recipe

Batches = Iterator[tuple[tf.Tensor, tf.Tensor]]
MAX_VALIDATION_BATCH = 64
CACHE_DIVISOR = 4  # decoded images may take this fraction of the memory: 1/4
FEATURE_IMAGES = 2048  # of each split, for what an export stores of the training images; seconds of a training of minutes
VALIDATION_IMAGES = 512  # for the learning curve; the evaluation stage uses all images


class FeedSource(NamedTuple):
    """Where a training reads its images.

    Attributes:
        train_records: folder of records.
        validation_records: folder of records, maybe empty.
        image_size: height and width of the images in pixels.
        scratch: folder for temporary files.
        crop: what the network sees of an image in validation and in use, see `crop_shapes`.
    """

    train_records: Path
    validation_records: Path
    image_size: int
    scratch: Path
    crop: str


class Feed(NamedTuple):
    """The model to train, and its input.

    Attributes:
        model: the network, or its classification head.
        batches: function that returns endless batches. Its arguments are the number of the first step, and the slice of each
            batch: (i, n) for the i-th of n equal slices.
        validation: batches to validate on during training, or None.
        features: those of the training and the validation images, if they are computed once for all steps.
        prepare: makes what the model takes of the images of a batch of `batches`; see `Trainer`.
    """

    model: Any
    batches: Callable[[int, tuple[int, int]], Batches]
    validation: Iterable[tuple[tf.Tensor, tf.Tensor]] | None
    features: tuple[CachedFeatures, CachedFeatures] | None = None
    prepare: Callable[[Any], tf.Tensor] = lambda images: images


def image_feed(network: Any, data: FeedSource, recipe: Recipe) -> Feed:
    """Feeds augmented images to the whole network.

    Args:
        network: the Keras model.
        data: where to read.
        recipe: how to train.

    Returns:
        Batches of images and labels, see `input_pipeline`. A GPU gets pixels in bytes and changes their colours itself.
    """
    advanced = recipe.advanced
    drawn = augmentation.Augmentation(**{one.name: getattr(advanced, one.name) for one in fields(augmentation.Augmentation)})
    on_device = bool(devices.count_gpus()) and not (drawn.rand_augment or drawn.mixup_alpha)
    memory = hardware.memory() // CACHE_DIVISOR if advanced.cache_pictures else 0

    def batches(first_step: int, part: tuple[int, int]) -> Batches:
        return input_pipeline.training_batches(
            data.train_records,
            image_size=data.image_size,
            batch_size=recipe.batch_size,
            seed=advanced.seed,
            augmentation=drawn,
            first_step=first_step,
            part=part,
            memory=memory,
            in_bytes=on_device,
        )

    def prepare(images: Any) -> tf.Tensor:
        if not on_device:
            return images
        pixels, uniform = images
        return augmentation.augment_on_device(pixels, uniform, drawn)

    held_out = min(records_folder.read_records_info(data.validation_records).images, VALIDATION_IMAGES)
    if not held_out:
        return Feed(network, batches, None, prepare=prepare)
    validation = input_pipeline.EvaluationBatches(
        data.validation_records,
        image_size=data.image_size,
        batch_size=even_batch_size(held_out, MAX_VALIDATION_BATCH),
        max_images=held_out,
        crop=data.crop,
    )
    return Feed(network, batches, validation, prepare=prepare)


def feature_feed(network: Any, data: FeedSource, recipe: Recipe, *, validates: bool = True) -> Feed:
    """Feeds features to the classification head. They are computed once, since the layers below it do not change.

    Args:
        network: the Keras model.
        data: where to read.
        recipe: how to train.
        validates: whether to compute those of the validation images too.

    Returns:
        Batches of features, float32 (batch, width), and labels as in `input_pipeline`.

    Raises:
        InputError: the features of an image are no numbers, or too large to train on.
    """
    _, head = networks.split_head(network)
    seed, flip = recipe.advanced.seed, recipe.advanced.flip
    counts = [data.train_records] * (2 if flip else 1) + [data.validation_records] * validates
    compute = _feature_computer(network, data, recipe, sum(records_folder.read_records_info(one).images for one in counts))
    training = compute(data.train_records, mirrored=flip)
    if training.overflowing:
        rule = f"the features of each image must be numbers of at most {LARGEST_FEATURE} to train the classification head alone"
        found = f"{training.overflowing} of {len(training.labels)} with others"
        remedy = "Start from weights that are trained, or train all layers: train_last_layer_only=false, and no head_steps."
        raise InputError(rule, found, remedy)
    validation = compute(data.validation_records, mirrored=False) if validates else None
    images = len(training.labels) + (len(validation.labels) if validation else 0)
    print(f"computed the features of {images} images, once for all steps", flush=True)

    def batches(first_step: int, part: tuple[int, int]) -> Batches:
        order = {"batch_size": recipe.batch_size, "seed": seed, "first_step": first_step}
        return training_batches(training, part=part, **order)

    if not validation or not len(validation.labels):
        return Feed(head, batches, None)
    return Feed(head, batches, validation_batches(validation), (training, validation))


def export_features(network: Any, data: FeedSource, recipe: Recipe) -> tuple[CachedFeatures, CachedFeatures]:
    """Computes the features of some training and validation images, with the weights that the network has.

    Args:
        network: the Keras model.
        data: where to read.
        recipe: with the name and the width of the network.

    Returns:
        The features of the training images and of the validation images, `FEATURE_IMAGES` at most of each.
    """
    folders = data.train_records, data.validation_records
    images = sum(min(records_folder.read_records_info(folder).images, FEATURE_IMAGES) for folder in folders)
    compute = _feature_computer(network, data, recipe, images)
    training, validation = (compute(folder, mirrored=False, max_images=FEATURE_IMAGES) for folder in folders)
    return training, validation


def _feature_computer(network: Any, data: FeedSource, recipe: Recipe, images: int) -> Callable[..., CachedFeatures]:
    """Returns `compute_features` for folders with so many images in all."""
    settings = {"image_size": data.image_size, "scratch": data.scratch}
    forward = forward_to_features(network, recipe, images=images, **settings)
    width = network.layers[-1].input.shape[-1]
    return partial(compute_features, forward, width, crop=data.crop, **settings)
