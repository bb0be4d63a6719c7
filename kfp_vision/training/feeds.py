"""The input of a training: batches of images, or of features that are computed once."""

import math
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
    ValidationBatches,
    cache_features,
    compute_features,
    training_batches,
)
from kfp_vision.training.frozen_layers import Forward, forward_pass
from kfp_vision.training.padding import even_batch_size
from kfp_vision.training.recipe import Recipe

Batches = Iterator[tuple[tf.Tensor, tf.Tensor]]
MAX_VALIDATION_BATCH = 64
CACHE_DIVISOR = 4  # decoded images may take this fraction of the memory: 1/4
MAX_VIEWS = 12  # of an image, whose features are computed once: as many as epochs pay, see benchmarks/README.md
FEATURE_BYTES = 2  # float16
MAX_VIEW_BYTES = 4 << 30  # on the disk, for all views
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

    held_out = min(_count(data.validation_records), VALIDATION_IMAGES)
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
    flip = recipe.advanced.flip
    images = _count(data.train_records) * (2 if flip else 1) + (_count(data.validation_records) if validates else 0)
    compute = partial(_compute, _forward_pass(network, _body, data, recipe, images), data)
    training = compute(data.train_records, mirrored=flip)
    validation = compute(data.validation_records) if validates else None
    return _feed_of_features(head, training, validation, recipe)


def block_feed(network: Any, data: FeedSource, recipe: Recipe) -> Feed:
    """Feeds the last blocks with what the frozen layers before them make of augmented images, `MAX_VIEWS` of each at most.

    Where no layer is frozen, and where that would take more than `MAX_VIEW_BYTES`, it feeds images to the whole network.

    Args:
        network: the Keras model.
        data: where to read.
        recipe: how to train.

    Returns:
        Batches of features, float32 (batch, rows, columns, channels), and labels as in `input_pipeline`.

    Raises:
        InputError: the features of an image are no numbers, or too large to train on.
    """
    images, layer = image_feed(network, data, recipe), networks.find_frozen_part(network)
    views = min(MAX_VIEWS * _count(data.train_records), recipe.train_steps * recipe.batch_size)
    if not layer or views * FEATURE_BYTES * math.prod(network.get_layer(layer).output.shape[1:]) > MAX_VIEW_BYTES:
        return images
    _, blocks = networks.split_at(network, layer)
    held_out = min(_count(data.validation_records), VALIDATION_IMAGES)
    forward = _forward_pass(network, lambda model: networks.split_at(model, layer)[0], data, recipe, views + held_out)
    batches = ((images.prepare(pixels), labels) for pixels, labels in images.batches(0, (0, 1)))
    training = cache_features(forward, batches, views, data.scratch)
    validation = _compute(forward, data, data.validation_records, max_images=held_out)
    return _feed_of_features(blocks, training, validation, recipe)._replace(features=None)


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
    images = sum(min(_count(folder), FEATURE_IMAGES) for folder in folders)
    forward = _forward_pass(network, _body, data, recipe, images)
    training, validation = (_compute(forward, data, folder, max_images=FEATURE_IMAGES) for folder in folders)
    return training, validation


def _count(records: Path) -> int:
    return records_folder.read_records_info(records).images


def _body(network: Any) -> Any:
    return networks.split_head(network)[0]


def _forward_pass(network: Any, part: Callable[[Any], Any], data: FeedSource, recipe: Recipe, images: int) -> Forward:
    return forward_pass(network, part, recipe, image_size=data.image_size, images=images, scratch=data.scratch)


def _compute(
    forward: Forward, data: FeedSource, folder: Path, *, mirrored: bool = False, max_images: int | None = None
) -> CachedFeatures:
    return compute_features(
        forward, folder, data.image_size, data.scratch, mirrored=mirrored, crop=data.crop, max_images=max_images
    )


def _feed_of_features(model: Any, training: CachedFeatures, validation: CachedFeatures | None, recipe: Recipe) -> Feed:
    """Returns the feed of a model of features that are computed; raises InputError if some cannot be trained on."""
    if training.overflowing:
        rule = f"the features of each image must be numbers of at most {LARGEST_FEATURE} to train the layers after them alone"
        found = f"{training.overflowing} of {len(training.labels)} with others"
        settings = "train_last_layer_only=false, and neither head_steps nor train_last_blocks_only in advanced"
        raise InputError(rule, found, f"Start from weights that are trained, or train all layers: {settings}.")
    images = len(training.labels) + (len(validation.labels) if validation else 0)
    print(f"computed the features of {images} images, once for all steps", flush=True)

    def batches(first_step: int, part: tuple[int, int]) -> Batches:
        order = {"batch_size": recipe.batch_size, "seed": recipe.advanced.seed, "first_step": first_step}
        return training_batches(training, part=part, **order)

    if not validation or not len(validation.labels):
        return Feed(model, batches, None)
    return Feed(model, batches, ValidationBatches(validation), (training, validation))
