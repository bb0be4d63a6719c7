"""Reads the bodies of HTTP requests: V1's JSON, forms and image files, and the JSON and binary tensors of V2."""

import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

import orjson
from fastapi import HTTPException, Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException

from kfp_vision.core.errors import format_value
from kfp_vision.serving import instances
from kfp_vision.serving.kserve_parts import (
    InferenceError,
    InferenceRequest,
    InferInput,
    InferRequest,
    InvalidInput,
    RequestedOutput,
)
from kfp_vision.serving.middleware import MAX_BODY_BYTES
from kfp_vision.serving.model import MAX_IMAGES_PER_REQUEST
from kfp_vision.serving.protocols import INSTANCES

LENGTH_HEADER = "inference-header-content-length"
FILE_TYPES = ("image/", "application/octet-stream", "application/x-image")  # content types of a body that is a file
JSON_STARTS = (b"{", b"[")
GZIP_START = b"\x1f\x8b"
TOO_MANY_FILES = "Too many files"  # how Starlette's error begins
V1_EXAMPLE = 'Send {"instances": [{"b64": "..."}]}, or an image with curl -F file=@image.jpg.'
V2_EXAMPLE = 'Send {"inputs": [{"name": "image_bytes", "shape": [1], "datatype": "BYTES", "data": ["..."]}]}.'


class _NoObject(Exception):
    """The JSON of a V2 request is not an object."""


