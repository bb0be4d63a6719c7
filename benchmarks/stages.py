"""Measures the resources of each stage: `python -m benchmarks.stages FOLDER PIPELINE IMAGES [NAME=VALUE ...]`.

Runs the pipeline in a new folder and prints one row of Markdown per stage. The pods in `kfp_vision.pipelines.pods` leave room
above these figures; there is no peer.
"""

import contextlib
import itertools
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil

from benchmarks import photographs, scale
from kfp_vision.cli import commands
from kfp_vision.cli import run as cli_run
from kfp_vision.cli.run import form_fields
from kfp_vision.pipelines import PIPELINES

MOMENT = 0.05  # minimum seconds between two samples of the processes
REST = 10  # minimum pause, as a multiple of the duration of a sample
STEPS = 60
ACCEPT_ANY = {"advanced": {"beat_largest_class": False}}  # so that a model after so few steps is deployed
FUNCTION = "--function_to_execute"  # precedes the stage's name in KFP's command
MIB = 1 << 20


def main(folder: str, name: str, count: str, *given: str) -> None:
    """Runs a pipeline on a number of images and prints the rows.

    Args:
        folder: folder to create.
        name: name of the pipeline.
        count: number of images.
        *given: fields as NAME=VALUE.
    """
    root, pipeline = Path(folder).absolute(), PIPELINES[name]
    kinds = form_fields(pipeline)
    short = _short(root, int(count)) | (ACCEPT_ANY if "min_accuracy" in kinds else {})
    values = {known: value for known, value in short.items() if known in kinds} | commands.parse_assignments(given, kinds)
    watch = Watch()
    watch.start()
    seconds = cli_run.run(pipeline, values, root / "runs")["seconds"]
    for stage, (processor, memory, written) in watch.stop().items():
        print(f"| `{stage}` | {seconds[stage]:.0f} | {processor:.1f} | {memory / MIB:.0f} | {written / MIB:.0f} |")


def _short(root: Path, count: int) -> dict[str, Any]:
    """Returns fields that give every stage something to do, but the training only a few steps from random weights."""
    pictures = str(_pictures(root / "pictures", count))
    training = {"fine_tune": False, "gpu_count": 0, "train_steps": STEPS}
    return training | {"images_uri": pictures, "predict_uri": pictures, "deploy_to": str(root / "repository")}


def _pictures(folder: Path, count: int) -> Path:
    """Creates a folder of class folders with photographs, repeated as often as needed, no two files alike."""
    repeated = itertools.islice(itertools.cycle(photographs.read_images()), count)
    for number, (name, encoded) in enumerate(repeated):
        label = Path(name).parent
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / f"{number}.jpg").write_bytes(scale.make_unique(encoded, number))
    return folder


class Watch(threading.Thread):
    """Samples the processes that this one starts for stages, one stage at a time."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._process, self._over = psutil.Process(), threading.Event()
        self._before: dict[str, tuple[float, int]] = {}  # resources used before each stage
        self._memory: dict[str, int] = defaultdict(int)

    def run(self) -> None:
        """Samples until stopped."""
        pause = MOMENT
        while not self._over.wait(pause):
            start = time.perf_counter()
            children = self._process.children(recursive=True)
            if stage := next(filter(None, map(_stage, children)), ""):
                self._before.setdefault(stage, self._spent())
                self._memory[stage] = max(self._memory[stage], sum(map(_memory, children)))
            pause = max(MOMENT, REST * (time.perf_counter() - start))

    def stop(self) -> dict[str, tuple[float, int, int]]:
        """Stops sampling.

        Returns:
            CPU seconds, peak memory in bytes and bytes written, by stage.
        """
        self._over.set()
        self.join()
        totals = [*self._before.values(), self._spent()]
        used = [(after[0] - before[0], after[1] - before[1]) for before, after in itertools.pairwise(totals)]
        return {
            stage: (processor, self._memory[stage], written)
            for stage, (processor, written) in zip(self._before, used, strict=True)
        }

    def _spent(self) -> tuple[float, int]:
        """Returns CPU seconds and bytes written of all ended processes; includes bytes that this process wrote."""
        times = self._process.cpu_times()
        return times.children_user + times.children_system, self._process.io_counters().write_bytes


def _stage(process: psutil.Process) -> str:
    """Returns the stage that KFP started a process for; empty for a process that a stage started."""
    with contextlib.suppress(psutil.Error):
        words = process.cmdline()
        if FUNCTION in words:
            return str(words[words.index(FUNCTION) + 1])
    return ""


def _memory(process: psutil.Process) -> int:
    """Returns the proportional set size of a process in bytes, so that sizes of processes with shared pages add up."""
    with contextlib.suppress(psutil.Error):
        return int(process.memory_full_info().pss)
    return 0


if __name__ == "__main__":
    main(*sys.argv[1:])
