"""What a training runs on: the processor, a GPU, the GPUs of a pod, or several machines."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from kfp_vision.errors import InputError


def strategy(gpu_count: int, environment: Mapping[str, str] = os.environ) -> tf.distribute.Strategy:
    """How the steps are spread over what there is; to be called before anything else of TensorFlow.

    Several machines take part when `TF_CONFIG` names more than one worker, as Kubeflow's training operator sets it.

    Args:
        gpu_count: GPUs to compute on, on each machine; 0 for none.
        environment: of the process.

    Raises:
        InputError: a pod sees fewer GPUs than were asked for. Elsewhere there is a warning.
    """
    visible = tf.config.list_physical_devices("GPU")
    if gpu_count > len(visible):
        found = f"gpu_count={gpu_count} and {len(visible)} visible"
        if "KUBERNETES_SERVICE_HOST" in environment:
            remedy = "Set gpu_count to what a node has, and gpu_type to its resource, or gpu_count to 0."
            raise InputError("gpu_count must not be above the GPUs that are visible", found, remedy)
        rest = f"{len(visible)} of them" if visible else "the processor"
        print(f"warning: {found}: this trains on {rest}", flush=True)
    used = visible[:gpu_count]
    tf.config.set_visible_devices(used, "GPU")
    for gpu in used:
        tf.config.experimental.set_memory_growth(gpu, True)
    if len(_workers(environment)) > 1:
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.MirroredStrategy() if len(used) > 1 else tf.distribute.get_strategy()


def worker(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Which worker this process is, from 0, and how many there are. The first is the chief: it writes what is written."""
    workers = _workers(environment)
    task = json.loads(environment.get("TF_CONFIG") or "{}").get("task", {})
    return (workers.index((task["type"], int(task["index"]))), len(workers)) if len(workers) > 1 else (0, 1)


def _workers(environment: Mapping[str, str]) -> list[tuple[str, int]]:
    cluster = json.loads(environment.get("TF_CONFIG") or "{}").get("cluster", {})
    return [(kind, index) for kind in ("chief", "worker") for index in range(len(cluster.get(kind, ())))]


def said(used: tf.distribute.Strategy, environment: Mapping[str, str] = os.environ) -> str:
    """Such as `2 GPUs` or `the processor of each of 2 workers`."""
    gpus = len(tf.config.get_visible_devices("GPU"))
    each = f"{gpus} GPU{'s' if gpus > 1 else ''}" if gpus else "the processor"
    workers = worker(environment)[1]
    return f"{each} of each of {workers} workers" if workers > 1 else each


def distributed(used: tf.distribute.Strategy, batches: Callable[[tuple[int, int]], Iterator[Any]]) -> Iterator[Any]:
    """Batches as `Strategy.run` takes them: every device gets its slice.

    Args:
        used: what `strategy` gave.
        batches: gives, of every batch, the i-th of n equal slices, by (i, n).
    """
    devices = used.num_replicas_in_sync
    if devices == 1:
        yield from batches((0, 1))
        return
    number, workers = worker()
    first = number * devices // workers
    streams = [batches((place, devices)) for place in range(first, first + devices // workers)]
    for slices in zip(*streams, strict=True):
        yield tuple(_one_each(used, values, first) for values in zip(*slices, strict=True))


def _one_each(used: tf.distribute.Strategy, values: Sequence[tf.Tensor], first: int) -> Any:
    """Of each device of this worker its value; the first one has this number among all."""
    return used.experimental_distribute_values_from_function(lambda at: values[at.replica_id_in_sync_group - first])


def wait_for_all(used: tf.distribute.Strategy) -> None:
    """Returns when every worker has come here: one that ends before takes the others for lost, and they it."""
    if worker()[1] > 1:
        tf.function(lambda: used.reduce("SUM", used.run(lambda: tf.constant(1.0)), axis=None))()
