"""Trains with as many workers as the form says: in this process, in several on this machine, or in pods of a cluster."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kfp_vision.core import children, hardware, json_text, kube_config
from kfp_vision.core.errors import InputError
from kfp_vision.core.subprocesses import SIGTERM_STATUS
from kfp_vision.storage import unwritable
from kfp_vision.storage.atomic import temporary_folder
from kfp_vision.training import checkpointing, tf_config
from kfp_vision.training.divergence import error_of_worker
from kfp_vision.training.recipe import Recipe
from kfp_vision.training.worker import INPUT_ERROR_STATUS, LOST_STATUS, WorkerJob

MAX_RESTARTS = 3  # of all workers, after the loss or the failure of one
GRACE_SECONDS = 30.0  # for the other workers to end by themselves once one has ended
POLL_SECONDS = 0.1
LINES_KEPT = 50  # of each worker's output, to say why it failed
ANY_NODES: Mapping[str, Any] = {"gpu_type": "nvidia.com/gpu", "node_selector": {}, "tolerations": []}
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"}


@unwritable.in_one_line("model", "events", "page")
def train(
    recipe: Recipe,
    train_records: Path,
    validation_records: Path,
    label_map: Path,
    *,
    model: Path,
    events: Path,
    page: Path,
    nodes: Mapping[str, Any] = ANY_NODES,
) -> dict[str, float]:
    """Trains a classifier with `recipe.workers` workers; see `train.train_classifier`.

    On a cluster they are pods of a job; see `follow_job.train`. On one machine they are processes that talk over its loopback.
    If one is lost, all are started again, and resume from `checkpoint_dir`; without one, from the beginning.

    Args:
        recipe: how to train.
        train_records: folder of records.
        validation_records: folder of records, maybe empty.
        label_map: folder with `labels.txt`.
        model: folder to write.
        events: folder to write for TensorBoard.
        page: page of learning curves to write (HTML).
        nodes: the fields gpu_type, node_selector and tolerations of the form, by which a cluster chooses machines.

    Returns:
        The metrics; see `train.train_classifier`.

    Raises:
        InputError: see `train.train_classifier`; or a worker failed, or was lost too often.
        SystemExit: the process received SIGTERM.
    """
    outputs = {"model": model, "events": events, "page": page}
    if recipe.workers == 1 or tf_config.TF_CONFIG in os.environ:
        if config := os.environ.get(tf_config.TF_CONFIG):
            tf_config.check(config)
            tf_config.resolve_hosts(config)
        from kfp_vision.training.train import train_classifier  # imports TensorFlow, which only workers need

        return train_classifier(recipe, train_records, validation_records, label_map, **outputs)
    if kube_config.is_stage():
        from kfp_vision.training import follow_job  # imports the client of Kubernetes

        return follow_job.train(recipe, nodes, train_records, validation_records, label_map, **outputs)
    with temporary_folder() as scratch:
        inputs = {"train_records": train_records, "validation_records": validation_records, "label_map": label_map}
        files = inputs | outputs | {"metrics": scratch / "metrics.json"}
        recipe = _with_gpus_at_hand(recipe)
        WorkerJob(recipe.to_form(), **{name: str(file.absolute()) for name, file in files.items()}).write(str(scratch / "job"))
        _run_to_the_end(recipe, str(scratch / "job"))
        reached: dict[str, float] = json_text.parse((scratch / "metrics.json").read_text())
        return reached


def _with_gpus_at_hand(recipe: Recipe) -> Recipe:
    """Takes the processor for all workers if this machine lacks GPUs for some: they cannot be mixed."""
    wanted, found = recipe.workers * recipe.gpu_count, hardware.count_gpus()
    if wanted <= found:
        return recipe
    print(
        f"warning: {recipe.workers} workers with gpu_count={recipe.gpu_count}, and {found} here: training on the CPU",
        flush=True,
    )
    return replace(recipe, gpu_count=0)


def _run_to_the_end(recipe: Recipe, job: str) -> None:
    """Starts all workers, and again after a loss, until the training is done.

    Raises:
        InputError: a worker failed, or was lost too often.
        SystemExit: this process received SIGTERM.
    """
    for restarts in range(MAX_RESTARTS + 1):
        ended = _run_once(recipe, job)
        failed = next((worker for worker in ended if worker.status), None)
        if failed is None:
            return
        if failed.status in (SIGTERM_STATUS, -signal.SIGTERM):
            raise SystemExit(SIGTERM_STATUS)
        reason = f"worker {failed.rank} of {recipe.workers}: {children.describe_failure(failed.status, list(failed.lines))}"
        if failed.status == INPUT_ERROR_STATUS:
            raise error_of_worker(f"{InputError.PREFIX}{reason.partition(': ')[2]}")
        if restarts < MAX_RESTARTS:
            print(f"{reason}; starts all again, {restarts + 1} of at most {MAX_RESTARTS} times", flush=True)
    rule = f"all workers must stay until the end of the training, or be lost at most {MAX_RESTARTS} times"
    raise InputError(rule, reason, "Train with fewer workers, or a smaller batch_size if memory ran out.")


@dataclass
class _Worker:
    """A worker's process, and the end of its output."""

    rank: int
    process: subprocess.Popen[str]
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=LINES_KEPT))
    status: int = 0

    def show(self) -> None:
        """Keeps the last lines of the output, and prints those of the first worker; its error is for the stage to print."""
        assert self.process.stdout
        with self.process.stdout as output:
            for line in output:
                if line.strip():
                    self.lines.append(line.rstrip("\n"))
                    if self.rank == 0 and not line.startswith(InputError.PREFIX):
                        print(line, end="", flush=True)


def _run_once(recipe: Recipe, job: str) -> list[_Worker]:
    """Starts all workers, and waits until all have ended; returns them in the order in which they failed."""
    with checkpointing.sigterm_event() as stop, _started(recipe, job) as workers:
        running, ended, deadline, told = list(workers), list[_Worker](), float("inf"), False
        while running:
            if stop.is_set() and not told:
                told = True
                for worker in running:
                    worker.process.terminate()
            for worker in [worker for worker in running if worker.process.poll() is not None]:
                running.remove(worker)
                ended.append(worker)
                worker.status = int(worker.process.returncode)
                if worker.status:
                    deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
            if time.monotonic() > deadline:
                for worker in running:
                    worker.process.kill()
            time.sleep(POLL_SECONDS)
    # A worker that only says that another one is lost is not the one that failed.
    return sorted(ended, key=lambda worker: worker.status == LOST_STATUS)


@contextmanager
def _started(recipe: Recipe, job: str) -> Iterator[Sequence[_Worker]]:
    """Starts the workers' processes, which end with this one, and reads what they print."""
    addresses, workers, threads = tf_config.local_addresses(recipe.workers), list[_Worker](), list[threading.Thread]()
    command = [sys.executable, "-m", "kfp_vision.training.worker", job, "--parent", str(os.getpid())]
    try:
        for rank in range(recipe.workers):
            first = rank * recipe.gpu_count
            own = {
                tf_config.TF_CONFIG: tf_config.of_addresses(addresses, rank),
                "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(first, first + recipe.gpu_count))),
            }
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=os.environ | QUIET | own,
            )
            workers.append(_Worker(rank, process))
            threads.append(threading.Thread(target=workers[-1].show))
            threads[-1].start()
        yield workers
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait()
        for thread in threads:
            thread.join()
