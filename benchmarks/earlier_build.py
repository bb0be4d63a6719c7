"""An earlier build of this library, from the history of the repository, to measure against."""

import os
import subprocess
import sys
from pathlib import Path

from benchmarks import peers

COMMIT = "ef3b92a"  # the last one whose answers were computed by TensorFlow alone, in float32
NAME = f"the build of {COMMIT}: TensorFlow, float32"

WRITE_MODEL = """
import json, sys
from pathlib import Path
from kfp_vision import export
from kfp_vision.networks import NETWORKS
name, place = sys.argv[1], Path(sys.argv[2])
network, labels = NETWORKS[name], ["a", "b", "c", "d", "e"]
version = place / "1"
export.write_saved_model(version, network.build(len(labels), fast=False), labels, network.image_size)
(version / "assets.extra").mkdir()
about = {"model_name": "benchmark", "labels": labels, "image_size": network.image_size}
(version / "assets.extra" / "model.json").write_text(json.dumps(about))
"""
# What `in_process` does, in the words of that build.
IN_PROCESS = """
import itertools, sys, time
from pathlib import Path
from kfp_vision import prediction, repository
classifier = prediction.Classifier(repository.versions(Path(sys.argv[1]))[-1])
encoded, size = [file.read_bytes() for file in sorted(Path(sys.argv[2]).glob("*/*.jpg"))], int(sys.argv[4])
batches = itertools.cycle([encoded[first : first + size] for first in range(0, len(encoded) - size + 1, size)])
classifier.probabilities(next(batches))
computed, start = 0, time.perf_counter()
while time.perf_counter() < start + float(sys.argv[3]):
    computed += len(classifier.probabilities(next(batches)))
print(computed / (time.perf_counter() - start))
"""
PREDICT = """
import sys, time
from pathlib import Path
start = time.perf_counter()
from kfp_vision import prediction, repository
version = repository.versions(Path(sys.argv[1]))[-1]
prediction.predict_images(prediction.Classifier(version), version.labels, sys.argv[2], Path(sys.argv[3]))
print(time.perf_counter() - start)
"""
SERVE = "import sys; from kfp_vision.cli import main; sys.exit(main(sys.argv[1:]))"


def folder() -> Path:
    """Returns the folder of the build, which is taken from git on first use.

    Raises:
        CalledProcessError: the history does not reach so far; git says so.
    """
    place = peers.ENVIRONMENTS / COMMIT
    if not (place / "whole").exists():
        place.mkdir(parents=True, exist_ok=True)
        archive = subprocess.run(["git", "archive", COMMIT], cwd=peers.ROOT, check=True, stdout=subprocess.PIPE).stdout
        subprocess.run(["tar", "--extract", "--directory", str(place)], check=True, input=archive)
        (place / "whole").touch()
    return place


def command(program: str, *arguments: object) -> list[str]:
    """Returns the command line that runs a program, to be run in `folder`.

    Args:
        program: one of this module.
        *arguments: of the program.
    """
    return [sys.executable, "-c", program, *map(str, arguments)]


def environment() -> dict[str, str]:
    """Returns the environment in which the build is imported instead of this one."""
    return os.environ | {"PYTHONPATH": str(folder())}


def run(program: str, *arguments: object) -> str:
    """Runs a program of this module in the build.

    Args:
        program: one of this module.
        *arguments: of the program.

    Returns:
        The last line that it prints; empty if none.
    """
    done = subprocess.run(
        command(program, *arguments), cwd=folder(), env=environment(), check=True, capture_output=True, text=True
    )
    return (done.stdout.splitlines() or [""])[-1]
