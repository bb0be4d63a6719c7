"""The Open Inference Protocol over gRPC: KServe's servicer, without the calls that load and unload models."""

import contextlib
import errno
import hmac
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from kfp_vision.core import ports
from kfp_vision.prediction import authentication
from kfp_vision.serving import telemetry
from kfp_vision.serving.app import STATUS_BY_ERROR
from kfp_vision.serving.draining import DRAIN_SECONDS
from kfp_vision.serving.kserve_parts import (
    DataPlane,
    InferenceServicer,
    ModelNotReady,
    add_GRPCInferenceServiceServicer_to_server,
)
from kfp_vision.serving.middleware import MAX_BODY_BYTES

GRPC_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
PUBLIC_METHODS = ("ServerLive", "ServerReady")
DISABLED_METHODS = ("RepositoryModelLoad", "RepositoryModelUnload")


class Servicer(InferenceServicer):
    """KServe's servicer, except that it rejects calls to a model that does not exist or has no version that loads."""

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Describes a model.

        Args:
            request: the protocol's ModelMetadataRequest.
            context: gRPC's.

        Returns:
            A ModelMetadataResponse.

        Raises:
            ModelNotReady: no version of the model loads.
            NotLoaded: another version answers than the request names.
        """
        await self._check_ready(request.name)
        self._check_version(request)
        return await super().ModelMetadata(request, context)

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answers whether a model is ready.

        Args:
            request: the protocol's ModelReadyRequest.
            context: gRPC's.

        Returns:
            A ModelReadyResponse.

        Raises:
            NotLoaded: another version answers than the request names.
        """
        response = await super().ModelReady(request, context)
        if response.ready:
            self._check_version(request)
        return response

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answers a prediction request.

        Args:
            request: the protocol's ModelInferRequest.
            context: gRPC's.

        Returns:
            A ModelInferResponse.

        Raises:
            ModelNotReady: no version of the model loads.
        """
        await self._check_ready(request.model_name)
        return await super().ModelInfer(request, context)

    async def _check_ready(self, name: str) -> None:
        if not await self._data_plane.model_ready(name, True):
            raise ModelNotReady(name)

    def _check_version(self, request: Any) -> None:
        self._data_plane.get_model_from_registry(request.name).check_version(request.version)


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Interceptor that requires the token, gives every rejection its code, and counts and logs every call.

    Args:
        token: expected in the metadata `authorization`, as in HTTP's header; empty to let everybody in.
    """

    def __init__(self, token: str):
        self._expected = authentication.authorization_header(token).encode() if token else b""

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Wraps the handler of a unary call.

        Args:
            continuation: returns the handler.
            handler_call_details: the method and metadata of the call.

        Returns:
            The wrapped handler; any other as it is.
        """
        details = handler_call_details
        handler, name = await continuation(details), details.method.rpartition("/")[2]
        if handler is None or not handler.unary_unary:
            return handler
        credentials = dict(details.invocation_metadata).get("authorization", "")
        is_allowed = not self._expected or name in PUBLIC_METHODS or hmac.compare_digest(credentials.encode(), self._expected)

        async def answer(request: Any, context: Any) -> Any:
            response, reason = None, ""
            with telemetry.record_request("grpc", "GRPC", details.method) as note:
                try:
                    if not is_allowed:
                        note.status = 401
                        reason = "a call must carry the server's token as metadata authorization: Bearer TOKEN"
                    elif name in DISABLED_METHODS:
                        note.status, reason = 501, "the server loads models from their folders, not on request"
                    else:
                        response, note.status = await handler.unary_unary(request, context), 200
                except tuple(STATUS_BY_ERROR) as error:
                    note.status, reason = STATUS_BY_ERROR[type(error)], str(error)
                except Exception as error:
                    logging.getLogger("kserve").error("%s failed", details.method, exc_info=error)
                    reason = "the server failed; its log says why."
            if reason:
                await context.abort(GRPC_CODES[note.status], reason)
            return response

        codecs = {"request_deserializer": handler.request_deserializer, "response_serializer": handler.response_serializer}
        return grpc.unary_unary_rpc_method_handler(answer, **codecs)


class GrpcServer:
    """A server of the Open Inference Protocol over gRPC.

    Args:
        plane: answers the calls.
        token: the token that calls must carry; empty to let everybody in.
        host: name or IPv4 address to listen on.
        port: to listen on.
    """

    def __init__(self, plane: DataPlane, token: str, host: str, port: int):
        self._plane, self._token, self._host, self._port = plane, token, host, port

    async def bind(self) -> None:
        """Takes the port; outside of the application's lifespan, in which any error is a traceback.

        Raises:
            InputError: another process has taken it since this one began.
        """
        limits = [("grpc.max_receive_message_length", MAX_BODY_BYTES), ("grpc.so_reuseport", 0)]
        self._server = grpc.aio.server(interceptors=[CallInterceptor(self._token)], options=limits)
        add_GRPCInferenceServiceServicer_to_server(Servicer(self._plane, None), self._server)
        ports.bind(self._host, self._port, "--grpc-port").close()  # gRPC would log several lines
        try:
            self._server.add_insecure_port(f"{self._host}:{self._port}")
        except RuntimeError:
            raise ports.taken(self._host, self._port, os.strerror(errno.EADDRINUSE), "--grpc-port") from None

    @contextlib.asynccontextmanager
    async def serve(self, _: Any) -> AsyncIterator[None]:
        """Answers while the body runs, then finishes the calls in flight.

        Args:
            _: the application whose lifespan this is.
        """
        await self._server.start()
        try:
            yield
        finally:
            await self._server.stop(DRAIN_SECONDS)
