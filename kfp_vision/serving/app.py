"""The HTTP application: an explicit list of routes on KServe's data plane; every invalid request gets a 4xx with the reason.

Prediction (`predict`, `infer`) goes through KServe's data plane, and with it through KServe's metrics and model registry
checks. Image search (`search`, `index`, `thumbnail`), which KServe does not know, calls the model directly.

KServe's own application is not used: it lets anybody unload a model, is ready with a broken one, and accepts JSON only with
the right header.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import quote

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from kserve.errors import InferenceError, InvalidInput, ModelNotFound, ModelNotReady, ServerNotReady
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.infer_type import InferInput, InferRequest, RequestedOutput
from kserve.protocol.rest.server import metrics_handler
from kserve.protocol.rest.v1_endpoints import V1Endpoints
from kserve.protocol.rest.v2_datamodels import InferenceRequest
from kserve.protocol.rest.v2_endpoints import V2Endpoints
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from kfp_vision import __version__
from kfp_vision.core.errors import format_value
from kfp_vision.reports import pages
from kfp_vision.serving import protocols
from kfp_vision.serving.image_search import NotIndexed
from kfp_vision.serving.inference import Overloaded
from kfp_vision.serving.middleware import ASGIApp, BearerAuth, BodyLimit
from kfp_vision.serving.model import MAX_IMAGES_PER_REQUEST
from kfp_vision.serving.protocols import LABEL, TOP_K
from kfp_vision.serving.registry import ServedModels
from kfp_vision.serving.telemetry import RequestTelemetry

V1_MODEL, V2_MODEL = "/v1/models/{model_name}", "/v2/models/{model_name}"
STATUS_BY_ERROR = {InvalidInput: 400, ClientDisconnect: 400, ModelNotFound: 404, NotIndexed: 404}
STATUS_BY_ERROR |= {Overloaded: 503, ModelNotReady: 503, ServerNotReady: 503}
RETRY_AFTER = {"Retry-After": "1"}  # seconds
LENGTH_HEADER = "inference-header-content-length"
THUMBNAIL_CACHE_SECONDS = (
    24 * 3600
)  # how long browsers cache a thumbnail; its URL holds a hash of the image, so it never changes


class ModelDataPlane(DataPlane):
    """KServe's data plane, ready only if all models are, and without the extension that loads and unloads models.

    Attributes:
        is_draining: whether the server is shutting down.
    """

    is_draining = False

    def metadata(self) -> dict[str, Any]:
        """Describes the server, for V2's server metadata."""
        return {"name": "kfp-vision", "version": __version__, "extensions": ["binary_tensor_data"]}

    async def model_metadata(self, model_name: str) -> dict[str, Any]:
        """Describes a model and the version that answers, for V2's model metadata.

        Args:
            model_name: the model's name in URLs.

        Returns:
            KServe's description, with `versions`, `fingerprint`, `platform`, and `index` if it has one.
        """
        description: dict[str, Any] = await super().model_metadata(model_name)
        model = self.get_model_from_registry(model_name)
        version = {"versions": [str(model.version.number)], "fingerprint": model.version.fingerprint}
        description |= version | {"platform": "tensorflow_savedmodel"}
        return description | ({"index": protocols.describe_index(model.searched.index)} if model.searched else {})

    async def ready(self) -> bool:
        """Returns whether all models answer and the server is not shutting down."""
        return not self.is_draining and not self.model_registry.broken


