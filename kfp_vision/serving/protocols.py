"""Parses requests and builds responses of KServe's V1 protocol, the Open Inference Protocol (V2) and image search."""

import base64
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from kfp_vision.core.errors import format_value
from kfp_vision.core.values import MAX_NEAREST
from kfp_vision.dataset.images import Rejected
from kfp_vision.prediction.classifier import Answer, Prediction
from kfp_vision.prediction.explanation import Explanation
from kfp_vision.repository.version import Version
from kfp_vision.search.index import Hit, Index
from kfp_vision.serving import instances
from kfp_vision.serving.image_search import IndexedImage
from kfp_vision.serving.instances import InvalidInstance, read_image
from kfp_vision.serving.kserve_parts import InferOutput, InferRequest, InferResponse, InvalidInput, to_http_parameters

BYTES = "BYTES"
V2_DATATYPES = {"O": BYTES, "i": "INT64", "f": "FP32", "b": "BOOL"}  # the protocol's tensor types, by NumPy's kind
TOP_K, LABEL, OVERLAY = "top_k", "label", "overlay"
NO_CLASS = -1
DEFAULT_HITS = 10  # hits of a search that does not set top_k
MAX_EXPLAINED_CLASSES = 10  # of an image
MAX_OVERLAYS = 64  # of a request: 20 MB, if each image is a noise that JPEG cannot pack
MAP_DIGITS = 4  # of a map's values after the point; logits are of the order of ten
Parsed = TypeVar("Parsed")
CheckSize = Callable[[int], None]  # refuses a number of images, before any of them is read: millions would take minutes


INSTANCES, INPUTS = "instances", "inputs"  # TF-Serving's row and column format


@dataclass(frozen=True)
class V1Request:
    """The body of a V1 request.

    Attributes:
        body: decoded from JSON, or built from a form or a file.
        version: the version that must answer; empty for the newest.
    """

    body: Any
    version: str = ""


@dataclass(frozen=True)
class PredictRequest:
    """A prediction request.

    Attributes:
        images: encoded, or why one was rejected.
        top_k: number of most probable classes to list besides the best; 0 for no list.
        in_columns: whether the response must have TF-Serving's column format as well.
    """

    images: Sequence[bytes | Rejected]
    top_k: int
    in_columns: bool = False


def parse_predict_request(payload: V1Request | InferRequest, check_size: CheckSize) -> PredictRequest:
    """Parses a prediction request.

    Args:
        payload: a V1 or a V2 request.
        check_size: raises an InvalidInput for too many images.

    Returns:
        The request.

    Raises:
        InvalidInput: it follows neither protocol, or asks for something impossible.
    """
    if isinstance(payload, InferRequest):
        return PredictRequest(_v2_images(payload, check_size), _top_k(to_http_parameters(payload.parameters or {}).get(TOP_K)))
    images = _v1_instances(payload.body, read_image, check_size)
    return PredictRequest(images, _top_k(payload.body.get(TOP_K)), INPUTS in payload.body)


@dataclass(frozen=True)
class SearchRequest:
    """A search request.

    Attributes:
        images: encoded, images of the index, or why one was rejected.
        top_k: maximum number of hits per image.
        label: search only images with this label; empty for all.
    """

    images: Sequence[bytes | IndexedImage | Rejected]
    top_k: int
    label: str


def parse_search_request(payload: V1Request, check_size: CheckSize) -> SearchRequest:
    """Parses a search request.

    Args:
        payload: a V1 request, in which an instance may also be `{"id": "..."}` with the id of a hit.
        check_size: as of `parse_predict_request`.

    Returns:
        The request.

    Raises:
        InvalidInput: it does not follow the protocol, or asks for something impossible.
    """
    images = _v1_instances(payload.body, _query, check_size)
    top_k, label = _top_k(payload.body.get(TOP_K)) or DEFAULT_HITS, payload.body.get(LABEL, "")
    if top_k > MAX_NEAREST:
        raise InvalidInput(f"{TOP_K} of a search must be at most {MAX_NEAREST}; got {top_k}. Ask for fewer.")
    if not isinstance(label, str):
        raise InvalidInput(f"{LABEL} must be a string; got {format_value(label, 50)}. Leave it out to search all images.")
    return SearchRequest(images, top_k, label)


