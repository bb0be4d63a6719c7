"""Batches of one size, and the sizes that need little padding."""

import numpy as np
import pytest
import tensorflow as tf

from kfp_vision.training.padding import even_batch_size, of_one_size


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 3)])
def test_a_smaller_batch_is_padded_and_its_padding_dropped(shape):
    doubled = tf.function(lambda batch: 2 * batch)
    compute = of_one_size(doubled)
    values = np.random.default_rng(0).uniform(size=(10, *shape)).astype("float32")
    results = [compute(tf.constant(part)) for part in (values[:4], values[4:8], values[8:], values[:4])]
    assert [len(result) for result in results] == [4, 4, 2, 4]
    np.testing.assert_array_equal(np.concatenate(results[:3]), 2 * values)
    assert doubled.experimental_get_tracing_count() == 1


def test_even_batches_miss_at_most_one_item_each():
    for items in range(1, 600):
        size = even_batch_size(items, 64)
        batches = -(-items // 64)
        assert size <= 64 and batches * size - size < items <= batches * size
        assert batches * size - items < batches
