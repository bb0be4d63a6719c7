"""Fine-tunes GoogLeNet on photographs with the same recipes, ours against PyTorch: accuracy and duration.

Two recipes: a short one with momentum, and the tutorial's own at 1,000 steps. Each round holds out another fifth of the
photographs from both. Our time includes the whole run: conversion to TFRecords, training, export and the export's predictions.
Needs Caffe's weights next to the photographs, as `googlenet/bvlc_googlenet.npz`.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import peers, photographs
from benchmarks.measure import Figure, report, rounds
from kfp_vision.core import hardware
from kfp_vision.core.advanced import ADVANCED_DEFAULTS
from kfp_vision.networks import inception
from kfp_vision.training.recipe_presets import DEFAULTS
from kfp_vision.training.schedules import SCHEDULE_FIELDS, learning_rate_at

FOLDS = 5
PEER = (*peers.TORCH, "numpy==2.4.6", "pillow==13.0.0")


@dataclass(frozen=True)
class TrainingRecipe:
    """What both train by.

    Attributes:
        name: of the measurement.
        fields: of the form, without the network and its weights.
        advanced: fields of `advanced`.
    """

    name: str
    fields: dict[str, Any]
    advanced: dict[str, Any]

    def rates(self, images: int) -> list[float]:
        """Computes the learning rate of each step.

        Args:
            images: number of training images.

        Returns:
            The rates.
        """
        decay = {name: (ADVANCED_DEFAULTS | self.advanced)[name] for name in SCHEDULE_FIELDS}
        options = {name: self.fields[name] for name in ("learning_rate", "train_steps")} | decay
        options |= {"schedule": self.fields["learning_rate_schedule"], "steps_per_epoch": images / self.fields["batch_size"]}
        return [learning_rate_at(step, **options) for step in range(self.fields["train_steps"])]


SHORT = TrainingRecipe(
    "fine_tuning",
    {
        "batch_size": 32,
        "learning_rate": 0.002,
        "train_steps": 300,
        "optimizer": "momentum",
        "learning_rate_schedule": "cosine",
    },
    {
        "warmup_steps": 30,
        "weight_decay": 0.0,
        # No color augmentation, as in the peer.
        "max_brightness_delta": 0.0,
        "lower_saturation": 1.0,
        "upper_saturation": 1.0,
    },
)
TUTORIAL_FIELDS = ("batch_size", "learning_rate", "optimizer", "learning_rate_schedule")
# As the form's defaults are, colors included.
TUTORIAL = TrainingRecipe(
    "tutorial_fine_tuning", {name: DEFAULTS[name] for name in TUTORIAL_FIELDS} | {"train_steps": 1000}, {}
)


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
        figures = []
        for recipe in (SHORT, TUTORIAL):
            pairs = [_run_both(fold, weights, recipe) for fold in split]
            figures += report_learned(recipe.name, "the same recipe", pairs)
    return figures


def _run_both(fold: Path, weights: Path, recipe: TrainingRecipe) -> tuple[Learned, Learned]:
    return print_pair(f"{recipe.name}, {fold.name}", run_ours(fold, weights, recipe=recipe), run_peer(fold, weights, recipe))


def print_pair(name: str, mine: Learned, other: Learned) -> tuple[Learned, Learned]:
    """Prints both results of a split on stderr, since all splits together take long.

    Args:
        name: of the split.
        mine: our result.
        other: PyTorch's.

    Returns:
        Both.
    """
    words = [f"{100 * one.accuracy:.1f} % in {one.seconds:.0f} s" for one in (mine, other)]
    print(f"{name}: ours {words[0]}, PyTorch {words[1]}", file=sys.stderr, flush=True)
    return mine, other


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


def run_ours(fold: Path, weights: Path | str, network: str = "googlenet", recipe: TrainingRecipe = SHORT) -> Learned:
    """Runs our own stages in a separate process.

    Args:
        fold: folder with `train` and `test`.
        weights: a checkpoint of the network, by default Caffe's weights; or `imagenet`.
        network: name of the network.
        recipe: what to train by.

    Returns:
        The result.
    """
    arguments = {"folder": str(fold), "weights": str(weights), "network": network}
    arguments |= {"fields": recipe.fields, "advanced": recipe.advanced}
    command = [sys.executable, "-m", "benchmarks.fine_tuning", json.dumps(arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=peers.ROOT)
    return Learned(**json.loads(done.stdout.splitlines()[-1]))


def run_peer(fold: Path, weights: Path, recipe: TrainingRecipe = SHORT) -> Learned:
    """Runs the same recipe in PyTorch, without color augmentation.

    Args:
        fold: folder with `train` and `test`.
        weights: Caffe's weights.
        recipe: what to train by; its optimizer is `sgd` or `momentum`.

    Returns:
        The result.
    """
    settings = ADVANCED_DEFAULTS | recipe.advanced
    arguments = {
        **{side: str(fold / side) for side in ("train", "test")},
        "weights": str(weights),
        "stem": inception.STEM_CHANNELS,
        "blocks": inception.BLOCK_CHANNELS,
        "rates": recipe.rates(len(list((fold / "train").glob("*/*")))),
        "batch_size": recipe.fields["batch_size"],
        "momentum": settings["momentum"] if recipe.fields["optimizer"] == "momentum" else 0.0,
        "weight_decay": settings["weight_decay"],
        "half": hardware.precision() == "bfloat16",
    }
    return Learned(**json.loads(peers.run_program(peers.interpreter_with(*PEER), "torch_finetune.py", **arguments)))
