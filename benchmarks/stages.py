"""What each stage takes: `python -m benchmarks.stages FOLDER PIPELINE PICTURES [NAME=VALUE ...]` runs one in a new folder.

Prints a row of Markdown a stage. The pods of `kfp_vision.pipelines.pods` leave room above these figures; there is no peer.
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
from kfp_vision import cli, local_run
from kfp_vision.pipelines import PIPELINES

MOMENT = 0.05  # seconds between two looks at the processes...
REST = 10  # ...and at least so many times as long as a look takes
STEPS = 60
JUDGED = {"advanced": {"beat_largest_class": False}}  # after so few steps, or nothing would be deployed
FUNCTION = "--function_to_execute"  # the name of a stage stands behind it, where KFP starts one
MIB = 1 << 20


def main(folder: str, name: str, count: str, *given: str) -> None:
    """Runs a pipeline on so many pictures, with some of its fields given, and prints the rows."""
    root, pipeline = Path(folder).absolute(), PIPELINES[name]
    kinds = local_run.fields(pipeline)
    short = _short(root, int(count)) | (JUDGED if "min_accuracy" in kinds else {})
    values = {known: value for known, value in short.items() if known in kinds} | cli.parsed(given, kinds)
    watch = Watch()
    watch.start()
    seconds = local_run.run(pipeline, values, root / "runs")["seconds"]
    for stage, (processor, memory, written) in watch.stop().items():
        print(f"| `{stage}` | {seconds[stage]:.0f} | {processor:.1f} | {memory / MIB:.0f} | {written / MIB:.0f} |")


def _short(root: Path, count: int) -> dict[str, Any]:
    """Fields with which every stage has something to do, and the training little: few steps from random weights."""
    pictures = str(_pictures(root / "pictures", count))
    training = {"fine_tune": False, "gpu_count": 0, "train_steps": STEPS}
    return training | {"images_uri": pictures, "predict_uri": pictures, "deploy_to": str(root / "repository")}


def _pictures(folder: Path, count: int) -> Path:
    """Makes a folder with a folder a class: the photographs over and over, no two files of the same bytes."""
    over_and_over = itertools.islice(itertools.cycle(photographs.read()), count)
    for number, (name, encoded) in enumerate(over_and_over):
        label = Path(name).parent
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / f"{number}.jpg").write_bytes(scale.numbered(encoded, number))
    return folder


class Watch(threading.Thread):
    """Looks at the processes that this one starts for stages, one stage at a time."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._process, self._over = psutil.Process(), threading.Event()
        self._before: dict[str, tuple[float, int]] = {}  # what had been spent when a stage was first seen
        self._memory: dict[str, int] = defaultdict(int)

    def run(self) -> None:
        rest = MOMENT
        while not self._over.wait(rest):
            start = time.perf_counter()
            below = self._process.children(recursive=True)
            if stage := next(filter(None, map(_stage, below)), ""):
                self._before.setdefault(stage, self._spent())
                self._memory[stage] = max(self._memory[stage], sum(map(_memory, below)))
            rest = max(MOMENT, REST * (time.perf_counter() - start))

    def stop(self) -> dict[str, tuple[float, int, int]]:
        """Of each stage, the seconds of processors, and the bytes of memory that it held at most and that it wrote to files."""
        self._over.set()
        self.join()
        spent = [*self._before.values(), self._spent()]
        taken = [(after[0] - before[0], after[1] - before[1]) for before, after in itertools.pairwise(spent)]
        return {
            stage: (processor, self._memory[stage], written)
            for stage, (processor, written) in zip(self._before, taken, strict=True)
        }

    def _spent(self) -> tuple[float, int]:
        """Seconds of processors and bytes written by all processes that have ended; what wrote to files here counts as well."""
        times = self._process.cpu_times()
        return times.children_user + times.children_system, self._process.io_counters().write_bytes


def _stage(process: psutil.Process) -> str:
    """The stage that KFP started a process for; empty of those that the stage itself has started."""
    with contextlib.suppress(psutil.Error):
        words = process.cmdline()
        if FUNCTION in words:
            return words[words.index(FUNCTION) + 1]
    return ""


def _memory(process: psutil.Process) -> int:
    """Bytes of memory, of pages that several processes share each its part: so that those of all can be added up."""
    with contextlib.suppress(psutil.Error):
        return process.memory_full_info().pss
    return 0


if __name__ == "__main__":
    main(*sys.argv[1:])
