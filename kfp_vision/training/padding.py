"""Batches of one size: a function is traced again, and compiled again by XLA, for a smaller last batch."""

import math
from collections.abc import Callable

from kfp_vision.core.frameworks import tf

Function = Callable[[tf.Tensor], tf.Tensor]


def of_one_size(function: Function) -> Function:
    """Returns a function of batches that calls another one with batches of one size, that of the first one.

    Args:
        function: computes a result for each item of a batch, (batch, ...) to (batch, ...), independently of the others.

    Returns:
        The function. It pads a batch that is smaller than the first one with zeros, and drops their results.
    """
    size = 0

    def padded(batch: tf.Tensor) -> tf.Tensor:
        nonlocal size
        size = size or len(batch)
        missing = size - len(batch)
        if missing <= 0:
            return function(batch)
        return function(tf.pad(batch, [[0, missing]] + [[0, 0]] * (len(batch.shape) - 1)))[:-missing]

    return padded


def even_batch_size(items: int, most: int) -> int:
    """Returns the batch size that divides items into as few batches as possible, of sizes as equal as possible.

    So that at most one item per batch is missing in the last one, and little is computed for its padding.

    Args:
        items: number of items, at least 1.
        most: largest batch size.
    """
    return math.ceil(items / math.ceil(items / most))
