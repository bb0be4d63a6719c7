"""What a request passes before it is answered: who may ask, how much may be sent, and how slowly."""

import asyncio
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse

from kfp_vision.access import SCHEME, VARIABLE

MAX_BODY = 32 << 20  # bytes
SECONDS_TO_SEND = 20  # a body, and one more for each...
SLOWEST = 16 << 10  # ...so many bytes of it: slower than a mobile network
FOR_EVERYBODY = ("/", "/v2/health/live", "/v2/health/ready")  # whoever looks after the server has no token
GET = ("GET", "HEAD")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Door:
    """Lets in who shows the token; health, readiness and the page without its answers are for everybody.

    Args:
        app: what is behind it.
        token: empty where everybody may ask.
    """

    def __init__(self, app: App, token: str):
        self.app, self.token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.token and not (scope["path"] in FOR_EVERYBODY and scope["method"] in GET):
            shown = dict(scope["headers"]).get(b"authorization", b"")
            scheme, _, given = shown.partition(b" ")
            known = hmac.compare_digest(given.strip(), self.token)  # takes as long whatever is wrong
            if not known or scheme.lower() != SCHEME.lower().encode():
                await _unknown(bool(shown))(scope, receive, send)
                return
        await self.app(scope, receive, send)


class LimitedBody:
    """Refuses a body of more than `MAX_BODY` bytes, by its header or while it arrives, and one that takes for ever."""

    def __init__(self, app: App):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        said = dict(scope["headers"]).get(b"content-length", b"0")
        if said.isdigit() and int(said) > MAX_BODY:
            await JSONResponse({"error": _too_large(int(said))}, 413)(scope, receive, send)
            return
        arrived, whole = 0, False
        began = asyncio.get_running_loop().time()

        async def counted() -> MutableMapping[str, Any]:
            nonlocal arrived, whole
            try:
                async with asyncio.timeout_at(None if whole else began + SECONDS_TO_SEND + arrived / SLOWEST):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, _too_slow(arrived), {"Connection": "close"}) from None
            arrived += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if arrived > MAX_BODY:
                raise HTTPException(413, _too_large(arrived))
            return message

        await self.app(scope, counted, send)


def _unknown(shown: bool) -> JSONResponse:
    found = "another token" if shown else "none"
    remedy = f"Send Authorization: {SCHEME} and the token; kfp-vision predict takes it from {VARIABLE}."
    challenge = f'{SCHEME} realm="kfp-vision"' + (', error="invalid_token"' if shown else "")  # RFC 6750, section 3
    error = {"error": f"a request must show the server's token; got {found}. {remedy}"}
    return JSONResponse(error, 401, {"WWW-Authenticate": challenge})


def _too_slow(size: int) -> str:
    allowed = f"{SECONDS_TO_SEND} seconds, and one more for each {SLOWEST >> 10} KiB of it"
    return f"a body must arrive within {allowed}; got {size} bytes of it in that time. Send it faster, or fewer pictures."


def _too_large(size: int) -> str:
    return (
        f"a body must be at most {MAX_BODY >> 20} MiB; got {size / (1 << 20):.1f} MiB or more. Send fewer or smaller pictures."
    )
