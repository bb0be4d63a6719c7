"""The devices that a training runs on: the CPU, one or more GPUs, or several machines."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kfp_vision.core.errors import InputError, UnreachableError
from kfp_vision.core.frameworks import tf
from kfp_vision.training.tf_config import WorkerLost

# What TensorFlow's errors say where a worker is gone: of a collective operation, its connection, or the service of worker 0.
OF_LOST_WORKERS = ("ollective", "Socket closed", "Connection reset", "oordination", "failed to connect", "heartbeat")


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
    for gpu in used:
        tf.config.experimental.set_memory_growth(gpu, True)
    if len(_workers(environment)) > 1:
        try:
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
        except tf.errors.UnknownError as error:
            rule, reason = "a worker must be able to listen at its own address in TF_CONFIG", error.message.splitlines()[0]
            raise UnreachableError(rule, f"{_own_address(environment)} ({reason})", "Choose a free port above 1023.") from None
        _take_sigterm_back()
        return strategy
    return tf.distribute.MirroredStrategy() if len(used) > 1 else tf.distribute.get_strategy()


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
    task = json.loads(environment.get("TF_CONFIG") or "{}").get("task", {})
    return (workers.index((task["type"], int(task["index"]))), len(workers)) if len(workers) > 1 else (0, 1)


def _workers(environment: Mapping[str, str]) -> list[tuple[str, int]]:
    cluster = json.loads(environment.get("TF_CONFIG") or "{}").get("cluster", {})
    return [(kind, index) for kind in ("chief", "worker") for index in range(len(cluster.get(kind, ())))]


def _own_address(environment: Mapping[str, str]) -> str:
    config = json.loads(environment["TF_CONFIG"])
    return str(config["cluster"][config["task"]["type"]][int(config["task"]["index"])])


def describe_devices(environment: Mapping[str, str] = os.environ) -> str:
    """Describes the devices, such as `2 GPUs` or `the CPU of each of 2 workers`.

    Args:
        environment: environment variables of the process.
    """
    gpus = len(tf.config.get_visible_devices("GPU"))
    each = f"{gpus} GPU{'s' if gpus > 1 else ''}" if gpus else "the CPU"
    workers = rank_and_size(environment)[1]
    return f"{each} of each of {workers} workers" if workers > 1 else each


def uses_xla(setting: str, gpus: int, environment: Mapping[str, str] = os.environ) -> bool:
    """Returns whether training steps are compiled with XLA.

    Several workers are not by `auto`: for processors XLA has no sums over machines, and for GPUs that was not tried.

    Args:
        setting: `xla` of `advanced`.
        gpus: GPUs that this worker uses.
        environment: environment variables of the process.
    """
    if rank_and_size(environment)[1] > 1:
        return setting == "on" and gpus > 0
    return setting == "on" or (setting == "auto" and gpus == 1)


def describe_first_step(setting: str, gpus: int) -> str:
    """Says what the first step of a network waits for on a GPU; empty if for nothing long.

    Args:
        setting: `xla` of `advanced`.
        gpus: GPUs that this worker uses.
    """
    if not gpus or not uses_xla(setting, gpus):
        return ""
    # Measured on an H200 with Inception v1 in bfloat16, batch size 128: 143 seconds, and 17 without; 6,470 and 3,585 images/s.
    return (
        "compiles the training step with XLA: the first step takes two or three minutes; "
        'advanced={"xla": "off"} starts within half a minute, and trains at half the speed'
    )


def distribute_batches(spread: tf.distribute.Strategy, batches: Callable[[tuple[int, int]], Iterator[Any]]) -> Iterator[Any]:
    """Yields batches as `Strategy.run` expects them: one slice per device.

    Args:
        spread: the distribution strategy.
        batches: function that returns an iterator over the i-th of n equal slices of every batch, for (i, n).

    Yields:
        One batch per step; a distributed value if there are several devices.
    """
    devices = spread.num_replicas_in_sync
    if devices == 1:
        yield from batches((0, 1))
        return
    rank, workers = rank_and_size()
    first = rank * devices // workers
    streams = [batches((place, devices)) for place in range(first, first + devices // workers)]
    for slices in zip(*streams, strict=True):
        yield tuple(_one_per_device(spread, values, first) for values in zip(*slices, strict=True))


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
