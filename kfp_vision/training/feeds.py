"""What a training learns from, step by step: pictures, or what the part of the network that is not trained makes of them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from kfp_vision import hardware, inputs, networks, records
from kfp_vision.training import frozen
from kfp_vision.training.recipe import Recipe

Batches = Iterator[tuple[tf.Tensor, tf.Tensor]]
VALIDATION_BATCH = 64
CACHE_SHARE = 4  # of the memory, the part that decoded pictures may take
VALIDATION_PICTURES = 512  # for the learning curve; the evaluation stage looks at all


class Data(NamedTuple):
    """Folders of records, the height and width of the pictures in pixels, and a folder to work in."""

    train_records: Path
    validation_records: Path
    image_size: int
    scratch: Path


class Feed(NamedTuple):
    """What is trained, and with what.

    Attributes:
        model: the network or its end.
        batches: gives batches without end, from the number of a step and the part of each batch that is wanted: (i, n) for the
            i-th of n equal slices.
        validation: what the model is measured with while it is trained, or nothing.
    """

    model: Any
    batches: Callable[[int, tuple[int, int]], Batches]
    validation: tf.data.Dataset | None


def pictures(whole: Any, data: Data, recipe: Recipe, advanced: Mapping[str, Any]) -> Feed:
    """All layers learn from pictures, which are varied each time they are seen."""
    memory = hardware.memory() // CACHE_SHARE if advanced["cache_pictures"] else 0

    def batches(first_step: int, part: tuple[int, int]) -> Batches:
        return inputs.training_batches(
            data.train_records,
            image_size=data.image_size,
            batch_size=recipe.batch_size,
            seed=advanced["seed"],
            augmentation=inputs.Augmentation(**{f.name: advanced[f.name] for f in fields(inputs.Augmentation)}),
            first_step=first_step,
            part=part,
            memory=memory,
        )

    measured = inputs.evaluation_batches(data.validation_records, image_size=data.image_size, batch_size=VALIDATION_BATCH)
    some = bool(records.read_about(data.validation_records).images)
    return Feed(whole, batches, measured.take(VALIDATION_PICTURES // VALIDATION_BATCH) if some else None)


def features(whole: Any, data: Data, recipe: Recipe, advanced: Mapping[str, Any]) -> Feed:
    """The class layer alone learns, from features that are computed once."""
    body, last = networks.parted(whole)
    learned = frozen.features(body, data.train_records, data.image_size, data.scratch, mirrored=advanced["flip"])
    measured = frozen.features(body, data.validation_records, data.image_size, data.scratch, mirrored=False)
    print(f"computed the features of {len(learned.labels) + len(measured.labels)} pictures, once for all steps", flush=True)

    def batches(first_step: int, part: tuple[int, int]) -> Batches:
        order = {"batch_size": recipe.batch_size, "seed": advanced["seed"], "first_step": first_step}
        return frozen.training_batches(learned, part=part, **order)

    return Feed(last, batches, frozen.batches(measured) if len(measured.labels) else None)
