"""Data stages killed at any moment: outputs are complete or missing, and a retry writes the same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import sample_images

pytestmark = pytest.mark.slow

KILLS = 20
OUTPUTS = {
    "ingest": ("images.csv", "data.html"),
    "split": ("train.csv", "validation.csv", "test.csv", "label_map", "left_out.csv"),
    "write": ("train", "validation", "test", "refused.csv", "summary.html"),
}
OUTPUTS["write_by_processes"] = OUTPUTS["write"]

# Imports everything once and forks for every run, so that a kill hits the work of a stage and not its imports. The parent kills
# its own child: the process ID of a child that was not waited for is never reused.
STAGES = """
import json, os, signal, sys, time
from functools import partial
from pathlib import Path

import google_crc32c, jinja2, matplotlib.backends.backend_svg, matplotlib.figure, PIL.Image
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from kfp_vision.dataset import ingest as ingestion
from kfp_vision.dataset import split as splitting
from kfp_vision.records import partitions

PIL.Image.init()
folder, photos = Path(sys.argv[1]), sys.argv[2]
splits = ("train", "validation", "test")
tables = {split: folder / f"{split}.csv" for split in splits}
left_out, label_map = folder / "left_out.csv", folder / "label_map"


def ingest():
    ingestion.ingest_images(photos, check_images=True, splits=3, table=folder / "images.csv", page=folder / "data.html")


def split():
    ratios = {"validation_ratio": 0.2, "test_ratio": 0.1}
    splitting.split_images(folder / "images.csv", **ratios, **tables, label_map=label_map, left_out=left_out)


def write(processes=1):
    how = {"images_per_shard": 7, "max_refused_ratio": 0.5, "left_out": left_out, "summary": folder / "summary.html"}
    how |= {"partition": 0, "partitions": 1, "processes": processes}
    outputs = {split: folder / split for split in splits}
    partitions.write_one_partition(tables, label_map, outputs, folder / "refused.csv", **how)


for line in sys.stdin:
    stage, delay = json.loads(line)
    start = time.perf_counter()
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        {"ingest": ingest, "split": split, "write": write, "write_by_processes": partial(write, 2)}[stage]()
        os._exit(0)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    print(json.dumps([os.waitstatus_to_exitcode(status), time.perf_counter() - start]), flush=True)
"""

Run = Callable[..., tuple[int, float]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory) -> Iterator[Run]:
    """Returns a function that runs a stage, optionally killed after a delay; it returns exit code and duration."""
    photos = sample_images.pictures(tmp_path_factory.mktemp("photos"), classes=3, each=40)
    (photos / "bellcup" / "broken.jpg").write_bytes((photos / "bellcup" / "0001.jpg").read_bytes()[:3000])
    (photos / "globelet" / "again.jpg").write_bytes((photos / "bellcup" / "0002.jpg").read_bytes())
    command = [sys.executable, "-c", STAGES, str(folder), str(photos)]
    scratch = {**os.environ, "TMPDIR": str(tmp_path_factory.mktemp("scratch"))}  # killed stages leave files there
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=scratch) as stages:

        def run_stage(stage: str, delay: float | None = None) -> tuple[int, float]:
            stages.stdin.write(json.dumps([stage, delay]) + "\n")
            stages.stdin.flush()
            code, seconds = json.loads(stages.stdout.readline())
            return code, seconds

        yield run_stage


@pytest.fixture(scope="module")
def undisturbed(run, folder) -> dict[str, dict[str, bytes]]:
    """Runs the stages undisturbed; returns the content of each output file by stage and path."""
    contents = {}
    for stage, outputs in OUTPUTS.items():
        assert run(stage)[0] == 0
        contents[stage] = {path: content for name in outputs for path, content in read_output(folder, name).items()}
    return contents


def read_output(folder: Path, name: str) -> dict[str, bytes]:
    """Returns the content of each file of an output, which is a file or a folder; empty if it is missing."""
    output = folder / name
    paths = [path for path in output.rglob("*") if path.is_file()] if output.is_dir() else [output] * output.exists()
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def remove(path: Path) -> None:
    for below in sorted(path.rglob("*"), reverse=True) if path.is_dir() else []:
        below.rmdir() if below.is_dir() else below.unlink()
    path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)


@pytest.mark.parametrize("stage", OUTPUTS)
def test_a_killed_stage_leaves_no_partial_output_and_a_retry_gives_the_same_bytes(run, folder, undisturbed, stage):
    chance, killed, cut_short = random.Random(stage), 0, 0
    duration = min(run(stage)[1] for _ in range(3))
    for number in range(10 * KILLS):
        if number % 2:  # alternates between no previous output and a complete one
            for name in OUTPUTS[stage]:
                remove(folder / name)
        code, seconds = run(stage, chance.uniform(0, duration))
        if code != -signal.SIGKILL:
            assert code == 0
            duration = min(duration, seconds)
            continue
        killed += 1
        for name in OUTPUTS[stage]:  # an output with its final name is complete, or missing
            expected = {path: content for path, content in undisturbed[stage].items() if path.split("/")[0] == name}
            assert not (folder / name).exists() or read_output(folder, name) == expected
        beside = {path.name for path in folder.iterdir()} - {name for outputs in OUTPUTS.values() for name in outputs}
        assert all(name.startswith(".") and name.endswith((".partial", ".before", ".scratch")) for name in beside)
        cut_short += bool(beside)
        assert run(stage)[0] == 0
        assert {path: content for name in OUTPUTS[stage] for path, content in read_output(folder, name).items()} == undisturbed[
            stage
        ]
        leftovers = {path.name for path in folder.iterdir()} - {name for outputs in OUTPUTS.values() for name in outputs}
        assert not leftovers  # the retry removes the leftovers of the killed run
        if killed == KILLS:
            break
    assert killed == KILLS
    assert cut_short or not stage.startswith("write")  # these have files open most of the time
