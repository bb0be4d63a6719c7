"""The one model that the server serves: the newest version in a repository that loads."""

import base64
import binascii
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kserve
import numpy as np
from kserve.errors import InvalidInput
from kserve.protocol.infer_type import InferOutput, InferRequest, InferResponse

from kfp_vision import repository
from kfp_vision.errors import InputError, shown
from kfp_vision.pictures import Refused
from kfp_vision.prediction import Answer, Prediction
from kfp_vision.repository import Version
from kfp_vision.serving.loaded import MAX_PIXELS, Loaded

MAX_PICTURES = 256  # of one request
POLL_SECONDS = 1.0
BYTES = "BYTES"
KIND = {"O": BYTES, "i": "INT64", "f": "FP32"}  # of a tensor, as the protocol calls what NumPy does


class ServedClassifier(kserve.Model):
    """The newest version of a repository; a request is answered by the version that was there when it came.

    Args:
        name: how it is called in addresses; empty for its own name.
        path: the repository.
    """

    def __init__(self, name: str, path: Path):
        newest = repository.versions(path)[-1]
        super().__init__(name or newest.name)
        self.path = path
        self._loaded: Loaded | None = None
        self._broken: set[Path] = set()

    @property
    def version(self) -> Version:
        """The version that answers now."""
        assert self._loaded
        return self._loaded.version

    def load(self) -> bool:
        """Loads the newest version.

        Raises:
            InputError: it does not load.
        """
        self._loaded = Loaded(repository.versions(self.path)[-1])
        self.ready = True
        return self.ready

    def refresh(self) -> None:
        """Takes the newest version that loads, if it is not the one that answers now; a broken one is reported once."""
        for version in reversed(repository.versions(self.path)):
            if version.folder == self.version.folder:
                return
            if version.folder in self._broken:
                continue
            try:
                self._loaded = Loaded(version)
            except InputError as error:
                self._broken.add(version.folder)
                print(f"{error} Version {self.version.number} goes on answering.", flush=True)
            else:
                print(f"now answers with version {version.number}", flush=True)
                return

    def watch(self) -> None:
        """Looks for new versions as long as the process lives, in a thread of its own."""

        def look() -> None:
            pause = threading.Event()
            while not pause.wait(POLL_SECONDS):
                try:
                    self.refresh()
                except Exception as error:  # a repository on a network may be gone for a moment; the watch must go on
                    print(f"warning: cannot look into {self.path} ({error})", flush=True)

        threading.Thread(target=look, daemon=True).start()

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """Answers a V1 body, already parsed, or a request of the Open Inference Protocol.

        Raises:
            InvalidInput: it is neither, or no picture in it can be read.
            Busy: too many pictures wait.
        """
        assert self._loaded
        loaded = self._loaded  # for the whole request, whatever is published meanwhile
        pictures = _v2_pictures(payload) if isinstance(payload, InferRequest) else list(_v1_pictures(payload))
        if len(pictures) > MAX_PICTURES:
            rule = f"a request must hold at most {MAX_PICTURES} pictures"
            raise InvalidInput(f"{rule}; got {len(pictures)}. Send several requests.")
        answers = await loaded.name(pictures)
        if all(isinstance(answer, Refused) for answer in answers):
            reasons = "; ".join(sorted({str(answer) for answer in answers}))
            remedy = f"Send JPEG or PNG, of at most {MAX_PIXELS // 1_000_000} million pixels."
            raise InvalidInput(f"a request must hold a picture that can be read; got {reasons}. {remedy}")
        if isinstance(payload, InferRequest):
            return self._v2_response(payload, answers, loaded.version)
        return {"predictions": [_v1_prediction(answer) for answer in answers]}

    def get_input_types(self) -> list[dict[str, Any]]:
        return [{"name": "image_bytes", "datatype": BYTES, "shape": [-1]}]

    def get_output_types(self) -> list[dict[str, Any]]:
        return [
            {"name": "classes", "datatype": BYTES, "shape": [-1]},
            {"name": "class_idx", "datatype": "INT64", "shape": [-1]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(self.version.labels)]},
        ]

    def _v2_response(self, request: InferRequest, answers: list[Answer], version: Version) -> InferResponse:
        """One tensor an output; where a picture could not be read, class -1, and the reason in one more tensor, `error`."""
        named = [answer if isinstance(answer, Prediction) else None for answer in answers]
        nothing = [0.0] * len(version.labels)
        tensors = {
            "classes": np.array([one.label.encode() if one else b"" for one in named], object),
            "class_idx": np.array([one.number if one else -1 for one in named], np.int64),
            "probabilities": np.array([one.probabilities if one else nothing for one in named], np.float32),
        }
        if None in named:
            tensors["error"] = np.array([b"" if isinstance(one, Prediction) else str(one).encode() for one in answers], object)
        return InferResponse(
            request.id or "",
            self.name,
            [InferOutput(name, list(tensor.shape), KIND[tensor.dtype.kind], tensor) for name, tensor in tensors.items()],
            model_version=str(version.number),
            use_binary_outputs=request.use_binary_outputs,
            requested_outputs=request.request_outputs,
        )


def _v1_pictures(body: Any) -> Iterator[bytes | Refused]:
    """The pictures of a V1 body, `{"instances": [{"b64": "..."}, ...]}`; a form puts bytes in place of the base64."""
    instances = body.get("instances") if isinstance(body, dict) else None
    if not isinstance(instances, list) or not instances:
        raise InvalidInput('a body must be {"instances": [{"b64": "..."}]}, with a picture in base64; got something else.')
    for instance in instances:
        if isinstance(instance, dict) and isinstance(instance.get("image_bytes"), dict):  # as TF-Serving names its input
            instance = instance["image_bytes"]
        yield _decoded(instance.get("b64") if isinstance(instance, dict) else instance)


def _v2_pictures(request: InferRequest) -> list[bytes | Refused]:
    """The pictures of the first tensor: base64 strings in JSON, or bytes where the tensor came as binary data."""
    tensor = request.inputs[0] if request.inputs else None
    if tensor is None or tensor.datatype != BYTES:
        found = f"{tensor.name} of type {tensor.datatype}" if tensor else "none"
        raise InvalidInput(f"the input must be a tensor image_bytes of type BYTES; got {found}.")
    try:
        if min(tensor.shape, default=0) < 0:
            raise ValueError(f"shape {tensor.shape}")
        elements = list(tensor.as_numpy().ravel())
    except (struct.error, TypeError, ValueError) as error:
        raise InvalidInput(f"the tensor must be as long as it says; got {shown(str(error), 200)}.") from None
    if not elements:
        raise InvalidInput("the input must hold a picture; got an empty tensor.")
    return [_decoded(one) for one in elements]


def _decoded(text: Any) -> bytes | Refused:
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str):
        return Refused("no base64 string")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        return Refused(f"wrong base64 ({error})")


def _v1_prediction(answer: Answer) -> dict[str, Any]:
    if isinstance(answer, Refused):
        return {"error": str(answer)}
    return {"classes": answer.label, "class_idx": answer.number, "probabilities": answer.probabilities}
