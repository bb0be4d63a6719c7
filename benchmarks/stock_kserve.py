"""A custom predictor as in KServe's documentation, without batching.

`python -m benchmarks.stock_kserve REPOSITORY PORT` serves until terminated.
"""

import base64
import sys
from pathlib import Path
from typing import Any

import kserve
import tensorflow as tf

from kfp_vision.repository.version import versions


class Predictor(kserve.Model):
    """Serves an export with KServe's V1 protocol.

    Args:
        name: name of the model in URLs.
        version: folder of the SavedModel.
    """

    def __init__(self, name: str, version: Path) -> None:
        super().__init__(name)
        self.loaded = tf.saved_model.load(str(version))
        self.ready = True

    def predict(self, payload: Any, headers: Any = None) -> dict[str, Any]:
        """Classifies the images of a request.

        Args:
            payload: body of the request, V1 protocol.
            headers: headers of the request, unused.

        Returns:
            Body of the response.
        """
        images = [base64.b64decode(instance["b64"]) for instance in payload["instances"]]
        outputs = self.loaded.signatures["serving_default"](image_bytes=tf.constant(images))
        columns = (outputs[name].numpy() for name in ("classes", "class_idx", "probabilities"))
        rows = zip(*columns, strict=True)
        return {"predictions": [{"classes": c.decode(), "class_idx": int(n), "probabilities": p.tolist()} for c, n, p in rows]}


def main(place: str, port: str) -> None:
    """Serves the newest version of a repository until terminated.

    Args:
        place: model repository.
        port: port of the HTTP server.
    """
    newest = versions(Path(place))[-1]
    kserve.ModelServer(http_port=int(port), enable_grpc=False).start([Predictor(newest.name, newest.folder)])


if __name__ == "__main__":
    main(*sys.argv[1:])
