"""A client of a model server: KServe's V1 protocol over HTTP."""

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from kfp_vision.core.errors import InputError
from kfp_vision.dataset.images import Rejected
from kfp_vision.prediction import authentication
from kfp_vision.prediction.classifier import Answer, AnswerT, Prediction
from kfp_vision.storage import uris

IMAGES_PER_REQUEST = 16
BYTES_PER_REQUEST = 8 << 20
RESPONSE_TIMEOUT = 60
MAX_ATTEMPTS = 3  # of a request whose response is cut off; the HTTP session retries those without any response
PREDICT, SEARCH = ":predict", ":search"
MODELS_PATH = "/v1/models"
FINGERPRINT_HEADER = "kfp-vision-fingerprint"  # response header: fingerprint of the version that answered


class ServingClient:
    """A client of a server with KServe's V1 protocol, such as this project's; it sends the token of `access`.

    Args:
        url: `http://host:port` if the server serves one model, else `http://host:port/v1/models/NAME`.

    Attributes:
        model: URL of the model.
        url: URL of its `:predict`.
        fingerprint: Fingerprint of the version that gave the last answer; empty if the server does not send it.

    Raises:
        InputError: The server does not answer, serves several models, or rejects the token.
    """

    fingerprint = ""

    def __init__(self, url: str):
        url = url.strip()
        if uris.scheme_of(url) not in ("http", "https"):
            raise InputError("a server must be given by its http(s) address", url, "Give http://127.0.0.1:8000, for example.")
        host, found, name = url.rstrip("/").removesuffix(PREDICT).removesuffix(SEARCH).partition(f"{MODELS_PATH}/")
        self._has_answered, self._session = False, _session()
        self.model = f"{host}{MODELS_PATH}/{name if found else self._only_model(host)}"
        self.url = f"{self.model}{PREDICT}"

    def classify(self, images: Sequence[bytes]) -> list[Answer]:
        """Classifies images.

        Args:
            images: Encoded images.

        Returns:
            For each image its prediction, or why it was rejected.

        Raises:
            InputError: The server does not answer, or not with predictions.
        """
        return self.request(PREDICT, images, _parse_prediction)

    def request(
        self, verb: str, images: Sequence[bytes], parse: Callable[[Any], AnswerT], **parameters: Any
    ) -> list[AnswerT | Rejected]:
        """Sends images to the model, several per request.

        Args:
            verb: What to do, as the suffix of the model's URL: `PREDICT` or `SEARCH`.
            images: Encoded images.
            parse: Converts one element of `predictions` in the response.
            **parameters: Further fields of the request's body.

        Returns:
            For each image what `parse` returns, or why the server rejected it.

        Raises:
            InputError: The server does not answer, or not with predictions.
        """
        return [answer for group in _requests(images) for answer in self._post(verb, group, parse, parameters)]

    def get(self, resource: str) -> tuple[int, Any]:
        """Requests information about the model.

        Args:
            resource: Path below the model's URL, such as `index`.

        Returns:
            Status and parsed body of the response.

        Raises:
            InputError: The server does not answer.
        """
        return self._call("GET", f"{self.model}/{resource}")

    def _post(
        self, verb: str, images: Sequence[bytes], parse: Callable[[Any], AnswerT], parameters: Mapping[str, Any]
    ) -> list[AnswerT | Rejected]:
        body = {"instances": [{"b64": base64.b64encode(image).decode()} for image in images], **parameters}
        status, answer = self._call("POST", f"{self.model}{verb}", body)
        if status == 200 and isinstance(answer, dict) and len(answer.get("predictions", ())) == len(images):
            return [Rejected(one["error"]) if "error" in one else parse(one) for one in answer["predictions"]]
        reason = error_reason(answer)
        if status in (400, 413):  # find the image that the server rejects
            if len(images) == 1:
                return [Rejected(reason)]
            return [one for image in images for one in self._post(verb, [image], parse, parameters)]
        found = f"HTTP {status} at {self.model}{verb} ({reason})"
        raise InputError("a server must answer with predictions", found, "See its log.")

    def _only_model(self, host: str) -> str:
        status, answer = self._call("GET", f"{host}{MODELS_PATH}")
        names: list[str] = answer.get("models", []) if status == 200 and isinstance(answer, dict) else []
        if len(names) != 1:
            found = f"{', '.join(names) or 'none'} (HTTP {status}) at {host}"
            raise InputError("a server must serve one model, or its address name it", found, f"Give {host}{MODELS_PATH}/NAME.")
        return names[0]

    def _call(self, method: str, url: str, body: Any = None) -> tuple[int, Any]:
        response = self._response(method, url, body)
        if not self._has_answered:  # the address is right: from now on wait for a server that restarts
            self._has_answered, self._session = True, _session(known=True)
        self.fingerprint = response.headers.get(FINGERPRINT_HEADER, "")
        if response.status_code == 401:
            remedy = f"Set {authentication.TOKEN_VARIABLE} to the server's token."
            raise InputError("the server requires a valid token", f"HTTP 401 at {url}", remedy)
        try:
            return response.status_code, response.json()
        except ValueError:
            return response.status_code, response.text

    def _response(self, method: str, url: str, body: Any) -> Any:
        """Returns a complete response; retries one that is cut off, as when the server is killed while it answers."""
        import requests

        for left in reversed(range(MAX_ATTEMPTS)):
            try:
                return self._session.request(method, url, json=body, timeout=RESPONSE_TIMEOUT)
            except requests.RequestException as error:
                if left and isinstance(error, requests.exceptions.ChunkedEncodingError):
                    continue
                found = f"{type(error).__name__} at {url}"
                raise InputError("a server must answer", found, "Start it, or check --url.") from None
        raise AssertionError("unreachable: the last try returns or raises")


def _session(*, known: bool = False) -> Any:
    from kfp_vision.storage import http

    session = http.retrying_session(retry_posts=True, known=known)
    if token := authentication.read_token():
        session.auth = partial(_with_token, token)  # ~/.netrc would override a plain header
    return session


def _with_token(token: str, request: Any) -> Any:
    request.headers["Authorization"] = authentication.authorization_header(token)
    return request


def _requests(images: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Yields consecutive groups that fit into one request each."""
    group: list[bytes] = []
    for image in images:
        if group and (len(group) == IMAGES_PER_REQUEST or sum(map(len, group)) + len(image) > BYTES_PER_REQUEST):
            yield group
            group = []
        group.append(image)
    if group:
        yield group


def error_reason(answer: Any) -> str:
    """Returns the reason that a server gives in an error response.

    Args:
        answer: Parsed body of the response.
    """
    return str(answer.get("error", "no reason") if isinstance(answer, dict) else answer)[:600]


def _parse_prediction(answer: dict[str, Any]) -> Prediction:
    known = (answer.get("known"), answer.get("known_score"))
    best = Prediction(answer["classes"], answer["class_idx"], answer["probabilities"], *known)
    if "labels" not in answer:
        return best
    named = [label for label in answer["labels"] if label]  # a SavedModel alone fills up with empty ones, and has no scores
    return replace(best, named=named, named_scores=answer.get("scores", []))