@dataclass(frozen=True)
class ExplainRequest:
    """A request for class activation maps.

    Attributes:
        predict: what it asks for as a prediction request.
        number: of the class to explain; None for the most probable ones.
        overlay: whether to lay the maps over the images.
    """

    predict: PredictRequest
    number: int | None
    overlay: bool

    def choose(self, prediction: Prediction) -> list[int]:
        """Returns the numbers of the classes to explain, best first: one unless `top_k` is set."""
        return [self.number] if self.number is not None else _best(prediction, self.predict.top_k or 1)


def parse_explain_request(payload: V1Request, labels: Sequence[str], check_size: CheckSize) -> ExplainRequest:
    """Parses a request for class activation maps.

    Args:
        payload: a V1 request.
        labels: names of the classes, by number.
        check_size: as of `parse_predict_request`.

    Returns:
        The request.

    Raises:
        InvalidInput: it does not follow the protocol, or asks for something impossible.
    """
    predict, label = parse_predict_request(payload, check_size), payload.body.get(LABEL)
    if predict.top_k > MAX_EXPLAINED_CLASSES:
        rule = f"{TOP_K} of an explanation must be at most {MAX_EXPLAINED_CLASSES}"
        raise InvalidInput(f"{rule}; got {predict.top_k}. Ask for fewer, or for one class by its {LABEL}.")
    if label is not None and label not in labels:
        found = format_value(label if isinstance(label, str) else instances.describe(label), 50)
        raise InvalidInput(
            f"{LABEL} must be that of a class of the model; got {found}. Leave it out to explain the best class."
        )
    if label is not None and predict.top_k:
        raise InvalidInput(f"an explanation must be of one {LABEL} or of the {TOP_K}; got both. Leave out one of them.")
    overlay = _flag(payload.body.get(OVERLAY), OVERLAY)
    overlays = overlay * len(predict.images) * min(max(predict.top_k, 1), len(labels))
    if overlays > MAX_OVERLAYS:
        rule = f"a request must ask for at most {MAX_OVERLAYS} overlays"
        raise InvalidInput(f"{rule}; got {overlays}. Send several requests, or leave out {OVERLAY}: maps are numbers, too.")
    return ExplainRequest(predict, None if label is None else labels.index(label), overlay)


def explain_response(
    answers: Sequence[tuple[Explanation, list[bytes]] | Rejected], version: Version, request: ExplainRequest
) -> dict[str, Any]:
    """Builds the body of a response with class activation maps.

    Args:
        answers: for each image its explanation, with the overlays asked for, or why it was rejected.
        version: the version that answered.
        request: the request that is answered.

    Returns:
        What `v1_response` gives, and `explanations`, with `image`, `box` and `maps`, or `error`, for each image.
    """
    predictions = [answer if isinstance(answer, Rejected) else answer[0].prediction for answer in answers]
    explanations = [_v1_explanation(answer, version.labels) for answer in answers]
    return v1_response(predictions, version, request.predict) | {"explanations": explanations}


def search_response(answers: Sequence[list[Hit] | Rejected]) -> dict[str, Any]:
    """Builds the body of a search response.

    Args:
        answers: for each image its hits, nearest first, or why it was rejected.

    Returns:
        `predictions`, with `hits` or `error` for each image; a hit has `labels` besides `label` only if images have several.
    """
    return {"predictions": [_v1_hits(answer) for answer in answers]}


def describe_index(index: Index) -> dict[str, Any]:
    """Describes an index: its number of images, labels, generation, model, dimension, and recall of the nearest ten."""
    about = index.about
    labels = [_text(label) for label in index.by_label if label]
    content = {"pictures": about.pictures, "labels": labels, "generation": about.generation, "recall": about.recall}
    return content | {"model_name": about.model_name, "dimension": about.dimension}


