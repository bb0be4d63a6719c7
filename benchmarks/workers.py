"""Counts what the workers of a training send each other at each step: `python -m benchmarks workers`.

Workers on one machine reach each other through proxies that count the bytes, and the calls of gRPC. Two trainings that differ
in their number of steps give what one step sends, without the start and the end. A ring sends each worker's gradients
2(n - 1)/n times, and no all-reduce sends less (Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms, 2009).
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks import training_stage
from benchmarks.measure import Figure, report
from kfp_vision.dataset.label_map import read_labels
from kfp_vision.training import tf_config
from kfp_vision.training.recipe import Recipe
from kfp_vision.training.trainer import build_network
from kfp_vision.training.worker import WorkerJob

WORKERS = (2, 4)
NETWORK, IMAGE_SIZE, BATCH = "googlenet", 64, 8
STEPS = (2, 12)  # of the shorter and of the longer training
FLOAT = 4  # bytes of a gradient
PREFACE, FRAME_HEAD, HEADERS = 24, 9, 1  # of HTTP/2, RFC 9113: bytes before the first frame, bytes of a head, a type
MEBIBYTE = 1 << 20


class Meter:
    """A proxy before a worker, which counts what passes.

    Attributes:
        port: it listens on.
        sent: bytes that the worker has sent as answers; a ring's receivers ask for their parts.
        asked: bytes that the worker has received.
        calls: that the worker has received.
    """

    def __init__(self, target: int):
        self._target, self._listener = target, socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.sent = self.asked = self.calls = 0
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """Stops listening, and waits for the connections, which end with their processes."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
            except ConnectionRefusedError:  # the worker is not up yet: the other one tries again
                client.close()
                continue
            except OSError:
                return
            for source, sink, is_asking in ((client, server, True), (server, client, False)):
                self._threads.append(threading.Thread(target=self._pass, args=(source, sink, is_asking), daemon=True))
                self._threads[-1].start()

    def _pass(self, source: socket.socket, sink: socket.socket, is_asking: bool) -> None:
        frames, begun = bytearray(), False
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
                with self._lock:
                    self.sent += 0 if is_asking else len(data)
                    self.asked += len(data) if is_asking else 0
                if is_asking:
                    frames += data
                    if not begun and len(frames) >= PREFACE:
                        begun = True
                        del frames[:PREFACE]
                    self._count_calls(frames if begun else bytearray())
        except OSError:
            pass
        finally:
            source.close(), sink.close()

    def _count_calls(self, frames: bytearray) -> None:
        """Counts the calls in whole frames, and takes these away."""
        while len(frames) >= FRAME_HEAD:
            size = FRAME_HEAD + int.from_bytes(frames[:3], "big")
            if len(frames) < size:
                return
            with self._lock:
                self.calls += frames[3] == HEADERS
            del frames[:size]


def run() -> list[Figure]:
    """Runs this benchmark.

    Returns:
        Bytes and calls at a step of the worker that has the most of them, for each number of workers.
    """
    figures = []
    with tempfile.TemporaryDirectory() as scratch:
        training_stage.write_records("sample", Path(scratch))
        variables = gradient_sizes(len(read_labels(Path(scratch) / "labels")))
        for workers in WORKERS:
            sent, calls = per_step(Path(scratch), workers)
            limit = 2 * (workers - 1) / workers * sum(variables) * FLOAT
            name, most_bytes, most_calls = f"workers_{workers}", max(sent), max(calls)
            figures.append(
                report(
                    f"{name}_bytes", "the ring's limit", "MiB a step", [(most_bytes / MEBIBYTE, limit / MEBIBYTE)], less=True
                )
            )
            one = 2.0 * (workers - 1)
            figures.append(report(f"{name}_calls", "a single all-reduce", "calls a step", [(most_calls, one)], less=True))
    return figures


def gradient_sizes(classes: int) -> list[int]:
    """Returns the number of values of each variable that is trained.

    Args:
        classes: number of classes.
    """
    network = build_network(NETWORK, classes, "float32", image_size=IMAGE_SIZE)
    return [int(variable.numpy().size) for variable in network.trainable_variables]


def per_step(folder: Path, workers: int) -> tuple[list[float], list[float]]:
    """Measures what one step sends.

    Args:
        folder: with the records of `training_stage.write_records`.
        workers: how many.

    Returns:
        Bytes that each worker sends at a step, and calls that it receives, by rank.
    """
    short, long = (traffic(folder, workers, steps) for steps in STEPS)
    between = STEPS[1] - STEPS[0]

    def per_worker(before: list[int], after: list[int]) -> list[float]:
        return [(more - less) / between for less, more in zip(before, after, strict=True)]

    return per_worker(short[0], long[0]), per_worker(short[1], long[1])


def traffic(folder: Path, workers: int, steps: int) -> tuple[list[int], list[int]]:
    """Trains, and counts what each worker sends.

    Args:
        folder: with the records of `training_stage.write_records`.
        workers: how many.
        steps: of the training.

    Returns:
        Bytes and calls of each worker, by rank.
    """
    recipe = replace(_recipe(), train_steps=steps)
    names = ("model", "events", "page", "metrics")
    places = {"train_records": folder / "records" / "train", "validation_records": folder / "records" / "validation"}
    places |= {"label_map": folder / "labels"} | {name: folder / f"{workers}-{steps}-{name}" for name in names}
    job = folder / f"{workers}-{steps}-job"
    WorkerJob(recipe.to_form(), **{name: str(place) for name, place in places.items()}).write(str(job))
    own = tf_config.local_addresses(workers)
    with _meters(own) as meters:
        processes = []
        for rank in range(workers):
            addresses = [own[at] if at == rank else f"127.0.0.1:{meter.port}" for at, meter in enumerate(meters)]
            environment = os.environ | {tf_config.TF_CONFIG: tf_config.of_addresses(addresses, rank)}
            command = [sys.executable, "-m", "kfp_vision.training.worker", str(job), "--parent", str(os.getpid())]
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            processes.append(subprocess.Popen(command, env=environment, **quiet))  # type: ignore[call-overload]
        if statuses := [status for process in processes if (status := process.wait())]:
            raise RuntimeError(f"workers ended with {json.dumps(statuses)}")
        return [meter.sent + meter.asked for meter in meters], [meter.calls for meter in meters]


def _recipe() -> Recipe:
    recipe = training_stage.recipe(BATCH)
    advanced = replace(
        recipe.advanced, precision="float32", profile_steps=0, moving_average_decay=0.0, validate_every_steps=STEPS[1]
    )
    return replace(recipe, network=NETWORK, image_size=IMAGE_SIZE, advanced=advanced)


@contextmanager
def _meters(addresses: Sequence[str]) -> Iterator[list[Meter]]:
    with ExitStack() as stack:
        meters = [Meter(int(address.rpartition(":")[2])) for address in addresses]
        for meter in meters:
            stack.callback(meter.close)
        yield meters
