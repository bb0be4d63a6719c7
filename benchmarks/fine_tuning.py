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

from benchmarks import training_stage
from kfp_vision.core.advanced import Advanced
from kfp_vision.evaluation import scoring
from kfp_vision.networks import NETWORKS
from kfp_vision.prediction.classifier import Classifier
from kfp_vision.repository.version import exported_version
from kfp_vision.training import train
from kfp_vision.training.recipe import Recipe


def main(*, folder: str, weights: str, network: str, steps: int, batch_size: int, learning_rate: float) -> None:
    """Converts the images, trains, and evaluates the export on the held-out images.

    Args:
        folder: folder with class folders in `train` and `test`.
        weights: a checkpoint of the network, such as Caffe's .npz file of GoogLeNet; or `imagenet`.
        network: name of the network.
        steps: number of training steps.
        batch_size: images per step.
        learning_rate: peak learning rate.
    """
    start = time.perf_counter()
    recipe = Recipe(
        network=network,
        fine_tune=True,
        checkpoint_uri=weights,
        train_last_layer_only=False,
        batch_size=batch_size,
        learning_rate=learning_rate,
        train_steps=steps,
        optimizer="momentum",
        learning_rate_schedule="cosine",
        image_size=NETWORKS[network].image_size,
        gpu_count=0,
        model_name="benchmark",
        advanced=Advanced(
            warmup_steps=max(1, steps // 10),
            weight_decay=0.0,
            # No color augmentation, as in the peer.
            max_brightness_delta=0.0,
            lower_saturation=1.0,
            upper_saturation=1.0,
        ),
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
