"""ASGI middleware that guards the server: bearer authentication, and limits on the size and slowness of request bodies."""

import asyncio
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse

from kfp_vision.prediction.authentication import BEARER_SCHEME, TOKEN_VARIABLE

MAX_BODY_BYTES = 32 << 20  # bytes
BODY_TIMEOUT_SECONDS = 20  # for a body, plus one second per...
MIN_BYTES_PER_SECOND = 16 << 10  # ...so many bytes of it: slower than a mobile network
PUBLIC_PATHS = ("/", "/v2/health/live", "/v2/health/ready")  # probes have no token, and the page asks for it
READ_METHODS = ("GET", "HEAD")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class BearerAuth:
    """Middleware that requires the bearer token, except for health, readiness and the page itself.

    Args:
        app: the application behind it.
        token: the expected token; empty to let everybody in.
    """

    def __init__(self, app: ASGIApp, token: str):
        self.app, self.token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers 401 (arguments as ASGI defines them)."""
        if scope["type"] == "http" and self.token and not (scope["path"] in PUBLIC_PATHS and scope["method"] in READ_METHODS):
            credentials = dict(scope["headers"]).get(b"authorization", b"")
            scheme, _, given = credentials.partition(b" ")
            is_valid = hmac.compare_digest(given.strip(), self.token)  # in constant time
            if not is_valid or scheme.lower() != BEARER_SCHEME.lower().encode():
                await _unauthorized(bool(credentials))(scope, receive, send)
                return
        await self.app(scope, receive, send)


class BodyLimit:
    """Middleware that rejects bodies of more than `MAX_BODY_BYTES` bytes, and those that arrive too slowly.

    Args:
        app: the application behind it.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers 408 or 413 (arguments as ASGI defines them)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > MAX_BODY_BYTES:
            await JSONResponse({"error": _too_large(int(announced))}, 413)(scope, receive, send)
            return
        arrived, is_complete = 0, False
        start = asyncio.get_running_loop().time()

        async def limited_receive() -> MutableMapping[str, Any]:
            nonlocal arrived, is_complete
            try:
                async with asyncio.timeout_at(
                    None if is_complete else start + BODY_TIMEOUT_SECONDS + arrived / MIN_BYTES_PER_SECOND
                ):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, _too_slow(arrived), {"Connection": "close"}) from None
            arrived += len(message.get("body", b""))
            is_complete = not message.get("more_body", False)
            if arrived > MAX_BODY_BYTES:
                raise HTTPException(413, _too_large(arrived))
            return message

        await self.app(scope, limited_receive, send)


def _unauthorized(has_credentials: bool) -> JSONResponse:
    found = "another token" if has_credentials else "no token"
    remedy = f"Send Authorization: {BEARER_SCHEME} and the token; kfp-vision predict takes it from {TOKEN_VARIABLE}."
    challenge = f'{BEARER_SCHEME} realm="kfp-vision"' + (
        ', error="invalid_token"' if has_credentials else ""
    )  # RFC 6750, section 3
    error = {"error": f"a request must carry the server's token; got {found}. {remedy}"}
    return JSONResponse(error, 401, {"WWW-Authenticate": challenge})


def _too_slow(size: int) -> str:
    allowed = f"{BODY_TIMEOUT_SECONDS} seconds plus one per {MIN_BYTES_PER_SECOND >> 10} KiB"
    return f"a body must arrive within {allowed}; got {size} bytes in that time. Send it faster, or send fewer images."


def _too_large(size: int) -> str:
    found = f"{size / (1 << 20):.1f} MiB or more"
    return f"a body must be at most {MAX_BODY_BYTES >> 20} MiB; got {found}. Send fewer or smaller images."
