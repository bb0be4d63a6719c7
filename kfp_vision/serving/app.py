"""The HTTP application: an explicit list of routes on KServe's data plane; every invalid request gets a 4xx with the reason.

Prediction (`predict`, `infer`) and its explanation (`explain`) go through KServe's data plane, and with it through KServe's
metrics and model registry checks. Image search (`search`, `index`, `thumbnail`), which KServe does not know, calls the model
directly.

KServe's own application is not used: it lets anybody unload a model, is ready with a broken one, and accepts JSON only with
the right header.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from kfp_vision import __version__
from kfp_vision.core.errors import format_value
from kfp_vision.core.values import SEVERAL
from kfp_vision.prediction.client import FINGERPRINT_HEADER
from kfp_vision.reports import pages
from kfp_vision.serving import bodies, cors, protocols
from kfp_vision.serving.image_search import NotIndexed
from kfp_vision.serving.inference import Overloaded
from kfp_vision.serving.kserve_parts import (
    DataPlane,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    ServerNotReady,
    V1Endpoints,
    V2Endpoints,
    metrics_handler,
)
from kfp_vision.serving.middleware import ASGIApp, BearerAuth, BodyLimit
from kfp_vision.serving.model import NotExplained, NotLoaded
from kfp_vision.serving.protocols import LABEL, OVERLAY, TOP_K, V1Request
from kfp_vision.serving.registry import ServedModels
from kfp_vision.serving.telemetry import RequestTelemetry

V1_MODEL, V2_MODEL, VERSION = "/v1/models/{model_name}", "/v2/models/{model_name}", "/versions/{version}"
STATUS_BY_ERROR = {InvalidInput: 400, ClientDisconnect: 400, ModelNotFound: 404, NotIndexed: 404, NotLoaded: 404}
STATUS_BY_ERROR |= {NotExplained: 501, Overloaded: 503, ModelNotReady: 503, ServerNotReady: 503}
IMAGES_GO_TO = "POST images to /v1/models/NAME:predict; /v1/models lists the names."
READ_METHODS = ["GET", "HEAD"]
OTHER_METHODS = [*READ_METHODS, "PUT", "PATCH", "DELETE", "OPTIONS"]  # than POST
OPAQUE_TAG = re.compile(r'"[^"]*"')  # of an entity tag, which may begin with W/
RETRY_AFTER = {"Retry-After": "1"}  # seconds
THUMBNAIL_CACHE_SECONDS = (
    24 * 3600
)  # how long browsers cache a thumbnail; its URL holds a hash of the image, so it never changes

Routes = Sequence[tuple[str, Callable[..., Any]]]  # path and endpoint


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
            KServe's description, with `versions`, `fingerprint`, `platform`, `index` if it has one, and if images have
            several labels `labels_per_image`, `labels` and `thresholds`, the probability from which on an image has each.
        """
        description: dict[str, Any] = await super().model_metadata(model_name)
        model = self.get_model_from_registry(model_name)
        version = {"versions": [str(model.version.number)], "fingerprint": model.version.fingerprint}
        description |= version | {"platform": "tensorflow_savedmodel"}
        if model.version.several:
            labels = {"labels": model.version.labels, "thresholds": model.version.thresholds}
            description |= {"labels_per_image": SEVERAL} | labels
        return description | ({"index": protocols.describe_index(model.searched.index)} if model.searched else {})

    async def ready(self) -> bool:
        """Returns whether all models answer and the server is not shutting down."""
        return not self.is_draining and not self.model_registry.broken


