"""What went wrong with a request, as urllib3 and requests tell it: whether waiting may help, and how a person calls it."""

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
CUT_OFF = (ssl.SSLEOFError, ssl.SSLZeroReturnError)  # in the middle of the handshake, as by a server that ends
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
    """What a store raises of an error: `Unanswered` where waiting may help, an `InputError` where it cannot."""
    found = list(causes(error))
    for cause in found:
        if isinstance(cause, socket.gaierror):  # DNS says that there is no such name, or does not answer itself
            known = cause.errno == socket.EAI_AGAIN
            return Unanswered("DNS does not answer" if known else "no host of that name", no_such_name=not known)
        if (by_proxy := REFUSED_BY_PROXY.search(str(cause))) and int(by_proxy[1]) not in RETRY_STATUS:
            return stores.unanswered(uri, f"HTTP {by_proxy[1]} of the proxy")
    cut_off = any(isinstance(cause, CUT_OFF) for cause in found)
    for cause in found:
        if isinstance(cause, ssl.SSLError | urllib3.exceptions.SSLError) and not cut_off:
            return stores.unanswered(uri, reason(error))
    waits = any(isinstance(cause, GONE) for cause in found)
    return Unanswered(reason(error)) if waits else stores.unanswered(uri, reason(error))


def busy(status: int, headers: Mapping[str, str]) -> Unanswered | None:
    """What a store raises of an answer that says to come again, maybe after some seconds; None of another answer."""
    if status not in RETRY_STATUS:
        return None
    after = headers.get("Retry-After", "").strip()
    return Unanswered(f"HTTP {status}", after=float(after) if after.isdecimal() else 0.0)


def reason(error: BaseException) -> str:
    """What went wrong, in the words of whoever was the first to know."""
    *_, first = found = list(causes(error))
    for cause in reversed(found):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"a certificate that is not trusted ({cause.verify_message})"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    if any(isinstance(cause, TIMED_OUT) for cause in found):
        return "no answer in time"
    return "hung up" if isinstance(first, http.client.RemoteDisconnected) else type(first).__name__


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it, the first cause last."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        told = [getattr(one, name, None) for name in ("reason", "original_error", "__cause__")]
        waiting += [other for other in (*told, *one.args) if isinstance(other, BaseException)]