def v1_response(answers: Sequence[Answer], version: Version, request: PredictRequest) -> dict[str, Any]:
    """Builds the body of a V1 prediction response.

    Args:
        answers: for each image a prediction, or why it was rejected.
        version: the version that answered.
        request: the request that is answered.

    Returns:
        `predictions`, with a prediction or `error` for each image; to a request in columns `outputs` too, with a list for each
        output, in which a rejected image has class -1, as in V2.
    """
    response: dict[str, Any] = {"predictions": [_v1_prediction(answer, version, request.top_k) for answer in answers]}
    if not request.in_columns:
        return response
    predictions = [answer if isinstance(answer, Prediction) else None for answer in answers]
    columns: dict[str, list[Any]] = {
        "classes": [one.label if one else "" for one in predictions],
        "class_idx": [one.number if one else NO_CLASS for one in predictions],
        "probabilities": [one.probabilities if one else [0.0] * len(version.labels) for one in predictions],
    }
    if version.several:
        columns |= {
            "labels": [one.labels if one else [] for one in predictions],
            "scores": [one.scores if one else [] for one in predictions],
        }
    if _tells_known(predictions):
        columns |= {"known": _known(predictions), "known_score": _known_scores(predictions)}
    if None in predictions:
        columns["error"] = ["" if isinstance(answer, Prediction) else str(answer) for answer in answers]
    return response | {"outputs": columns}


def v2_response(request: InferRequest, name: str, version: Version, answers: Sequence[Answer], top_k: int) -> InferResponse:
    """Builds a V2 prediction response.

    Args:
        request: the request that is answered.
        name: the model's name.
        version: the version that answered.
        answers: for each image a prediction, or why it was rejected.
        top_k: number of classes to list; 0 for none.

    Returns:
        One tensor per output, of one element or row per image; `known` and `known_score` only if the model tells, `labels`
        and `scores` only if images have several, filled up with empty strings and zeros. With `top_k`, three more of shape
        (images, top_k): `top_k_classes`, `top_k_class_idx`, `top_k_scores`, and where images have several labels
        `top_k_thresholds`. A rejected image has class -1; the tensor `error`, present only then, says why.
    """
    labels, predictions = version.labels, [answer if isinstance(answer, Prediction) else None for answer in answers]
    zeros = [0.0] * len(labels)
    tensors: dict[str, npt.NDArray[Any]] = {
        "classes": np.array([one.label.encode() if one else b"" for one in predictions], object),
        "class_idx": np.array([one.number if one else NO_CLASS for one in predictions], np.int64),
        "probabilities": np.array([one.probabilities if one else zeros for one in predictions], np.float32),
    }
    if version.several:
        tensors |= _label_tensors(predictions, len(labels))
    if _tells_known(predictions):
        tensors["known"] = np.array(_known(predictions), bool)
        tensors["known_score"] = np.array(_known_scores(predictions), np.float32)
    if top_k:
        tensors |= _top_k_tensors(predictions, version, top_k)
    if None in predictions:
        tensors["error"] = np.array([b"" if isinstance(one, Prediction) else str(one).encode() for one in answers], object)
    return InferResponse(
        request.id or "",
        name,
        [InferOutput(key, list(tensor.shape), V2_DATATYPES[tensor.dtype.kind], tensor) for key, tensor in tensors.items()],
        model_version=str(version.number),
        use_binary_outputs=request.use_binary_outputs and not request.from_grpc,  # gRPC sends arrays as binary anyway
        requested_outputs=request.request_outputs,
    )


def v2_inputs() -> list[dict[str, Any]]:
    """Describes the input for V2's model metadata."""
    return [{"name": "image_bytes", "datatype": BYTES, "shape": [-1]}]


