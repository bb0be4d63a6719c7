"""Classifies failed requests of urllib3 and requests: worth retrying or not, and why in plain words."""

import http.client
import re
import socket
import ssl
from collections.abc import Iterator, Mapping

import requests
import urllib3

from kfp_vision.storage import base
from kfp_vision.storage.retry import RETRY_STATUS, ServerUnavailable

TIMEOUT_ERRORS = (urllib3.exceptions.TimeoutError, requests.Timeout, TimeoutError)
HANDSHAKE_ERRORS = (ssl.SSLEOFError, ssl.SSLZeroReturnError)  # during the handshake, as when a server shuts down
CONNECTION_ERRORS = (
    *TIMEOUT_ERRORS,
    *HANDSHAKE_ERRORS,
    urllib3.exceptions.ProtocolError,
    urllib3.exceptions.ProxyError,
    requests.ConnectionError,
    requests.exceptions.ChunkedEncodingError,
    ConnectionError,
)
PROXY_STATUS = re.compile(r"Tunnel connection failed: (\d{3})")


def convert_error(error: BaseException, uri: str) -> BaseException:
    """Converts an error of a client library.

    Args:
        error: that was caught.
        uri: that was requested.

    Returns:
        The error to raise: `ServerUnavailable` if a retry may help, else `UnreachableError`.
    """
    found = list(iter_causes(error))
    for cause in found:
        if isinstance(cause, socket.gaierror):  # an unknown host name, or DNS itself is down
            temporary = cause.errno == socket.EAI_AGAIN
            return ServerUnavailable("DNS does not answer" if temporary else "unknown host name", no_such_name=not temporary)
        if (by_proxy := PROXY_STATUS.search(str(cause))) and int(by_proxy[1]) not in RETRY_STATUS:
            return base.unreachable(uri, f"HTTP {by_proxy[1]} from the proxy")
    cut_off = any(isinstance(cause, HANDSHAKE_ERRORS) for cause in found)
    for cause in found:
        if isinstance(cause, ssl.SSLError | urllib3.exceptions.SSLError) and not cut_off:
            return base.unreachable(uri, describe_error(error))
    retry = any(isinstance(cause, CONNECTION_ERRORS) for cause in found)
    return ServerUnavailable(describe_error(error)) if retry else base.unreachable(uri, describe_error(error))


def convert_response(status: int, headers: Mapping[str, str]) -> ServerUnavailable | None:
    """Converts a response that asks for a retry.

    Args:
        status: of the response.
        headers: of the response; `Retry-After` is respected.

    Returns:
        The error to raise; None if the status does not ask for a retry.
    """
    if status not in RETRY_STATUS:
        return None
    after = headers.get("Retry-After", "").strip()
    return ServerUnavailable(f"HTTP {status}", after=float(after) if after.isdecimal() else 0.0)


def describe_error(error: BaseException) -> str:
    """Returns a short description of an error, from the cause that explains it best."""
    *_, first = found = list(iter_causes(error))
    for cause in reversed(found):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"an untrusted certificate ({cause.verify_message})"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    if any(isinstance(cause, TIMEOUT_ERRORS) for cause in found):
        return "no answer in time"
    return "connection closed by the server" if isinstance(first, http.client.RemoteDisconnected) else type(first).__name__


def iter_causes(error: BaseException) -> Iterator[BaseException]:
    """Yields an error and its causes, the root cause last."""
    seen: set[int] = set()
    pending = [error]
    while pending:
        one = pending.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        linked = [getattr(one, name, None) for name in ("reason", "original_error", "__cause__")]
        pending += [other for other in (*linked, *one.args) if isinstance(other, BaseException)]
