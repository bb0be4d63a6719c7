"""Fine-tuning GoogLeNet on photographs by one recipe, ours against PyTorch: where it ends, and how long it takes.

Each round is another split: a fifth of the photographs, another one each time, is held out from both. Ours counts all that a
run does: conversion to TFRecords, training, export, and the export's answers. Needs Caffe's weights beside the photographs, as
`googlenet/bvlc_googlenet.npz`.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from benchmarks import peers, photographs
from benchmarks.measure import Figure, report, rounds
from kfp_vision import hardware
from kfp_vision.networks import inception

FOLDS = 5
STEPS, BATCH, LEARNING_RATE = 300, 32, 0.002
PEER = (*peers.TORCH, "numpy==2.4.6", "pillow==13.0.0")


class Learned(NamedTuple):
    """The share of held-out pictures called by their right name, and the seconds from files to that figure."""

    accuracy: float
    seconds: float


def run() -> list[Figure]:
    """The rows of this benchmark."""
    weights = photographs.googlenet("learn")
    if not weights:
        return []
    with tempfile.TemporaryDirectory() as scratch:
        split = folds(photographs.copies(Path(scratch, "all"), 1), rounds())
        pairs = [(ours(fold, weights), theirs(fold, weights)) for fold in split]
    name = f"{peers.TORCH[0].replace('==', ' ')}, {hardware.precision()}, the same recipe"
    right = [(100 * mine.accuracy, 100 * other.accuracy) for mine, other in pairs]
    seconds = [(mine.seconds, other.seconds) for mine, other in pairs]
    return [
        report("fine_tuning_accuracy", name, "%", right, middle=statistics.mean),
        report("fine_tuning", name, "s", seconds, less=True),
    ]


def folds(folder: Path, number: int) -> list[Path]:
    """Folders with `train` and `test` in each, made beside one of pictures in class folders; by content, copies left out."""
    of_picture = {file: sha256(file.read_bytes()).hexdigest() for file in sorted(folder.glob("*/*"))}
    copies = Counter(of_picture.values())
    for file, digest in of_picture.items():
        for fold in range(number):
            if copies[digest] == 1:
                side = "test" if int(digest[8:16], 16) % FOLDS == fold else "train"
                link = folder.with_name(f"fold-{fold}") / side / file.parent.name / file.name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.hardlink_to(file)
    return [folder.with_name(f"fold-{fold}") for fold in range(number)]


def ours(fold: Path, weights: Path) -> Learned:
    """A run of the pipeline's own stages, in a process of its own."""
    given = {"folder": str(fold), "weights": str(weights), "steps": STEPS, "batch_size": BATCH, "learning_rate": LEARNING_RATE}
    command = [sys.executable, "-m", "benchmarks.fine_tuning", json.dumps(given)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=peers.ROOT)
    return Learned(**json.loads(done.stdout.splitlines()[-1]))


def theirs(fold: Path, weights: Path) -> Learned:
    """The same recipe in PyTorch."""
    network = {"stem": inception.STEM, "blocks": inception.BLOCKS}
    recipe = {"steps": STEPS, "batch_size": BATCH, "learning_rate": LEARNING_RATE, "half": hardware.precision() == "bfloat16"}
    given = {"train": str(fold / "train"), "test": str(fold / "test"), "weights": str(weights)} | network | recipe
    return Learned(**json.loads(peers.printed(peers.python(*PEER), "torch_finetune.py", **given)))