def v2_outputs(labels: Sequence[str], *, several: bool, tells_known: bool) -> list[dict[str, Any]]:
    """Describes the outputs that every response has, for V2's model metadata.

    Args:
        labels: names of the classes.
        several: whether images have several labels.
        tells_known: whether the model tells known images from others.

    Returns:
        Name, datatype and shape of each output.
    """
    rows = [-1, len(labels)]
    named = [{"name": "labels", "datatype": BYTES, "shape": rows}, {"name": "scores", "datatype": "FP32", "shape": rows}]
    known = [{"name": "known", "datatype": "BOOL", "shape": [-1]}, {"name": "known_score", "datatype": "FP32", "shape": [-1]}]
    return [
        {"name": "classes", "datatype": BYTES, "shape": [-1]},
        {"name": "class_idx", "datatype": "INT64", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP32", "shape": rows},
        *(named if several else ()),
        *(known if tells_known else ()),
    ]


def _top_k(value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, str) and value.isdecimal() and len(value) < 10:  # from a query string or a form
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidInput(f"{TOP_K} must be a positive integer; got {format_value(value, 50)}. Set {TOP_K}=5, say.")
    return value


def _flag(value: Any, name: str) -> bool:
    if isinstance(value, str):  # from a query string or a form
        value = {"true": True, "false": False}.get(value.lower(), value)
    if value is not None and not isinstance(value, bool):
        raise InvalidInput(f"{name} must be true or false; got {format_value(value, 50)}. Set {name}=true, or leave it out.")
    return bool(value)


def _best(answer: Prediction, top_k: int) -> list[int]:
    """Returns the numbers of the most probable classes, best first; ties in order of number."""
    return sorted(range(len(answer.probabilities)), key=lambda number: -answer.probabilities[number])[:top_k]


def _v1_hits(answer: list[Hit] | Rejected) -> dict[str, Any]:
    if isinstance(answer, Rejected):
        return {"error": str(answer)}
    return {"hits": [_v1_hit(hit) for hit in answer]}


def _v1_hit(hit: Hit) -> dict[str, Any]:
    labels = {} if hit.labels is None else {"labels": [_text(label) for label in hit.labels]}
    return {"id": hit.content_id, "path": _text(hit.path), "label": _text(hit.label), **labels, "similarity": hit.similarity}


def _v1_explanation(answer: tuple[Explanation, list[bytes]] | Rejected, labels: Sequence[str]) -> dict[str, Any]:
    if isinstance(answer, Rejected):
        return {"error": str(answer)}
    explanation, overlays = answer
    (height, width), window = explanation.sides, explanation.window
    maps: list[dict[str, Any]] = [
        {
            "label": labels[number],
            "class_idx": number,
            "score": explanation.prediction.probabilities[number],
            "map": np.round(values.astype(np.float64), MAP_DIGITS).tolist(),
        }
        for number, values in zip(explanation.numbers, explanation.maps, strict=True)
    ]
    for one, overlay in zip(maps, overlays, strict=False):  # none if there are none
        one[OVERLAY] = {"b64": base64.b64encode(overlay).decode()}
    box = {"left": window.left, "top": window.top, "width": window.width, "height": window.height}
    return {"image": {"width": width, "height": height}, "box": box, "maps": maps}


def _text(name: str) -> str:
    """Escapes the surrogates of a file name that is not UTF-8, which JSON cannot carry."""
    return name.encode(errors="backslashreplace").decode()


def _v1_prediction(answer: Answer, version: Version, top_k: int) -> dict[str, Any]:
    if isinstance(answer, Rejected):
        return {"error": str(answer)}
    prediction: dict[str, Any] = {"classes": answer.label, "class_idx": answer.number, "probabilities": answer.probabilities}
    if answer.several:
        prediction |= {"labels": answer.labels, "scores": answer.scores}
    if answer.known is not None:
        prediction |= {"known": answer.known, "known_score": answer.known_score}
    if not top_k:
        return prediction
    return prediction | {TOP_K: [_scored(version, number, answer.probabilities[number]) for number in _best(answer, top_k)]}


def _scored(version: Version, number: int, score: float) -> dict[str, Any]:
    threshold = {"threshold": version.thresholds[number]} if version.several else {}
    return {"label": version.labels[number], "class_idx": number, "score": score, **threshold}


def _tells_known(predictions: Sequence[Prediction | None]) -> bool:
    return any(one and one.known is not None for one in predictions)


def _known(predictions: Sequence[Prediction | None]) -> list[bool]:
    return [bool(one and one.known) for one in predictions]


def _known_scores(predictions: Sequence[Prediction | None]) -> list[float]:
    return [one.known_score or 0.0 if one else 0.0 for one in predictions]


def _label_tensors(predictions: Sequence[Prediction | None], classes: int) -> dict[str, npt.NDArray[Any]]:
    shape = (len(predictions), classes)
    labels, scores = np.full(shape, b"", object), np.zeros(shape, np.float32)
    for row, one in enumerate(predictions):
        for column, (label, score) in enumerate(zip(one.labels, one.scores, strict=True) if one else ()):
            labels[row, column], scores[row, column] = label.encode(), score
    return {"labels": labels, "scores": scores}


def _top_k_tensors(predictions: Sequence[Prediction | None], version: Version, top_k: int) -> dict[str, npt.NDArray[Any]]:
    labels = version.labels
    width = min(top_k, len(labels))
    best = [_best(one, width) if one else [NO_CLASS] * width for one in predictions]
    pairs = list(zip(predictions, best, strict=True))
    names = [[labels[n].encode() if one else b"" for n in numbers] for one, numbers in pairs]
    scores = [[one.probabilities[n] if one else 0.0 for n in numbers] for one, numbers in pairs]
    tensors: dict[str, npt.NDArray[Any]] = {
        "top_k_classes": np.array(names, object),
        "top_k_class_idx": np.array(best, np.int64),
        "top_k_scores": np.array(scores, np.float32),
    }
    if version.several:
        thresholds = [[version.thresholds[n] if one else 0.0 for n in numbers] for one, numbers in pairs]
        tensors["top_k_thresholds"] = np.array(thresholds, np.float32)
    return tensors


def _v1_instances(body: Any, parse: Callable[[Any, str], Parsed], check_size: CheckSize) -> list[Parsed]:
    """Parses each instance of a V1 body: rows, `{"instances": [{"b64": "..."}]}`, or columns, `{"inputs": {"b64": "..."}}`."""
    if not isinstance(body, dict) or (INSTANCES in body) == (INPUTS in body):
        raise _invalid_v1("both" if isinstance(body, dict) and INPUTS in body else instances.describe(body))
    name = INSTANCES if INSTANCES in body else INPUTS
    rows = body[name]
    if name == INPUTS:
        if isinstance(rows, dict) and "b64" not in rows and (key := instances.image_key(rows)):  # named, as the model's input
            name, rows = f"{name}.{format_value(key, 40)}", rows[key]
        rows = rows if isinstance(rows, list) else [rows]
    is_numbers = isinstance(rows, list) and len(rows) > 1 and all(isinstance(row, int | float) for row in rows)
    if not isinstance(rows, list) or not rows or is_numbers:
        raise _invalid_v1(f"{name} that hold {'an empty list' if rows == [] else instances.describe(rows)}")
    check_size(len(rows))
    return [parse(instance, f"{name}[{number}]") for number, instance in enumerate(rows)]


def _invalid_v1(found: str) -> InvalidInput:
    rule = 'a body must be {"instances": [{"b64": "..."}]} or {"inputs": {"b64": "..."}}, with images in base64'
    return InvalidInput(f"{rule}; got {found}. List the images in instances.")


def _query(instance: Any, place: str) -> bytes | IndexedImage | Rejected:
    if isinstance(instance, dict) and "id" in instance and not instances.has_image_key(instance):
        if isinstance(instance["id"], str):
            return IndexedImage(instance["id"])
        return InvalidInstance(
            f"id of {place} must be a string; got {instances.describe(instance['id'])}. Give the id of a result."
        )
    return read_image(instance, place)


def _v2_images(request: InferRequest, check_size: CheckSize) -> list[bytes | Rejected]:
    """Decodes the images of the only tensor: base64 in JSON, or bytes or base64 in a binary tensor."""
    if len(request.inputs or ()) > 1:
        rule, remedy = "a request must have one input", "Send all its images in one tensor, or each tensor in its own request."
        raise InvalidInput(f"{rule}; got {len(request.inputs)} tensors. {remedy}")
    tensor = request.inputs[0] if request.inputs else None
    if tensor is None or tensor.datatype != BYTES:
        found = f"{format_value(tensor.name, 40)} of type {format_value(tensor.datatype, 40)}" if tensor else "no input"
        remedy = "Send image files, not their pixels."
        raise InvalidInput(f"the input must be a tensor image_bytes of type BYTES; got {found}. {remedy}")
    if min(tensor.shape, default=0) < 0:
        raise _wrong_shape(f"shape {tensor.shape}")
    check_size(math.prod(tensor.shape))
    try:
        elements = list(tensor.as_numpy().ravel())
    except (struct.error, TypeError, ValueError) as error:
        raise _wrong_shape(str(error)) from None
    if not elements:
        raise InvalidInput("the input must hold an image; got an empty tensor.")
    name = format_value(tensor.name, 40)
    return [read_image(one, f"{name}[{number}]") for number, one in enumerate(elements)]


def _wrong_shape(found: str) -> InvalidInput:
    return InvalidInput(f"the tensor must have the size of its shape; got {format_value(found, 200)}.")
