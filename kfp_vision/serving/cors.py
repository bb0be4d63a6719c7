"""CORS: lets pages of other origins call the server, if a setting names the origins."""

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kfp_vision.core.errors import FieldError

if TYPE_CHECKING:
    from kfp_vision.serving.middleware import ASGIApp

ORIGINS_VARIABLE, ORIGINS_OPTION = "KFP_VISION_CORS_ORIGINS", "--cors-origins"
EVERY_ORIGIN = "*"
ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
DEFAULT_PORTS = {"http": "80", "https": "443"}  # which browsers leave out
MAX_PORT = 65535
METHODS = ("GET", "HEAD", "POST")
RESPONSE_HEADERS = ("KFP-Vision-Fingerprint", "Inference-Header-Content-Length", "Retry-After", "WWW-Authenticate")


def read_origins(option: str | None = None) -> list[str]:
    """Reads the origins of pages that may call the server: a comma-separated list, or `*` for all.

    Args:
        option: the value of the command's option; None if it is not given, for that of the environment.

    Returns:
        The origins as browsers send them; none if no setting names any.

    Raises:
        FieldError: one of them is no origin.

    Example:
        read_origins("https://shop.example.org, http://localhost:3000")
    """
    name, value = (ORIGINS_VARIABLE, os.environ.get(ORIGINS_VARIABLE, "")) if option is None else (ORIGINS_OPTION, option)
    origins = [_normalized(origin, name) for origin in value.split(",") if origin.strip()]
    return [EVERY_ORIGIN] if EVERY_ORIGIN in origins else list(dict.fromkeys(origins))


def allow_origins(app: "ASGIApp", origins: Sequence[str]) -> "ASGIApp":
    """Wraps an application in the answers to browsers' preflight requests, and the headers for the origins.

    It goes around the authentication, since a preflight carries no token, and around everything that answers with an error,
    which a page can read only with the headers.

    Args:
        app: the application.
        origins: as `read_origins` returns them.

    Returns:
        The wrapped application; the same one if there are no origins.
    """
    if not origins:
        return app
    from starlette.middleware.cors import CORSMiddleware

    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=METHODS,
        allow_headers=["*"],
        allow_private_network=True,  # a server in a private network is what a named origin is for
        expose_headers=RESPONSE_HEADERS,
    )


def _normalized(origin: str, name: str) -> str:
    text = origin.strip().lower().removesuffix("/")
    if text == EVERY_ORIGIN:
        return text
    match = ORIGIN.fullmatch(text)
    if not match or int(match[3] or 0) > MAX_PORT:
        rule = f"{name} must be * or origins of the form https://host or https://host:port, separated by commas"
        raise FieldError(rule, origin.strip(), "Leave out any path, and write out each host; * allows all pages.")
    scheme, host, port = match.groups()
    return f"{scheme}://{host}" + ("" if port in (None, DEFAULT_PORTS.get(scheme)) else f":{int(port)}")
