"""What the server answers to: an open list of routes on KServe's data plane, every refusal a 4xx with its reason.

KServe's own application would let anybody unload the model, is ready with a broken one, and takes JSON by its header only.
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

from kfp_vision import __version__, reports
from kfp_vision.errors import shown
from kfp_vision.serving import protocols
from kfp_vision.serving.guards import App, Door, LimitedBody
from kfp_vision.serving.loaded import Busy
from kfp_vision.serving.model import MAX_PICTURES
from kfp_vision.serving.models import Models
from kfp_vision.serving.observing import Observed
from kfp_vision.serving.protocols import LABEL, TOP_K
from kfp_vision.serving.searching import NoIndex

V1_MODEL, V2_MODEL = "/v1/models/{model_name}", "/v2/models/{model_name}"
STATUS = {InvalidInput: 400, ClientDisconnect: 400, ModelNotFound: 404, NoIndex: 404}
STATUS |= {Busy: 503, ModelNotReady: 503, ServerNotReady: 503}
COME_AGAIN = {"Retry-After": "1"}  # seconds
LENGTH_HEADER = "inference-header-content-length"
SECONDS_KEPT = 24 * 3600  # a thumbnail, by a browser: what it is called by is a hash of the picture, so that it stays the same


class Plane(DataPlane):
    """KServe's data plane, ready when all its models are, and without the extension that loads and unloads models."""

    leaving = False

    def metadata(self) -> dict[str, Any]:
        return {"name": "kfp-vision", "version": __version__, "extensions": ["binary_tensor_data"]}

    async def model_metadata(self, model_name: str) -> dict[str, Any]:
        described = await super().model_metadata(model_name)
        model = self.get_model_from_registry(model_name)
        which = {"versions": [str(model.version.number)], "fingerprint": model.version.fingerprint}
        described |= which | {"platform": "tensorflow_savedmodel"}
        return described | ({"index": protocols.index_answer(model.searched.index)} if model.searched else {})

    async def ready(self) -> bool:
        return not self.leaving and not self.model_registry.broken


