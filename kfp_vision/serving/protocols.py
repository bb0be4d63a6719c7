"""What clients send and get: pictures out of V1's JSON or a tensor of the Open Inference Protocol, and answers into these."""

import base64
import binascii
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from kserve.errors import InvalidInput
from kserve.protocol.infer_type import InferOutput, InferRequest, InferResponse, to_http_parameters

from kfp_vision.errors import shown
from kfp_vision.parameters import MOST_NEAREST
from kfp_vision.pictures import Refused
from kfp_vision.prediction import Answer, Prediction
from kfp_vision.repository import Version
from kfp_vision.search import Hit, Index
from kfp_vision.serving.searching import Known

BYTES = "BYTES"
KIND = {"O": BYTES, "i": "INT64", "f": "FP32"}  # of a tensor, as the protocol calls what NumPy does
TOP_K, LABEL = "top_k", "label"
NO_CLASS = -1
NEAREST = 10  # pictures, where a search does not say how many
Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Asked:
    """What a request asks.

    Attributes:
        pictures: encoded, or why one cannot be read.
        top_k: of how many classes an answer tells beside the best, from the most probable; 0 for none.
    """

    pictures: Sequence[bytes | Refused]
    top_k: int


def asked(payload: Any) -> Asked:
    """What a V1 body, already parsed, or a request of the Open Inference Protocol asks.

    Raises:
        InvalidInput: it is neither, or asks for something that cannot be.
    """
    if isinstance(payload, InferRequest):
        return Asked(_v2_pictures(payload), _top_k(to_http_parameters(payload.parameters or {}).get(TOP_K)))
    pictures = list(_v1_instances(payload, _v1_picture))
    return Asked(pictures, _top_k(payload.get(TOP_K)))


@dataclass(frozen=True)
class SearchAsked:
    """What a search asks.

    Attributes:
        pictures: encoded, or of the index, or why one cannot be read.
        top_k: how many pictures are wanted of each.
        label: of the pictures that alone count; empty for all.
    """

    pictures: Sequence[bytes | Known | Refused]
    top_k: int
    label: str


def search_asked(payload: Any) -> SearchAsked:
    """What a body of a search, already parsed, asks: as a V1 body, but that an instance may be `{"id": "..."}` of a hit.

    Raises:
        InvalidInput: it is none, or asks for something that cannot be.
    """
    pictures = list(_v1_instances(payload, _searched_for))
    top_k, label = _top_k(payload.get(TOP_K)) or NEAREST, payload.get(LABEL, "")
    if top_k > MOST_NEAREST:
        raise InvalidInput(f"{TOP_K} of a search must be at most {MOST_NEAREST}; got {top_k}. Ask for fewer.")
    if not isinstance(label, str):
        raise InvalidInput(f"{LABEL} must be a text; got {shown(label, 50)}. Leave it out for all pictures.")
    return SearchAsked(pictures, top_k, label)


def hits_answer(answers: Sequence[list[Hit] | Refused]) -> dict[str, Any]:
    """The body of a search's answer: a list `hits` for each picture, the nearest first, or its `error`."""
    return {"predictions": [_v1_hits(answer) for answer in answers]}


def index_answer(index: Index) -> dict[str, Any]:
    """What is said of an index: how many pictures, of which labels, and what share of the nearest ten is found."""
    about = index.about
    labels = [_text(label) for label in index.by_label if label]
    said = {"pictures": about.pictures, "labels": labels, "generation": about.generation, "recall": about.recall}
    return said | {"model_name": about.model_name, "dimension": about.dimension}


def v1_answer(answers: Sequence[Answer], labels: Sequence[str], top_k: int) -> dict[str, Any]:
    """V1's body: a prediction for each picture, or its `error`; with `top_k`, a list of that name in each prediction."""
    return {"predictions": [_v1_prediction(answer, labels, top_k) for answer in answers]}


