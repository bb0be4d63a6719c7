"""Runs our side of `learn` in its own process: `python -m benchmarks.fine_tuning JSON`.

Prints the accuracy on the held-out images in `test`, and the total seconds.
"""

import contextlib
import io
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import training_stage
from kfp_vision.core.advanced import Advanced
from kfp_vision.evaluation import scoring
from kfp_vision.networks import NETWORKS
from kfp_vision.prediction.classifier import Classifier
from kfp_vision.repository.version import exported_version
from kfp_vision.training import train
from kfp_vision.training.recipe import Recipe


def main(*, folder: str, weights: str, network: str, fields: dict[str, Any], advanced: dict[str, Any]) -> None:
    """Converts the images, trains, and evaluates the export on the held-out images.

    Args:
        folder: folder with class folders in `train` and `test`.
        weights: a checkpoint of the network, such as Caffe's .npz file of GoogLeNet; or `imagenet`.
        network: name of the network.
        fields: the other fields of the form that shape a training.
        advanced: fields of `advanced`.
    """
    start = time.perf_counter()
    recipe = Recipe(
        network=network,
        fine_tune=True,
        checkpoint_uri=weights,
        train_last_layer_only=False,
        image_size=NETWORKS[network].image_size,
        gpu_count=0,
        model_name="benchmark",
        advanced=Advanced(**advanced),
        **fields,
    )
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        root = Path(scratch)
        training_stage.write_records(folder, root)
        records = (root / "records" / split for split in ("train", "validation"))
        outputs = {"model": root / "model", "events": root / "events", "page": root / "training.html"}
        train.train_classifier(recipe, *records, root / "labels", **outputs)
        version = exported_version(root / "model")
        predictions = scoring.predict_records(Classifier(version).probabilities, root / "records" / "test")
    accuracy = float(predictions.correct.mean())
    print(json.dumps({"accuracy": accuracy, "seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
