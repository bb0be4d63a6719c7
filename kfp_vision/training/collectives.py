"""What the workers of a training tell each other besides the sums of the steps, so that all decide the same.

All workers must call these functions in the same order: each waits for all others.
"""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from kfp_vision.core.errors import FieldError
from kfp_vision.core.frameworks import tf
from kfp_vision.training import devices


def gather(spread: tf.distribute.Strategy, numbers: Sequence[float]) -> npt.NDArray[np.float64]:
    """Returns what each worker gives.

    Args:
        spread: the distribution strategy.
        numbers: of this worker, as many as of each other.

    Returns:
        float64 (workers, numbers), the same on all workers.
    """
    _, workers = devices.rank_and_size()
    if workers == 1:
        return np.array([numbers], np.float64)
    replicas = spread.num_replicas_in_sync

    def place(context: Any) -> tf.Tensor:
        table = np.zeros((replicas, len(numbers)))
        table[context.replica_id_in_sync_group] = numbers
        return tf.constant(table)

    tables = spread.experimental_distribute_values_from_function(place)
    gathered: npt.NDArray[np.float64] = _sum_of(spread)(tables).numpy()[:: replicas // workers]
    return gathered


@cache  # one function for all calls: TensorFlow warns of many
def _sum_of(spread: tf.distribute.Strategy) -> Callable[[Any], tf.Tensor]:
    add = tf.function(lambda values: spread.reduce("SUM", values, axis=None), autograph=False, reduce_retracing=True)
    summed: Callable[[Any], tf.Tensor] = add
    return summed


def of_chief(spread: tf.distribute.Strategy, numbers: Sequence[float]) -> list[float]:
    """Returns what the chief gives, on all workers.

    Args:
        spread: the distribution strategy.
        numbers: of this worker; those of the chief count, of the others only how many.
    """
    return [float(number) for number in gather(spread, numbers)[0]]


def wait_for_workers(spread: tf.distribute.Strategy) -> None:
    """Waits for all workers: one that exits early fails the others.

    Args:
        spread: the distribution strategy.
    """
    gather(spread, [0.0])


def check_same(spread: tf.distribute.Strategy, facts: Mapping[str, Any], remedy: str) -> None:
    """Checks that all workers have the same facts.

    Args:
        spread: the distribution strategy.
        facts: JSON values, or bytes, by name; the same names on all workers.
        remedy: what to do if they differ.

    Raises:
        FieldError: a worker has others than the chief.
    """
    table = gather(spread, [_checksum(value) for value in facts.values()])
    for rank, row in enumerate(table):
        if different := [name for name, is_same in zip(facts, row == table[0], strict=True) if not is_same]:
            rule = f"all workers of a training must have the same {different[0]}"
            raise FieldError(rule, f"another in worker {rank} than in worker 0", remedy)


def _checksum(value: Any) -> int:
    return zlib.crc32(value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode())