class Application:
    """The server's routes; its methods are those that KServe's endpoints do not cover.

    Args:
        models: the models that answer.
        token: the token that requests must carry; empty to let everybody in.
        origins: of pages elsewhere that may call the server, as `cors.read_origins` returns them.
    """

    def __init__(self, models: ServedModels, token: str = "", origins: Sequence[str] = ()):
        self.models, self.plane = models, ModelDataPlane(model_registry=models)
        self.token, self.origins = token, origins

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
        reads: Routes = (
            ("/", self.page),
            ("/metrics", metrics_handler),
            ("/v1/models", v1.models),
            (V1_MODEL, self.model_ready),
            (V1_MODEL + VERSION, self.model_ready),
            ("/v2", v2.metadata),
            ("/v2/health/live", v2.live),
            ("/v2/health/ready", self.ready),
            ("/v2/models", v2.models),
            (V2_MODEL, self.metadata),
            (V2_MODEL + VERSION, self.metadata),
            (f"{V2_MODEL}/ready", self.model_ready),
            (f"{V2_MODEL}{VERSION}/ready", self.model_ready),
            (f"{V1_MODEL}/index", self.index),
            (f"{V1_MODEL}/index/thumbnails/{{content_id}}", self.thumbnail),
        )
        writes: Routes = (
            (f"{V1_MODEL}:predict", self.predict),
            (f"{V1_MODEL}{VERSION}:predict", self.predict),
            (f"{V1_MODEL}/labels/{{label}}:predict", self.labelled),
            (f"{V1_MODEL}:explain", self.explain),
            (f"{V1_MODEL}{VERSION}:explain", self.explain),
            (f"{V1_MODEL}:search", self.search),
            (f"{V1_MODEL}{VERSION}:search", self.search),
            (f"{V2_MODEL}/infer", self.infer),
            (f"{V2_MODEL}{VERSION}/infer", self.infer),
        )
        for path, endpoint in writes:
            app.add_api_route(path, endpoint, methods=["POST"], response_model=None)
            app.add_api_route(path, _reject_method, methods=OTHER_METHODS, response_model=None)
        for path in (V1_MODEL, V1_MODEL + VERSION):
            app.add_api_route(f"{path}:{{verb}}", self.other_verb, methods=["POST", *OTHER_METHODS], response_model=None)
        for path, endpoint in reads:
            app.add_api_route(path, endpoint, methods=READ_METHODS, response_model=None)
        for kind, status in STATUS_BY_ERROR.items():
            app.add_exception_handler(kind, _error_handler(status))
        app.add_exception_handler(StarletteHTTPException, _handle_http_error)
        app.add_exception_handler(RequestValidationError, _error_handler(400))
        app.add_exception_handler(Exception, _handle_failure)
        app.add_middleware(BodyLimit)
        app.add_middleware(BearerAuth, token=self.token)
        with_origins = cors.allow_origins(app, self.origins)
        return RequestTelemetry(with_origins)  # outermost, so that requests that fail are counted and logged as well

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
                "explains": model.explains,
                "name_unknown": model.version.name_unknown,
                "several": model.version.several,
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

    async def model_ready(self, model_name: str, request: Request) -> Response:
        """Answers whether a model is ready, and by which version.

        Args:
            model_name: the model's name in URLs.
            request: its path may name the version that must be loaded.

        Returns:
            `ready: true`, as KServe answers, and `model_version_status`, as TF-Serving does.

        Raises:
            ModelNotReady: it is not.
            NotLoaded: another version is.
        """
        await self._check_version_ready(model_name, request)
        number = self.plane.get_model_from_registry(model_name).version.number
        status = {"error_code": "OK", "error_message": ""}
        versions = [{"version": str(number), "state": "AVAILABLE", "status": status}]
        return JSONResponse({"name": model_name, "ready": True, "model_version_status": versions})

    async def metadata(self, model_name: str, request: Request) -> Response:
        """Answers with a model's inputs, outputs and version.

        Args:
            model_name: the model's name in URLs.
            request: its path may name the version that must be loaded.

        Returns:
            V2's model metadata.

        Raises:
            ModelNotReady: no version of the model loads.
            NotLoaded: another version is.
        """
        await self._check_version_ready(model_name, request)
        return JSONResponse(await self.plane.model_metadata(model_name))

    async def predict(self, model_name: str, request: Request) -> Response:
        """Classifies images: V1's JSON, whatever the content type; a form with image files; or one image as the body.

        Args:
            model_name: the model's name in URLs.
            request: holds the images; its path may name the version that must answer.

        Returns:
            V1's response.

        Raises:
            ModelNotReady: no version of the model loads.
            NotLoaded: another version answers.
            InvalidInput: the body is invalid, or none of its images can be read.
        """
        await self._check_ready(model_name)
        payload = V1Request(await bodies.read_v1(request, (TOP_K,)), _version(request))
        answer, headers = await self.plane.infer(model_name=model_name, request=payload, headers=dict(request.headers))
        return JSONResponse(answer, headers=headers)

    async def explain(self, model_name: str, request: Request) -> Response:
        """Explains the classification of images, which are sent as to `predict`, by class activation maps.

        Args:
            model_name: the model's name in URLs.
            request: holds the images; its path may name the version that must answer.

        Returns:
            V1's response, with predictions and explanations.

        Raises:
            ModelNotReady: no version of the model loads.
            NotLoaded: another version answers.
            NotExplained: the version that answers has no class activation maps.
            InvalidInput: the body is invalid, or none of its images can be read.
        """
        await self._check_ready(model_name)
        payload = V1Request(await bodies.read_v1(request, (TOP_K, LABEL, OVERLAY)), _version(request))
        # Without those of the request: KServe 0.21 returns what it is given as the response's (kserve/protocol/dataplane.py).
        answer, headers = await self.plane.explain(model_name=model_name, request=payload, headers={FINGERPRINT_HEADER: ""})
        return JSONResponse(answer, headers=headers)

    async def search(self, model_name: str, request: Request) -> Response:
        """Finds the nearest images of the index for each image, which is sent as to `predict` or named by the id of a hit.

        Args:
            model_name: the model's name in URLs.
            request: holds the images; its path may name the version that must answer.

        Returns:
            The hits of each image.

        Raises:
            ModelNotReady: no version of the model loads.
            NoIndex: the model has no index.
            NotLoaded: another version answers.
            InvalidInput: the body is invalid, none of its images can be read, or no image has the label.
        """
        await self._check_ready(model_name)
        model = self.plane.get_model_from_registry(model_name)
        return JSONResponse(await model.search(V1Request(await bodies.read_v1(request, (TOP_K, LABEL)), _version(request))))

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
            request: 304 is returned if its `If-None-Match` header names the id.

        Returns:
            A JPEG.

        Raises:
            ModelNotReady: no version of the model loads.
            NoIndex: the model has no index, or the image is not in it.
        """
        await self._check_ready(model_name)
        thumbnail = self.plane.get_model_from_registry(model_name).required_index().thumbnail(content_id)
        caching = {"Cache-Control": f"private, max-age={THUMBNAIL_CACHE_SECONDS}, immutable", "ETag": f'"{content_id}"'}
        if _names_tag(request, caching["ETag"]):
            return Response(status_code=304, headers=caching)
        return Response(thumbnail, headers=caching, media_type="image/jpeg")

    async def infer(self, model_name: str, request: Request) -> Response:
        """Classifies images by the Open Inference Protocol: JSON, or JSON followed by binary tensors.

        Args:
            model_name: the model's name in URLs.
            request: holds the images; its path may name the version that must answer.

        Returns:
            V2's response.

        Raises:
            ModelNotReady: no version of the model loads.
            NotLoaded: another version answers.
            InvalidInput: the body is invalid, or none of its images can be read.
        """
        await self._check_ready(model_name)
        parsed = await bodies.read_v2(request, model_name, _version(request))
        answer, headers = await self.plane.infer(model_name=model_name, request=parsed, headers=dict(request.headers))
        content, length = answer.to_rest()
        if length is None:
            return JSONResponse(content, headers=headers)
        return Response(content, headers={**headers, bodies.LENGTH_HEADER: str(length)}, media_type="application/octet-stream")

    async def labelled(self, model_name: str, label: str) -> Response:
        """Rejects a request for a version by TF-Serving's label.

        Args:
            model_name: the model's name in URLs.
            label: such as `stable`.

        Raises:
            NotLoaded: always; versions have no labels here.
        """
        await self._check_ready(model_name)
        number = self.plane.get_model_from_registry(model_name).version.number
        rule = f"the version of {model_name} must be given by its number, /versions/{number}, or left out"
        raise NotLoaded(f"{rule}; got the label {format_value(label, 50)}. Versions have no labels here.")

    async def other_verb(self, model_name: str, verb: str, request: Request) -> Response:
        """Rejects a request for a verb that the server lacks, unless what looks like one ends the name of a model.

        Args:
            model_name: what is before the last colon, the model's name in URLs.
            verb: what is behind it.
            request: its method and its path.

        Returns:
            What `model_ready` returns, for a model whose name holds a colon.

        Raises:
            HTTPException: the server has no such verb, or the path of that model takes another method.
        """
        name = f"{model_name}:{verb}"
        if name not in self.models.models or _version(request):
            rule, path = "the verb after a model must be :predict, :explain or :search", format_value(request.url.path, 200)
            raise HTTPException(404, f"{rule}; got {path}. {IMAGES_GO_TO}")
        if request.method not in READ_METHODS:
            raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": ", ".join(READ_METHODS)})
        return await self.model_ready(name, request)

    async def _check_version_ready(self, model_name: str, request: Request) -> None:
        await self._check_ready(model_name)
        self.plane.get_model_from_registry(model_name).check_version(_version(request))

    async def _check_ready(self, model_name: str) -> None:
        if not await self.plane.model_ready(model_name, True):
            raise ModelNotReady(model_name, "No version of it loads; the server's output says why.")


def _error_handler(status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handle(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status, RETRY_AFTER if status == 503 else None)

    return handle


async def _handle_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    reason, path = str(error.detail), format_value(request.url.path, 200)
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = ", ".join(sorted((error.headers or {}).get("Allow", "another one").split(", ")))
        reason = f"the method for {path} must be {allowed}; got {request.method}. {IMAGES_GO_TO}"
    elif reason == HTTPStatus.NOT_FOUND.phrase:
        reason = f"the path must be one that the server answers; got {path}. {IMAGES_GO_TO}"
    return JSONResponse({"error": reason}, error.status_code, headers=error.headers)


async def _reject_method() -> Response:
    raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": "POST"})


def _names_tag(request: Request, tag: str) -> bool:
    """Returns whether `If-None-Match` names an entity tag, by the weak comparison of RFC 9110, sections 8.8.3.2 and 13.1.2."""
    named = ",".join(request.headers.getlist("if-none-match"))
    return named.strip() == "*" or tag in OPAQUE_TAG.findall(named)


def _version(request: Request) -> str:
    """Returns the version that the path names; empty if it names none."""
    return str(request.path_params.get("version", ""))


async def _handle_failure(request: Request, error: Exception) -> Response:
    logging.getLogger("kserve").error("%s %s failed", request.method, request.url.path, exc_info=error)
    return JSONResponse({"error": "the server failed; its log says why."}, 500)