def v2_answer(request: InferRequest, name: str, version: Version, answers: Sequence[Answer], top_k: int) -> InferResponse:
    """One tensor an output; where a picture could not be read, class -1, and the reason in one more tensor, `error`.

    With `top_k`, three more tensors of shape (pictures, top_k): `top_k_classes`, `top_k_class_idx`, `top_k_scores`.
    """
    labels, named = version.labels, [answer if isinstance(answer, Prediction) else None for answer in answers]
    nothing = [0.0] * len(labels)
    tensors = {
        "classes": np.array([one.label.encode() if one else b"" for one in named], object),
        "class_idx": np.array([one.number if one else NO_CLASS for one in named], np.int64),
        "probabilities": np.array([one.probabilities if one else nothing for one in named], np.float32),
    }
    if top_k:
        tensors |= _top_k_tensors(named, labels, top_k)
    if None in named:
        tensors["error"] = np.array([b"" if isinstance(one, Prediction) else str(one).encode() for one in answers], object)
    return InferResponse(
        request.id or "",
        name,
        [InferOutput(key, list(tensor.shape), KIND[tensor.dtype.kind], tensor) for key, tensor in tensors.items()],
        model_version=str(version.number),
        use_binary_outputs=request.use_binary_outputs and not request.from_grpc,  # arrays are sent so there anyway
        requested_outputs=request.request_outputs,
    )


def input_types() -> list[dict[str, Any]]:
    """The one input, as the Open Inference Protocol describes it."""
    return [{"name": "image_bytes", "datatype": BYTES, "shape": [-1]}]


def output_types(labels: Sequence[str]) -> list[dict[str, Any]]:
    """The outputs that every answer has."""
    return [
        {"name": "classes", "datatype": BYTES, "shape": [-1]},
        {"name": "class_idx", "datatype": "INT64", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(labels)]},
    ]


def _top_k(value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, str) and value.isdecimal() and len(value) < 10:  # in an address, or in a form
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidInput(f"{TOP_K} must be a whole number from 1 up; got {shown(value, 50)}. Ask for {TOP_K}=5, say.")
    return value


def _best(answer: Prediction, top_k: int) -> list[int]:
    """The numbers of the most probable classes, the best first; of equal ones, the lowest number."""
    return sorted(range(len(answer.probabilities)), key=lambda number: -answer.probabilities[number])[:top_k]


def _v1_hits(answer: list[Hit] | Refused) -> dict[str, Any]:
    if isinstance(answer, Refused):
        return {"error": str(answer)}
    return {
        "hits": [
            {"id": hit.content_id, "path": _text(hit.path), "label": _text(hit.label), "similarity": hit.similarity}
            for hit in answer
        ]
    }


def _text(name: str) -> str:
    """The name of a file, of whatever bytes, as it can be sent."""
    return name.encode(errors="backslashreplace").decode()


def _v1_prediction(answer: Answer, labels: Sequence[str], top_k: int) -> dict[str, Any]:
    if isinstance(answer, Refused):
        return {"error": str(answer)}
    said = {"classes": answer.label, "class_idx": answer.number, "probabilities": answer.probabilities}
    if not top_k:
        return said
    best = _best(answer, top_k)
    return said | {TOP_K: [{"label": labels[n], "class_idx": n, "score": answer.probabilities[n]} for n in best]}


def _top_k_tensors(named: Sequence[Prediction | None], labels: Sequence[str], top_k: int) -> dict[str, np.ndarray]:
    wide = min(top_k, len(labels))
    best = [_best(one, wide) if one else [NO_CLASS] * wide for one in named]
    texts = [[labels[n].encode() if one else b"" for n in numbers] for one, numbers in zip(named, best, strict=True)]
    scores = [[one.probabilities[n] if one else 0.0 for n in numbers] for one, numbers in zip(named, best, strict=True)]
    return {
        "top_k_classes": np.array(texts, object),
        "top_k_class_idx": np.array(best, np.int64),
        "top_k_scores": np.array(scores, np.float32),
    }


def _v1_instances(body: Any, read: Callable[[Any], Thing]) -> Iterator[Thing]:
    """What is read of each instance of a V1 body, `{"instances": [{"b64": "..."}, ...]}`."""
    instances = body.get("instances") if isinstance(body, dict) else None
    if not isinstance(instances, list) or not instances:
        raise InvalidInput('a body must be {"instances": [{"b64": "..."}]}, with a picture in base64; got something else.')
    return map(read, instances)


def _v1_picture(instance: Any) -> bytes | Refused:
    """The picture of an instance; a form puts bytes in place of the base64."""
    if isinstance(instance, dict) and isinstance(instance.get("image_bytes"), dict):  # as TF-Serving names its input
        instance = instance["image_bytes"]
    return _decoded(instance.get("b64") if isinstance(instance, dict) else instance)


def _searched_for(instance: Any) -> bytes | Known | Refused:
    """The picture of an instance of a search, or which of the index it is."""
    if isinstance(instance, dict) and "id" in instance:
        return Known(instance["id"]) if isinstance(instance["id"], str) else Refused("an id that is no text")
    return _v1_picture(instance)


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