async def read_v1(request: Request, fields: Sequence[str]) -> Any:
    """Reads a V1 body: JSON, whatever the content type; or built from a form with images, or from an image as the body.

    Args:
        request: the request to read.
        fields: the parameters that the form, or the query string of any request, may hold.

    Returns:
        The body as decoded from JSON, in which images of forms and files are bytes.

    Raises:
        HTTPException: the body is compressed.
        InvalidInput: the body is none of these.
    """
    _check_not_compressed(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    payload: Any
    if kind == "multipart/form-data":
        payload = await _read_form(request, fields)
    else:
        body = await request.body()
        payload = {INSTANCES: [body]} if _is_file(body, kind) else _parse_json(body, kind)
    if isinstance(payload, str):  # an image in base64, in quotes
        payload = {INSTANCES: [payload]}
    if isinstance(payload, dict):
        payload |= {name: request.query_params[name] for name in fields if name in request.query_params}
    return payload


async def read_v2(request: Request, model_name: str, version: str = "") -> InferRequest:
    """Reads a V2 request.

    Args:
        request: the request to read.
        model_name: the model's name in URLs.
        version: the version that must answer; empty for the newest.

    Raises:
        HTTPException: the body is compressed.
        InvalidInput: the body does not follow the protocol.
    """
    _check_not_compressed(request)
    body = await request.body()
    try:
        parsed = _parse_v2(body, request.headers.get(LENGTH_HEADER), model_name)
    except _NoObject as error:
        raise _invalid_v2(f"{format_value(str(error), 50)}, which is no JSON object") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise _invalid_v2(f"{first['msg']} at {'.'.join(map(str, first['loc']))}") from None
    except (InferenceError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise _invalid_v2(f"{type(error).__name__}: {error}") from None
    parsed.model_version = version or None
    return parsed


def _check_not_compressed(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        found = f"Content-Encoding: {format_value(encoding, 50)}"
        reason = f"a body must not be compressed; got {found}. Send it as it is."
        raise HTTPException(415, reason, {"Accept-Encoding": "identity"})  # RFC 9110, section 15.5.16


async def _read_form(request: Request, fields: Sequence[str]) -> dict[str, Any]:
    """Returns the files of a form as instances, without files those texts that are base64 of an image."""
    if "boundary=" not in request.headers.get("content-type", "").lower():  # a page that sets the header itself omits it
        rule = "the content type of a form must name its boundary; got multipart/form-data without one"
        raise InvalidInput(f"{rule}. Do not set the header Content-Type: the browser or the client does.")
    try:
        form = await request.form(max_files=MAX_IMAGES_PER_REQUEST, max_part_size=MAX_BODY_BYTES)
    except StarletteHTTPException as error:
        if error.status_code != HTTPStatus.BAD_REQUEST:  # of the limits on a body
            raise
        raise InvalidInput(_describe_form_error(str(error.detail))) from None
    parts = form.multi_items()
    files = [await part.read() for _, part in parts if isinstance(part, UploadFile)]
    texts = [part for name, part in parts if isinstance(part, str) and name not in fields]
    images: list[Any] = files or [text for text in texts if instances.starts_like_base64(text[:64].encode(errors="replace"))]
    if not images:
        names = ", ".join(name for name, _ in parts)
        found = f"no file, but {format_value(names, 100)}" if names else "no file"
        raise InvalidInput(f"a form must hold an image as file; got {found}. Send it with curl -F file=@image.jpg.")
    given = {name: part for name, part in parts if isinstance(part, str) and name in fields}
    return {INSTANCES: images} | given


def _describe_form_error(found: str) -> str:
    if found.startswith(TOO_MANY_FILES):
        rule = f"a request must hold at most {MAX_IMAGES_PER_REQUEST} images; got a form with more files"
        return f"{rule}. Send several requests."
    found = format_value(found, 100).removesuffix(".")
    return f"a form must be as RFC 7578 has it; got: {found}. Send it with curl -F file=@image.jpg."


def _is_file(body: bytes, kind: str) -> bool:
    """Returns whether a body is an image or base64 of one, by its bytes or else its content type, and not JSON."""
    if instances.starts_like_image(body) or instances.starts_like_base64(body):
        return True
    return kind.startswith(FILE_TYPES) and not body[:64].lstrip().startswith(JSON_STARTS)


def _parse_json(body: bytes, kind: str) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        encoding = json.detect_encoding(body)
        if encoding != "utf-8":  # as Windows writes it: with a byte order mark, or in UTF-16
            try:
                return orjson.loads(body.decode(encoding))
            except (ValueError, UnicodeError):
                pass
        raise InvalidInput(
            f"a body must be JSON, or a form with an image; got {_describe(body, kind, error)}. {V1_EXAMPLE}"
        ) from None


def _describe(body: bytes, kind: str, error: Exception) -> str:
    if not body:
        return "an empty body, no JSON"
    if body.startswith(GZIP_START):
        return "gzip-compressed data, no JSON"
    names = [name for name, _ in parse_qsl(body[:1000].decode("latin-1"), max_num_fields=100)] if b"=" in body[:100] else []
    if kind == "application/x-www-form-urlencoded" and names and names[0].isidentifier():
        return f"the fields {format_value(', '.join(names), 100)} of a URL-encoded form, no JSON"
    return f"no JSON ({error})"


def _parse_v2(body: bytes, length: str | None, model_name: str) -> InferRequest:
    """Parses a V2 request: JSON, or `length` bytes of JSON followed by the binary tensors that it describes.

    KServe's own parser of binary tensors accepts only UTF-8 text in a BYTES tensor.
    """
    if length is None:
        return InferRequest.from_inference_request(InferenceRequest.model_validate(_parse_object(body)), model_name)
    end = int(length)
    if not 0 < end <= len(body):
        raise ValueError(f"{LENGTH_HEADER} {end} for a body of {len(body)} bytes")
    description, rest = _parse_object(body[:end]), body[end:]
    parameters, outputs = description.get("parameters"), description.get("outputs") or []
    if any(not isinstance(one or {}, dict) for one in (parameters, *(output.get("parameters") for output in outputs))):
        raise TypeError("parameters must be a dictionary")
    inputs, raw = [], []
    for tensor in description["inputs"]:
        inputs.append(InferInput(tensor["name"], tensor["shape"], tensor["datatype"], tensor.get("data")))
        size = 0 if "data" in tensor else tensor["parameters"]["binary_data_size"]
        raw.append(None if "data" in tensor else rest[:size])
        rest = rest[size:]
    if rest:
        raise ValueError(f"{len(rest)} bytes after the last tensor")
    return InferRequest(
        model_name,
        inputs,
        description.get("id"),
        raw_inputs=raw,
        parameters=parameters,
        request_outputs=[RequestedOutput(one["name"], one.get("parameters")) for one in outputs],
    )


def _parse_object(body: bytes) -> dict[str, Any]:
    payload = orjson.loads(body)
    if not isinstance(payload, dict):
        raise _NoObject(body[:100].decode(errors="replace").strip())
    return payload


def _invalid_v2(found: str) -> InvalidInput:
    return InvalidInput(f"a body must follow the Open Inference Protocol; got {format_value(found, 200)}. {V2_EXAMPLE}")
