"""A custom predictor as KServe's documentation has it, which batches nothing.

`python -m benchmarks.stock_kserve REPOSITORY PORT` serves until it is told to stop.
"""

import base64
import sys
from pathlib import Path
from typing import Any

import kserve
import tensorflow as tf

from kfp_vision import repository


class Predictor(kserve.Model):
    """An export behind KServe's V1 protocol.

    Args:
        name: as it is called in addresses.
        version: the SavedModel's folder.
    """

    def __init__(self, name: str, version: Path):
        super().__init__(name)
        self.loaded = tf.saved_model.load(str(version))
        self.ready = True

    def predict(self, payload: Any, headers: Any = None) -> dict[str, Any]:
        pictures = [base64.b64decode(instance["b64"]) for instance in payload["instances"]]
        said = self.loaded.signatures["serving_default"](image_bytes=tf.constant(pictures))
        named = zip(said["classes"].numpy(), said["class_idx"].numpy(), said["probabilities"].numpy(), strict=True)
        return {"predictions": [{"classes": c.decode(), "class_idx": int(n), "probabilities": p.tolist()} for c, n, p in named]}


def main(place: str, port: str) -> None:
    """Serves until it is told to stop."""
    newest = repository.versions(Path(place))[-1]
    kserve.ModelServer(http_port=int(port), enable_grpc=False).start([Predictor(newest.name, newest.folder)])


if __name__ == "__main__":
    main(*sys.argv[1:])
