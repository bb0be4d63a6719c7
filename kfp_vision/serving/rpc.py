"""The Open Inference Protocol over gRPC: KServe's servicer, without its doors that load and unload models."""

import contextlib
import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from kserve.errors import ModelNotReady
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from kserve.protocol.grpc.servicer import InferenceServicer

from kfp_vision import access
from kfp_vision.serving import observing
from kfp_vision.serving.app import STATUS
from kfp_vision.serving.draining import SECONDS_TO_DRAIN
from kfp_vision.serving.guards import MAX_BODY

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
FOR_EVERYBODY = ("ServerLive", "ServerReady")
CLOSED = ("RepositoryModelLoad", "RepositoryModelUnload")


class Servicer(InferenceServicer):
    """KServe's, which would ask a model that is not there, or has no version that loads."""

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._refuse_unready(request.name)
        return await super().ModelMetadata(request, context)

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._refuse_unready(request.model_name)
        return await super().ModelInfer(request, context)

    async def _refuse_unready(self, name: str) -> None:
        if not await self._data_plane.model_ready(name, True):
            raise ModelNotReady(name)


class Door(grpc.aio.ServerInterceptor):
    """Lets in who shows the token, gives every refusal its code, and counts and notes every call.

    Args:
        token: what the metadata `authorization` must show, as the header of HTTP does; empty where everybody may ask.
    """

    def __init__(self, token: str):
        self._expected = access.header(token).encode() if token else b""

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler, name = await continuation(details), details.method.rpartition("/")[2]
        if handler is None or not handler.unary_unary:
            return handler
        shown = dict(details.invocation_metadata).get("authorization", "")
        known = not self._expected or name in FOR_EVERYBODY or hmac.compare_digest(shown.encode(), self._expected)

        async def answered(request: Any, context: Any) -> Any:
            said, reason = None, ""
            with observing.noted("grpc", "GRPC", details.method) as note:
                try:
                    if not known:
                        note.status, reason = 401, "a call must show the server's token as metadata authorization: Bearer TOKEN"
                    elif name in CLOSED:
                        note.status, reason = 501, "models are taken up from where they lie"
                    else:
                        said, note.status = await handler.unary_unary(request, context), 200
                except tuple(STATUS) as error:
                    note.status, reason = STATUS[type(error)], str(error)
                except Exception as error:
                    logging.getLogger("kserve").error("%s failed", details.method, exc_info=error)
                    reason = "the server failed; its log says why."
            if reason:
                await context.abort(CODES[note.status], reason)
            return said

        codecs = {"request_deserializer": handler.request_deserializer, "response_serializer": handler.response_serializer}
        return grpc.unary_unary_rpc_method_handler(answered, **codecs)


@contextlib.asynccontextmanager
async def answering(plane: DataPlane, token: str, address: str, _: Any) -> AsyncIterator[None]:
    """Answers gRPC at `host:port` as long as the body lasts, and then what was begun by then."""
    limits = [("grpc.max_receive_message_length", MAX_BODY), ("grpc.so_reuseport", 0)]
    server = grpc.aio.server(interceptors=[Door(token)], options=limits)
    add_GRPCInferenceServiceServicer_to_server(Servicer(plane, None), server)
    server.add_insecure_port(address)
    await server.start()
    try:
        yield
    finally:
        await server.stop(SECONDS_TO_DRAIN)
