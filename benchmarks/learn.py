"""Fine-tunes GoogLeNet on photographs with the same recipe, ours against PyTorch: accuracy and duration.

Each round holds out another fifth of the photographs from both. Our time includes the whole run: conversion to TFRecords,
training, export and the export's predictions. Needs Caffe's weights next to the photographs, as `googlenet/bvlc_googlenet.npz`.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from benchmarks import peers, photographs
from benchmarks.measure import Figure, report, rounds
from kfp_vision.core import hardware
from kfp_vision.networks import inception

FOLDS = 5
STEPS, BATCH, LEARNING_RATE = 300, 32, 0.002
PEER = (*peers.TORCH, "numpy==2.4.6", "pillow==13.0.0")


class Learned(NamedTuple):
    """Result of a fine-tuning.

    Attributes:
        accuracy: share of held-out images classified correctly, from 0 to 1.
        seconds: from image files to that accuracy.
    """

    accuracy: float
    seconds: float


def run() -> list[Figure]:
    """Runs this benchmark.

    Returns:
        Its figures; none without Caffe's weights.
    """
    weights = photographs.find_googlenet_weights("learn")
    if not weights:
        return []
    with tempfile.TemporaryDirectory() as scratch:
        split = split_folds(photographs.write_copies(Path(scratch, "all"), 1), rounds())
        pairs = [(run_ours(fold, weights), run_peer(fold, weights)) for fold in split]
    return report_learned("fine_tuning", "the same recipe", pairs)


def report_learned(benchmark: str, alike: str, pairs: Sequence[tuple[Learned, Learned]]) -> list[Figure]:
    """Reports accuracies in their mean, and seconds in their median.

    Args:
        benchmark: name of the measurement of the seconds; that of the accuracies has `_accuracy` after it.
        alike: what ours and PyTorch have in common.
        pairs: ours and PyTorch's of each split.

    Returns:
        Both figures.
    """
    name = f"{peers.TORCH[0].replace('==', ' ')}, {hardware.precision()}, {alike}"
    accuracies = [(100 * mine.accuracy, 100 * other.accuracy) for mine, other in pairs]
    seconds = [(mine.seconds, other.seconds) for mine, other in pairs]
    return [
        report(f"{benchmark}_accuracy", name, "%", accuracies, middle=statistics.mean),
        report(benchmark, name, "s", seconds, less=True),
    ]


def split_folds(folder: Path, number: int) -> list[Path]:
    """Splits images by content hash into folds, each a folder with `train` and `test`; images with duplicates are excluded.

    Args:
        folder: folder of class folders; the folds are created next to it.
        number: number of folds to create.

    Returns:
        The folders of the folds.
    """
    digests = {file: sha256(file.read_bytes()).hexdigest() for file in sorted(folder.glob("*/*"))}
    copies = Counter(digests.values())
    for file, digest in digests.items():
        for fold in range(number):
            if copies[digest] == 1:
                side = "test" if int(digest[8:16], 16) % FOLDS == fold else "train"
                link = folder.with_name(f"fold-{fold}") / side / file.parent.name / file.name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.hardlink_to(file)
    return [folder.with_name(f"fold-{fold}") for fold in range(number)]


def run_ours(fold: Path, weights: Path | str, network: str = "googlenet") -> Learned:
    """Runs our own stages in a separate process.

    Args:
        fold: folder with `train` and `test`.
        weights: a checkpoint of the network, by default Caffe's weights; or `imagenet`.
        network: name of the network.

    Returns:
        The result.
    """
    recipe = {"steps": STEPS, "batch_size": BATCH, "learning_rate": LEARNING_RATE}
    arguments = {"folder": str(fold), "weights": str(weights), "network": network} | recipe
    command = [sys.executable, "-m", "benchmarks.fine_tuning", json.dumps(arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=peers.ROOT)
    return Learned(**json.loads(done.stdout.splitlines()[-1]))


def run_peer(fold: Path, weights: Path) -> Learned:
    """Runs the same recipe in PyTorch.

    Args:
        fold: folder with `train` and `test`.
        weights: Caffe's weights.

    Returns:
        The result.
    """
    network = {"stem": inception.STEM_CHANNELS, "blocks": inception.BLOCK_CHANNELS}
    recipe = {"steps": STEPS, "batch_size": BATCH, "learning_rate": LEARNING_RATE, "half": hardware.precision() == "bfloat16"}
    arguments = {"train": str(fold / "train"), "test": str(fold / "test"), "weights": str(weights)} | network | recipe
    return Learned(**json.loads(peers.run_program(peers.interpreter_with(*PEER), "torch_finetune.py", **arguments)))