class Application:
    """The routes of the server; its methods are those that need more than KServe's endpoints give.

    Args:
        models: what answers.
        token: what a request must show; empty where everybody may ask.
    """

    def __init__(self, models: Models, token: str = ""):
        self.models, self.plane, self.token = models, Plane(model_registry=models), token

    def guarded(self, beside: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None) -> App:
        """The whole server as an ASGI application, with something `beside` it that lives as long."""
        v1, v2 = V1Endpoints(self.plane), V2Endpoints(self.plane)
        app = FastAPI(title="KFP Vision", version=__version__, docs_url=None, redoc_url=None, openapi_url=None, lifespan=beside)
        for path, answer in (
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
            app.add_api_route(path, answer, methods=["GET", "HEAD"], response_model=None)
        app.add_api_route(f"{V1_MODEL}:predict", self.predict, methods=["POST"], response_model=None)
        app.add_api_route(f"{V1_MODEL}:search", self.search, methods=["POST"], response_model=None)
        app.add_api_route(f"{V2_MODEL}/infer", self.infer, methods=["POST"], response_model=None)
        for kind, status in STATUS.items():
            app.add_exception_handler(kind, _refusal(status))
        app.add_exception_handler(StarletteHTTPException, _http_refusal)
        app.add_exception_handler(RequestValidationError, _refusal(400))
        app.add_exception_handler(Exception, _failure)
        app.add_middleware(LimitedBody)
        app.add_middleware(Door, token=self.token)
        return Observed(app)  # around all of it, so that what fails is seen as well

    def leave(self) -> None:
        """From here on the server is not ready, though it answers what comes."""
        self.plane.leaving = True

    async def page(self, request: Request) -> Response:
        """The page for people; for everybody else, that the server lives."""
        if "text/html" not in request.headers.get("accept", ""):
            return JSONResponse(await self.plane.live())
        here = str(request.base_url).rstrip("/")
        models = [
            {
                "name": model.name,
                "version": model.version.number,
                "labels": model.version.labels,
                "address": f"{here}{V1_MODEL.format(model_name=quote(model.name))}:predict",
                "indexed": model.searched.index.about.pictures if model.searched else 0,
            }
            for model in self.models.ready
        ]
        return HTMLResponse(reports.rendered("serving", models=models, asks_for_token=bool(self.token)))

    async def ready(self) -> Response:
        """Whether every model answers, and if not, which do not."""
        if await self.plane.ready():
            return JSONResponse({"ready": True})
        reason = f"not ready: {', '.join(self.models.broken)}" if self.models.broken else "the server is ending"
        return JSONResponse({"ready": False, "error": reason, "not_ready": self.models.broken}, 503, COME_AGAIN)

    async def model_ready(self, model_name: str) -> Response:
        """Whether a model answers."""
        await self._refuse_unready(model_name)
        return JSONResponse({"name": model_name, "ready": True})

    async def metadata(self, model_name: str) -> Response:
        """What a model takes and gives, and which version answers."""
        await self._refuse_unready(model_name)
        return JSONResponse(await self.plane.model_metadata(model_name))

    async def predict(self, model_name: str, request: Request) -> Response:
        """V1: JSON by its content, whatever its header says; or a form with pictures; or a picture itself."""
        await self._refuse_unready(model_name)
        payload = await _payload(request, (TOP_K,))
        answer, said = await self.plane.infer(model_name=model_name, request=payload, headers=dict(request.headers))
        return JSONResponse(answer, headers=said)

    async def search(self, model_name: str, request: Request) -> Response:
        """For each picture, as `predict` takes it or by the id of a hit: those of the index that are nearest to it."""
        await self._refuse_unready(model_name)
        model = self.plane.get_model_from_registry(model_name)
        return JSONResponse(await model.search(await _payload(request, (TOP_K, LABEL))))

    async def index(self, model_name: str) -> Response:
        """What lies with a model to search in."""
        await self._refuse_unready(model_name)
        return JSONResponse(protocols.index_answer(self.plane.get_model_from_registry(model_name).within().index))

    async def thumbnail(self, model_name: str, content_id: str, request: Request) -> Response:
        """A small JPEG of a picture of the index, by the id of a hit."""
        await self._refuse_unready(model_name)
        small = self.plane.get_model_from_registry(model_name).within().thumbnail(content_id)
        kept = {"Cache-Control": f"private, max-age={SECONDS_KEPT}, immutable", "ETag": f'"{content_id}"'}
        if request.headers.get("if-none-match") == kept["ETag"]:
            return Response(status_code=304, headers=kept)
        return Response(small, headers=kept, media_type="image/jpeg")

    async def infer(self, model_name: str, request: Request) -> Response:
        """Open Inference Protocol: JSON, or JSON followed by binary tensors."""
        await self._refuse_unready(model_name)
        body, headers = await request.body(), dict(request.headers)
        try:
            decoded = _v2_request(body, headers.get(LENGTH_HEADER), model_name)
        except ValidationError as error:
            first = error.errors()[0]
            raise _no_v2(f"{first['msg']} at {'.'.join(map(str, first['loc']))}") from None
        except (InferenceError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise _no_v2(f"{type(error).__name__}: {error}") from None
        answer, said = await self.plane.infer(model_name=model_name, request=decoded, headers=headers)
        content, length = answer.to_rest()
        if length is None:
            return JSONResponse(content, headers=said)
        return Response(content, headers={**said, LENGTH_HEADER: str(length)}, media_type="application/octet-stream")

    async def _refuse_unready(self, model_name: str) -> None:
        if not await self.plane.model_ready(model_name, True):
            raise ModelNotReady(model_name, "No version of it loads; the server's output says why.")


async def _payload(request: Request, fields: Sequence[str]) -> Any:
    """The body of a request as V1 has it: JSON by its content; or made of a form with pictures, or of a picture itself.

    Args:
        request: which is read.
        fields: that a form, or the address of any of them, may hold beside.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    payload: Any
    if kind == "multipart/form-data":
        form = await request.form(max_files=MAX_PICTURES)
        files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
        if not files:
            raise InvalidInput("a form must hold a picture as file; got none. Send it with curl -F file=@picture.jpg.")
        given = {name: part for name, part in form.multi_items() if isinstance(part, str) and name in fields}
        payload = {"instances": [await file.read() for file in files]} | given
    elif kind.startswith("image/"):
        payload = {"instances": [await request.body()]}
    else:
        payload = _json(await request.body())
    if isinstance(payload, dict):
        payload |= {name: request.query_params[name] for name in fields if name in request.query_params}
    return payload


def _refusal(status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status, COME_AGAIN if status == 503 else None)

    return answer


async def _http_refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    return JSONResponse({"error": str(error.detail)}, error.status_code, headers=error.headers)


async def _failure(request: Request, error: Exception) -> Response:
    logging.getLogger("kserve").error("%s %s failed", request.method, request.url.path, exc_info=error)
    return JSONResponse({"error": "the server failed; its log says why."}, 500)


def _v2_request(body: bytes, length: str | None, model_name: str) -> InferRequest:
    """A request of the Open Inference Protocol: JSON, or `length` bytes of JSON and then the tensors that it announces.

    KServe's own reader of the latter knows no bytes but those of text.
    """
    if length is None:
        return InferRequest.from_inference_request(InferenceRequest.model_validate(_json(body)), model_name)
    end = int(length)
    if not 0 < end <= len(body):
        raise ValueError(f"{LENGTH_HEADER} {end} for a body of {len(body)} bytes")
    described, rest = orjson.loads(body[:end]), body[end:]
    parameters, asked = described.get("parameters"), described.get("outputs") or []
    if any(not isinstance(one or {}, dict) for one in (parameters, *(output.get("parameters") for output in asked))):
        raise TypeError("parameters that are no dictionary")
    inputs, raw = [], []
    for tensor in described["inputs"]:
        inputs.append(InferInput(tensor["name"], tensor["shape"], tensor["datatype"], tensor.get("data")))
        size = 0 if "data" in tensor else tensor["parameters"]["binary_data_size"]
        raw.append(None if "data" in tensor else rest[:size])
        rest = rest[size:]
    if rest:
        raise ValueError(f"{len(rest)} bytes more than the tensors announce")
    return InferRequest(
        model_name,
        inputs,
        described.get("id"),
        raw_inputs=raw,
        parameters=parameters,
        request_outputs=[RequestedOutput(one["name"], one.get("parameters")) for one in asked],
    )


def _no_v2(found: str) -> InvalidInput:
    return InvalidInput(f"a body must follow the Open Inference Protocol; got {shown(found, 200)}.")


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        remedy = 'Send {"instances": [{"b64": "..."}]}, or a picture with curl -F file=@picture.jpg.'
        raise InvalidInput(f"a body must be JSON, or a form with a picture; got no JSON ({error}). {remedy}") from None
