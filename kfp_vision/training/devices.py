"""The devices that a training runs on: the CPU, one or more GPUs, or several machines."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kfp_vision.core import hardware, json_text, threads
from kfp_vision.core.errors import InputError, UnreachableError
from kfp_vision.core.frameworks import tf
from kfp_vision.training.tf_config import WorkerLost

# What TensorFlow's errors say where a worker is gone: of a collective operation, its connection, or the service of worker 0.
OF_LOST_WORKERS = ("ollective", "Socket closed", "Connection reset", "oordination", "failed to connect", "heartbeat")

MAX_STEPS_PER_CALL, IMAGES_PER_CALL = 8, 128
BATCHES_ON_DEVICE = 2  # beside the one in use
FIRST_GPU = "GPU:0"


def choose_strategy(gpu_count: int, environment: Mapping[str, str] = os.environ) -> tf.distribute.Strategy:
    """Chooses the distribution strategy. Must be called before TensorFlow uses any device.

    Several machines take part if `TF_CONFIG` names more than one worker, as Kubeflow's training operator sets it.

    Args:
        gpu_count: GPUs to use on each machine; 0 for none.
        environment: environment variables of the process.

    Returns:
        The strategy in whose scope the model is built. Outside a pod, it uses fewer GPUs with a warning if some are missing.

    Raises:
        InputError: a pod has fewer GPUs than `gpu_count`, or a worker cannot listen at its address.
    """
    visible = tf.config.list_physical_devices("GPU")
    if gpu_count > len(visible):
        found = f"gpu_count={gpu_count} and {len(visible)} visible"
        if "KUBERNETES_SERVICE_HOST" in environment:
            remedy = "Set gpu_count to what a node has, and gpu_type to its resource, of NVIDIA's GPUs, or gpu_count to 0."
            raise InputError("gpu_count must not be above the GPUs that are visible", found, remedy)
        rest = f"{len(visible)} of them" if visible else "the CPU"
        print(f"warning: {found}: training on {rest}", flush=True)
    used = visible[:gpu_count]
    tf.config.set_visible_devices(used, "GPU")
    hardware.share_gpus()
    if len(_workers(environment)) > 1:
        try:
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
        except tf.errors.UnknownError as error:
            rule, reason = "a worker must be able to listen at its own address in TF_CONFIG", error.message.splitlines()[0]
            raise UnreachableError(rule, f"{_own_address(environment)} ({reason})", "Choose a free port above 1023.") from None
        _take_sigterm_back()
        return strategy
    return tf.distribute.MirroredStrategy() if len(used) > 1 else tf.distribute.get_strategy()


def count_gpus() -> int:
    """Returns how many GPUs this worker uses."""
    return len(tf.config.get_visible_devices("GPU"))


def _take_sigterm_back() -> None:
    """Gives SIGTERM back to Python: with several workers TensorFlow takes it, and the process would go on till SIGKILL."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def rank_and_size(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Returns the rank of this worker, from 0, and the number of workers. Rank 0 is the chief, which writes all output.

    Args:
        environment: environment variables of the process.
    """
    workers = _workers(environment)
    task = json_text.parse(environment.get("TF_CONFIG") or "{}").get("task", {})
    return (workers.index((task["type"], int(task["index"]))), len(workers)) if len(workers) > 1 else (0, 1)


def _workers(environment: Mapping[str, str]) -> list[tuple[str, int]]:
    cluster = json_text.parse(environment.get("TF_CONFIG") or "{}").get("cluster", {})
    return [(kind, index) for kind in ("chief", "worker") for index in range(len(cluster.get(kind, ())))]


def _own_address(environment: Mapping[str, str]) -> str:
    config = json_text.parse(environment["TF_CONFIG"])
    return str(config["cluster"][config["task"]["type"]][int(config["task"]["index"])])


def describe_devices(environment: Mapping[str, str] = os.environ) -> str:
    """Describes the devices, such as `2 GPUs` or `the CPU of each of 2 workers`.

    Args:
        environment: environment variables of the process.
    """
    gpus = count_gpus()
    each = f"{gpus} GPU{'s' if gpus > 1 else ''}" if gpus else "the CPU"
    workers = rank_and_size(environment)[1]
    return f"{each} of each of {workers} workers" if workers > 1 else each


def steps_per_call(gpus: int, batch_size: int) -> int:
    """Returns how many steps a GPU is given at a time: several where the batch is small, and Python would take as long as it.

    Args:
        gpus: GPUs that this worker uses.
        batch_size: images per step.
    """
    return max(1, min(MAX_STEPS_PER_CALL, IMAGES_PER_CALL // batch_size)) if gpus == 1 and rank_and_size()[1] == 1 else 1


def distribute_batches(spread: tf.distribute.Strategy, batches: Callable[[tuple[int, int]], Iterator[Any]]) -> Iterator[Any]:
    """Yields batches as `Strategy.run` expects them: one slice per device.

    Args:
        spread: the distribution strategy.
        batches: function that returns an iterator over the i-th of n equal slices of every batch, for (i, n).

    Yields:
        One batch per step; distributed values if there are several devices, and in the memory of a single GPU.
    """
    devices = spread.num_replicas_in_sync
    if devices == 1:
        yield from copy_ahead(batches((0, 1)), FIRST_GPU) if count_gpus() else batches((0, 1))
        return
    own = own_devices(spread)
    streams = [batches((place, devices)) for place in own]
    for slices in zip(*streams, strict=True):
        parts = zip(*(tf.nest.flatten(one) for one in slices), strict=True)
        yield tf.nest.pack_sequence_as(slices[0], [_one_per_device(spread, values, own.start) for values in parts])


def own_devices(spread: tf.distribute.Strategy) -> range:
    """Returns the numbers of this worker's devices among those of all workers.

    Args:
        spread: the distribution strategy.
    """
    rank, workers = rank_and_size()
    each = spread.num_replicas_in_sync // workers
    return range(rank * each, (rank + 1) * each)


def copy_ahead(batches: Iterator[Any], device: str) -> Iterator[Any]:
    """Yields batches in the memory of a device, to which the next ones are copied in a thread while one is used.

    Args:
        batches: of tensors in the memory of the machine.
        device: the device.
    """

    def copy(batch: Any) -> Any:
        with tf.device(device):
            return tf.nest.map_structure(tf.identity, batch)

    return threads.ordered_map(copy, batches, workers=1, limit=BATCHES_ON_DEVICE)


def _one_per_device(spread: tf.distribute.Strategy, values: Sequence[tf.Tensor], first: int) -> Any:
    """Makes one distributed value of those of this worker's devices; `first` is the index of its first device among all."""
    return spread.experimental_distribute_values_from_function(lambda context: values[context.replica_id_in_sync_group - first])


@contextmanager
def loss_of_workers_in_one_line(environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Turns what TensorFlow raises where another worker has ended into one line.

    Args:
        environment: environment variables of the process.

    Raises:
        WorkerLost: another worker has ended.
    """
    try:
        yield
    except tf.errors.OpError as error:
        is_ours = isinstance(
            error, tf.errors.InvalidArgumentError | tf.errors.UnimplementedError | tf.errors.ResourceExhaustedError
        )
        if is_ours or rank_and_size(environment)[1] == 1 or not any(word in error.message for word in OF_LOST_WORKERS):
            raise
        reason = f"{type(error).__name__}: {error.message.splitlines()[0]}"
        remedy = "Start all again: with a checkpoint_dir, the training goes on from the newest state."
        raise WorkerLost("all workers must stay until the end of the training", reason, remedy) from None