class Application:
    """The server's routes; its methods are those that KServe's endpoints do not cover.

    Args:
        models: the models that answer.
        token: the token that requests must carry; empty to let everybody in.
    """

    def __init__(self, models: ServedModels, token: str = ""):
        self.models, self.plane, self.token = models, ModelDataPlane(model_registry=models), token

    def asgi(self, lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None) -> ASGIApp:
        """Builds the ASGI application: the routes, and the middleware around them.

        Args:
            lifespan: a context to run in, such as the gRPC server.

        Returns:
            The application.
        """
        v1, v2 = V1Endpoints(self.plane), V2Endpoints(self.plane)
        app = FastAPI(
            title="KFP Vision", version=__version__, docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan
        )
        for path, endpoint in (
            ("/", self.page),
            ("/metrics", metrics_handler),
            ("/v1/models", v1.models),
            (V1_MODEL, self.model_ready),
            ("/v2", v2.metadata),
            ("/v2/health/live", v2.live),
            ("/v2/health/ready", self.ready),
            ("/v2/models", v2.models),
            (V2_MODEL, self.metadata),
            (f"{V2_MODEL}/ready", self.model_ready),
            (f"{V1_MODEL}/index", self.index),
            (f"{V1_MODEL}/index/thumbnails/{{content_id}}", self.thumbnail),
        ):
            app.add_api_route(path, endpoint, methods=["GET", "HEAD"], response_model=None)
        app.add_api_route(f"{V1_MODEL}:predict", self.predict, methods=["POST"], response_model=None)
        app.add_api_route(f"{V1_MODEL}:search", self.search, methods=["POST"], response_model=None)
        app.add_api_route(f"{V2_MODEL}/infer", self.infer, methods=["POST"], response_model=None)
        for kind, status in STATUS_BY_ERROR.items():
            app.add_exception_handler(kind, _error_handler(status))
        app.add_exception_handler(StarletteHTTPException, _handle_http_error)
        app.add_exception_handler(RequestValidationError, _error_handler(400))
        app.add_exception_handler(Exception, _handle_failure)
        app.add_middleware(BodyLimit)
        app.add_middleware(BearerAuth, token=self.token)
        return RequestTelemetry(app)  # outermost, so that requests that fail are counted and logged as well

    def drain(self) -> None:
        """Turns the server unready; requests are still answered."""
        self.plane.is_draining = True

    async def page(self, request: Request) -> Response:
        """Serves the web page to browsers, and liveness to other clients.

        Args:
            request: its `Accept` header decides.

        Returns:
            HTML, or JSON.
        """
        if "text/html" not in request.headers.get("accept", ""):
            return JSONResponse(await self.plane.live())
        base_url = str(request.base_url).rstrip("/")
        models = [
            {
                "name": model.name,
                "version": model.version.number,
                "labels": model.version.labels,
                "address": f"{base_url}{V1_MODEL.format(model_name=quote(model.name))}:predict",
                "indexed": model.searched.index.about.pictures if model.searched else 0,
            }
            for model in self.models.ready
        ]
        return HTMLResponse(pages.render("serving", models=models, asks_for_token=bool(self.token)))

    async def ready(self) -> Response:
        """Answers whether every model is ready, with the names of those that are not."""
        if await self.plane.ready():
            return JSONResponse({"ready": True})
        reason = f"not ready: {', '.join(self.models.broken)}" if self.models.broken else "the server is shutting down"
        return JSONResponse({"ready": False, "error": reason, "not_ready": self.models.broken}, 503, RETRY_AFTER)

    async def model_ready(self, model_name: str) -> Response:
        """Answers whether a model is ready.

        Args:
            model_name: the model's name in URLs.

        Returns:
            `ready: true`.

        Raises:
            ModelNotReady: it is not.
        """
        await self._check_ready(model_name)
        return JSONResponse({"name": model_name, "ready": True})

    async def metadata(self, model_name: str) -> Response:
        """Answers with a model's inputs, outputs and version.

        Args:
            model_name: the model's name in URLs.

        Returns:
            V2's model metadata.

        Raises:
            ModelNotReady: no version of the model loads.
        """
        await self._check_ready(model_name)
        return JSONResponse(await self.plane.model_metadata(model_name))

    async def predict(self, model_name: str, request: Request) -> Response:
        """Classifies images: V1's JSON, whatever the content type; a form with image files; or one image as the body.

        Args:
            model_name: the model's name in URLs.
            request: holds the images.

        Returns:
            V1's response.

        Raises:
            ModelNotReady: no version of the model loads.
            InvalidInput: the body is invalid, or none of its images can be read.
        """
        await self._check_ready(model_name)
        payload = await _payload(request, (TOP_K,))
        answer, headers = await self.plane.infer(model_name=model_name, request=payload, headers=dict(request.headers))
        return JSONResponse(answer, headers=headers)

    async def search(self, model_name: str, request: Request) -> Response:
        """Finds the nearest images of the index for each image, which is sent as to `predict` or named by the id of a hit.

        Args:
            model_name: the model's name in URLs.
            request: holds the images.

        Returns:
            The hits of each image.

        Raises:
            ModelNotReady: no version of the model loads.
            NoIndex: the model has no index.
            InvalidInput: the body is invalid, none of its images can be read, or no image has the label.
        """
        await self._check_ready(model_name)
        model = self.plane.get_model_from_registry(model_name)
        return JSONResponse(await model.search(await _payload(request, (TOP_K, LABEL))))

    async def index(self, model_name: str) -> Response:
        """Answers with a description of a model's index.

        Args:
            model_name: the model's name in URLs.

        Returns:
            What `protocols.describe_index` gives.

        Raises:
            ModelNotReady: no version of the model loads.
            NoIndex: the model has no index.
        """
        await self._check_ready(model_name)
        return JSONResponse(protocols.describe_index(self.plane.get_model_from_registry(model_name).required_index().index))

    async def thumbnail(self, model_name: str, content_id: str, request: Request) -> Response:
        """Answers with the thumbnail of an image of the index.

        Args:
            model_name: the model's name in URLs.
            content_id: the image's id, as hits have it.
            request: 304 is returned if its `If-None-Match` header holds the id.

        Returns:
            A JPEG.

        Raises:
            ModelNotReady: no version of the model loads.
            NoIndex: the model has no index, or the image is not in it.
        """
        await self._check_ready(model_name)
        thumbnail = self.plane.get_model_from_registry(model_name).required_index().thumbnail(content_id)
        caching = {"Cache-Control": f"private, max-age={THUMBNAIL_CACHE_SECONDS}, immutable", "ETag": f'"{content_id}"'}
        if request.headers.get("if-none-match") == caching["ETag"]:
            return Response(status_code=304, headers=caching)
        return Response(thumbnail, headers=caching, media_type="image/jpeg")

    async def infer(self, model_name: str, request: Request) -> Response:
        """Classifies images by the Open Inference Protocol: JSON, or JSON followed by binary tensors.

        Args:
            model_name: the model's name in URLs.
            request: holds the images.

        Returns:
            V2's response.

        Raises:
            ModelNotReady: no version of the model loads.
            InvalidInput: the body is invalid, or none of its images can be read.
        """
        await self._check_ready(model_name)
        body, request_headers = await request.body(), dict(request.headers)
        try:
            parsed = _v2_request(body, request_headers.get(LENGTH_HEADER), model_name)
        except ValidationError as error:
            first = error.errors()[0]
            raise _invalid_v2(f"{first['msg']} at {'.'.join(map(str, first['loc']))}") from None
        except (InferenceError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise _invalid_v2(f"{type(error).__name__}: {error}") from None
        answer, headers = await self.plane.infer(model_name=model_name, request=parsed, headers=request_headers)
        content, length = answer.to_rest()
        if length is None:
            return JSONResponse(content, headers=headers)
        return Response(content, headers={**headers, LENGTH_HEADER: str(length)}, media_type="application/octet-stream")

    async def _check_ready(self, model_name: str) -> None:
        if not await self.plane.model_ready(model_name, True):
            raise ModelNotReady(model_name, "No version of it loads; the server's output says why.")


async def _payload(request: Request, fields: Sequence[str]) -> Any:
    """Reads a V1 body: JSON, whatever the content type, or built from a form with image files or from a single image.

    Args:
        request: the request to read.
        fields: the parameters that the form, or the query string of any request, may hold.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    payload: Any
    if kind == "multipart/form-data":
        form = await request.form(max_files=MAX_IMAGES_PER_REQUEST)
        files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
        if not files:
            raise InvalidInput("a form must hold an image as file; got no file. Send it with curl -F file=@image.jpg.")
        given = {name: part for name, part in form.multi_items() if isinstance(part, str) and name in fields}
        payload = {"instances": [await file.read() for file in files]} | given
    elif kind.startswith("image/"):
        payload = {"instances": [await request.body()]}
    else:
        payload = _parse_json(await request.body())
    if isinstance(payload, dict):
        payload |= {name: request.query_params[name] for name in fields if name in request.query_params}
    return payload


def _error_handler(status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handle(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status, RETRY_AFTER if status == 503 else None)

    return handle


async def _handle_http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    return JSONResponse({"error": str(error.detail)}, error.status_code, headers=error.headers)


async def _handle_failure(request: Request, error: Exception) -> Response:
    logging.getLogger("kserve").error("%s %s failed", request.method, request.url.path, exc_info=error)
    return JSONResponse({"error": "the server failed; its log says why."}, 500)


def _v2_request(body: bytes, length: str | None, model_name: str) -> InferRequest:
    """Parses a V2 request: JSON, or `length` bytes of JSON followed by the binary tensors that it describes.

    KServe's own parser of binary tensors accepts only UTF-8 text in a BYTES tensor.
    """
    if length is None:
        return InferRequest.from_inference_request(InferenceRequest.model_validate(_parse_json(body)), model_name)
    end = int(length)
    if not 0 < end <= len(body):
        raise ValueError(f"{LENGTH_HEADER} {end} for a body of {len(body)} bytes")
    description, rest = orjson.loads(body[:end]), body[end:]
    parameters, outputs = description.get("parameters"), description.get("outputs") or []
    if any(not isinstance(one or {}, dict) for one in (parameters, *(output.get("parameters") for output in outputs))):
        raise TypeError("parameters must be a dictionary")
    inputs, raw = [], []
    for tensor in description["inputs"]:
        inputs.append(InferInput(tensor["name"], tensor["shape"], tensor["datatype"], tensor.get("data")))
        size = 0 if "data" in tensor else tensor["parameters"]["binary_data_size"]
        raw.append(None if "data" in tensor else rest[:size])
        rest = rest[size:]
    if rest:
        raise ValueError(f"{len(rest)} bytes after the last tensor")
    return InferRequest(
        model_name,
        inputs,
        description.get("id"),
        raw_inputs=raw,
        parameters=parameters,
        request_outputs=[RequestedOutput(one["name"], one.get("parameters")) for one in outputs],
    )


def _invalid_v2(found: str) -> InvalidInput:
    return InvalidInput(f"a body must follow the Open Inference Protocol; got {format_value(found, 200)}.")


def _parse_json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        remedy = 'Send {"instances": [{"b64": "..."}]}, or an image with curl -F file=@image.jpg.'
        raise InvalidInput(f"a body must be JSON, or a form with an image; got no JSON ({error}). {remedy}") from None
