"""Classifies failed requests of urllib3 and requests: worth retrying or not, and why in plain words."""

import http.client
import re
import socket
import ssl
from collections.abc import Iterator, Mapping

import requests
import urllib3

from kfp_vision import stores
from kfp_vision.stores.patience import RETRY_STATUS, Unanswered

TIMED_OUT = (urllib3.exceptions.TimeoutError, requests.Timeout, TimeoutError)
CUT_OFF = (ssl.SSLEOFError, ssl.SSLZeroReturnError)  # during the handshake, as when a server shuts down
GONE = (
    *TIMED_OUT,
    *CUT_OFF,
    urllib3.exceptions.ProtocolError,
    urllib3.exceptions.ProxyError,
    requests.ConnectionError,
    requests.exceptions.ChunkedEncodingError,
    ConnectionError,
)
REFUSED_BY_PROXY = re.compile(r"Tunnel connection failed: (\d{3})")


def of(error: BaseException, uri: str) -> BaseException:
    """Converts an error of a client library.

    Args:
        error: that was caught.
        uri: that was requested.

    Returns:
        The error to raise: `Unanswered` if a retry may help, else `UnreachableError`.
    """
    found = list(causes(error))
    for cause in found:
        if isinstance(cause, socket.gaierror):  # an unknown host name, or DNS itself is down
            temporary = cause.errno == socket.EAI_AGAIN
            return Unanswered("DNS does not answer" if temporary else "unknown host name", no_such_name=not temporary)
        if (by_proxy := REFUSED_BY_PROXY.search(str(cause))) and int(by_proxy[1]) not in RETRY_STATUS:
            return stores.unanswered(uri, f"HTTP {by_proxy[1]} from the proxy")
    cut_off = any(isinstance(cause, CUT_OFF) for cause in found)
    for cause in found:
        if isinstance(cause, ssl.SSLError | urllib3.exceptions.SSLError) and not cut_off:
            return stores.unanswered(uri, reason(error))
    retry = any(isinstance(cause, GONE) for cause in found)
    return Unanswered(reason(error)) if retry else stores.unanswered(uri, reason(error))


def busy(status: int, headers: Mapping[str, str]) -> Unanswered | None:
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
    return Unanswered(f"HTTP {status}", after=float(after) if after.isdecimal() else 0.0)


def reason(error: BaseException) -> str:
    """Returns a short description of an error, from the cause that explains it best."""
    *_, first = found = list(causes(error))
    for cause in reversed(found):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"an untrusted certificate ({cause.verify_message})"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    if any(isinstance(cause, TIMED_OUT) for cause in found):
        return "no answer in time"
    return "connection closed by the server" if isinstance(first, http.client.RemoteDisconnected) else type(first).__name__


def causes(error: BaseException) -> Iterator[BaseException]:
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
