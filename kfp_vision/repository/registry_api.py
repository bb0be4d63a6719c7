"""Asks a model registry over HTTP: JSON both ways, with a token or a password from the environment, and never for long.

The clients of both registries would bring 80 MB and 20 packages into every container image, for a dozen requests.
"""

import base64
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests
from urllib3.exceptions import HTTPError

from kfp_vision.core import json_text
from kfp_vision.core.errors import AccessError, InputError, UnreachableError

TIMEOUT = (5, 30)  # seconds to connect, and to wait for the next bytes of an answer
MAX_SECONDS = 60.0  # for the whole answer
MAX_ANSWER_BYTES, READ_BYTES = 64 << 20, 64 << 10
SERVICE_ACCOUNT_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")  # of every pod on Kubernetes


class NotRegistered(Exception):
    """The registry has no such entry."""


class RegistryApi:
    """The HTTP interface of a registry.

    Args:
        address: Such as `http://mlflow.example.org:5000`.
        headers: Of every request, such as Authorization.
    """

    def __init__(self, address: str, headers: Mapping[str, str]):
        self.address = address.rstrip("/")
        self._headers = dict(headers)

    def get(self, path: str, **parameters: Any) -> dict[str, Any]:
        """Reads an entry.

        Args:
            path: Below the address.
            **parameters: Of the query.

        Raises:
            NotRegistered: There is none.
            InputError: The registry refuses the request, or does not answer.
        """
        return self._request("GET", path, params=parameters)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Creates or changes an entry.

        Args:
            path: Below the address.
            body: The request, as JSON.

        Raises:
            NotRegistered: There is none.
            InputError: The registry refuses the request, or does not answer.
        """
        return self._request("POST", path, json=body)

    def put(self, path: str, content: bytes) -> None:
        """Uploads a file.

        Args:
            path: Below the address.
            content: The file.

        Raises:
            NotRegistered: There is no place for it.
            InputError: The registry refuses the request, or does not answer.
        """
        self._request("PUT", path, data=content)

    def _request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        url = f"{self.address}/{path}"
        try:
            answer = requests.request(method, url, headers=self._headers, timeout=TIMEOUT, stream=True, **options)
            body = _read_body(answer)
        except (requests.RequestException, HTTPError, ValueError) as error:
            rule, remedy = "a model registry must answer", "Check its address, and that it runs."
            raise UnreachableError(rule, f"{type(error).__name__} from {self.address}", remedy) from None
        if answer.status_code == 404:
            raise NotRegistered(path)
        if answer.status_code in (401, 403):
            rule, remedy = "a model registry must let this user in", "Set its token, or user name and password."
            raise AccessError(rule, f"HTTP {answer.status_code} from {url}", remedy)
        if not answer.ok:
            rule, remedy = "a model registry must accept the request", "See the registry's log."
            raise InputError(rule, f"HTTP {answer.status_code} from {url}: {_message(body)}", remedy)
        try:
            content: Any = json_text.parse(body) if body else {}
        except ValueError:
            content = None
        if not isinstance(content, dict):
            rule, remedy = "a model registry must answer with an object of JSON", "Give the address of its API, not of a page."
            raise InputError(rule, f"something else from {url}", remedy)
        return content


def authorization(token: str = "", user: str = "", password: str = "") -> dict[str, str]:
    """Returns the header that lets a user in; empty if there is nothing to send.

    Args:
        token: Bearer token.
        user: Name of a user, instead of a token.
        password: Of the user.
    """
    if token:
        return {"Authorization": f"Bearer {token}"}
    if user:
        return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}
    return {}


def service_account_token() -> str:
    """Returns the token of the pod's service account; empty outside of Kubernetes."""
    return SERVICE_ACCOUNT_TOKEN.read_text(encoding="utf-8").strip() if SERVICE_ACCOUNT_TOKEN.is_file() else ""


def setting(name: str) -> str:
    """Returns an environment variable without the white space that was pasted around it; empty if it is not set."""
    return os.environ.get(name, "").strip()


def _read_body(answer: requests.Response) -> bytes:
    """Reads an answer; the timeout of requests is for each read, so that a byte now and then would hold us for ever."""
    begun, parts, size = time.monotonic(), list[bytes](), 0
    with answer:
        while part := answer.raw.read1(READ_BYTES, decode_content=True):  # what has come, without waiting for more
            parts.append(part)
            size += len(part)
            if size > MAX_ANSWER_BYTES or time.monotonic() - begun > MAX_SECONDS:
                raise requests.Timeout(f"{size} bytes in {time.monotonic() - begun:.0f} s")
    return b"".join(parts)


def _message(body: bytes) -> str:
    """Returns what the registry says of an error, in one line."""
    try:
        text = str(json_text.parse(body).get("message", ""))
    except (ValueError, AttributeError):
        text = body.decode(errors="replace")
    return " ".join(text.split())[:300].rstrip(".")
