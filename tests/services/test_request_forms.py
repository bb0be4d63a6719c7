"""Requests as clients write them: each line of the table in docs/data.md, sent to the real server."""

import base64
import contextlib
import gzip
import io
import json
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import requests
from PIL import Image
from support import colour_index, colour_model, data_page
from support.page_commands import ROOT

from kfp_vision.prediction.client import ServingClient
from kfp_vision.serving import server

PREDICT, SEARCH, INFER = "/v1/models/colours:predict", "/v1/models/colours:search", "/v2/models/colours/infer"
ORIGIN = "https://shop.example.org"
SECONDS = 300  # enough on a busy machine


def with_tail(image: bytes) -> bytes:
    """Appends bytes, which decoders ignore, so that + and / and two = are in the base64 of an image."""
    longer = image + b"\xfb\xef\xbe\xff\xff\xff\0" * 3
    return longer + bytes((1 - len(longer)) % 3)


RED, GREEN = (with_tail(colour_model.picture(colour)) for colour in ("red", "green"))


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    """Starts a server with an index that pages of one other origin may call, and yields its address."""
    root = tmp_path_factory.mktemp("served")
    model = colour_index.write_model(root / "model")
    colour_index.write(model, colour_index.write_pictures(root / "photos"), model / "serving" / "index")
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # only for this server
            patch.setenv("KFP_VISION_CORS_ORIGINS", f" {ORIGIN.upper()}/ , http://localhost:3000")
            address = stack.enter_context(server.run_server(model / "serving"))
        yield address


def b64(image: bytes) -> str:
    return base64.b64encode(image).decode()


def safe(image: bytes) -> str:
    text = base64.urlsafe_b64encode(image).decode()
    assert "-" in text and "_" in text and text.endswith("==")
    return text


def mime(image: bytes, line_end: str = "\n") -> str:
    """Returns base64 in lines, as Python's encodebytes, base64(1) and Java's MIME encoder write it."""
    text = base64.encodebytes(image).decode()
    assert text.count("\n") > 2
    return text.replace("\n", line_end)


FORMS = {
    "standard": b64,
    "line feeds": mime,
    "MIME": lambda image: mime(image, "\r\n"),
    "indented lines": lambda image: mime(image, "\n    "),
    "folded lines": lambda image: mime(image, " ").strip(),
    "white space around": lambda image: f" \t{b64(image)}\r\n\n",
    "no padding": lambda image: b64(image).rstrip("="),
    "too much padding": lambda image: f"{b64(image)}==",
    "URL-safe": safe,
    "URL-safe without padding": lambda image: safe(image).rstrip("="),
    "data: URL": lambda image: f"data:image/jpeg;base64,{b64(image)}",
    "data: URL with parameters": lambda image: f"DATA:image/jpeg;charset=x;name=a.jpg;BASE64, {mime(image)}",
    "data: URL without a type": lambda image: f"data:;base64,{safe(image).rstrip('=')}",
    "data: URL without its scheme": lambda image: f"image/png;base64,{b64(image)}",
    "percent-encoded": lambda image: quote(b64(image), safe=""),
    "percent-encoded data: URL": lambda image: quote(f"data:image/jpeg;base64,{b64(image)}", safe=""),
    "Python's repr": lambda image: str(base64.encodebytes(image)),
    "JSON within JSON": lambda image: json.dumps(b64(image)).replace("/", "\\/"),
    "byte order mark": lambda image: f"\ufeff{b64(image)}",
}


def rows(*instances: object, **fields: object) -> dict:
    return {"json": {"instances": list(instances)} | fields}


def columns(inputs: object) -> dict:
    return {"json": {"inputs": inputs}}


def tensor(*elements: object) -> dict:
    return {"name": "image_bytes", "shape": [len(elements)], "datatype": "BYTES", "data": list(elements)}


def binary(*elements: bytes) -> dict:
    """Returns a request with a binary tensor."""
    raw = b"".join(struct.pack("<I", len(one)) + one for one in elements)
    described = tensor(*elements) | {"parameters": {"binary_data_size": len(raw)}}
    del described["data"]
    head = json.dumps({"inputs": [described]}).encode()
    return {"data": head + raw, "headers": {"Inference-Header-Content-Length": str(len(head))}, "path": INFER}


def sent(body: bytes | str, kind: str = "", **headers: str) -> dict:
    return {"data": body, "headers": {"content-type": kind, **headers}}


def form(*parts: tuple[str, bytes | str]) -> dict:
    """Returns a form; a part is a file if it has a file name."""
    return {"files": [("image", (name or None, content)) for name, content in parts]}


def with_broken_metadata(image_format: str) -> bytes:
    """Encodes red with EXIF data in which a rational has no denominator, GPS is 0/0, and the orientation is a text."""
    entries = [(0x0112, 2, 4, b"up!\0"), (0x011A, 5, 1, struct.pack("<I", 100)), (0x8825, 4, 1, struct.pack("<I", 120))]
    directory = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    exif = b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4)
    exif = exif.ljust(100, b"\0") + struct.pack("<II", 72, 0)
    exif = exif.ljust(120, b"\0") + struct.pack("<HHHII", 1, 2, 5, 3, 150) + bytes(4)
    file = io.BytesIO()
    Image.new("RGB", (40, 30), colour_model.RGB["red"]).save(file, image_format, exif=b"Exif\0\0" + exif.ljust(180, b"\0"))
    return file.getvalue()


def numpy_file() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros((2, 2, 3), np.uint8))
    return file.getvalue()


VALID = json.dumps({"instances": [{"b64": b64(RED)}]})
FLAT, BUFFER = [255, 216, 255, 224], {"type": "Buffer", "data": list(RED)}
RULE = "must be base64 of an image file; got"
NOT_BASE64 = {
    "%%%": "base64 with the character % at 0",
    b64(RED)[:17] + "%" + b64(RED)[18:]: "base64 with the character % at 17",
    b64(RED)[:5] + "\u00e9" + b64(RED)[6:]: "base64 with the character U+00E9 at 5",
    mime(RED)[:200] + "!": "base64 with the character ! at 200",
    "QUE=" + b64(RED): "base64 that goes on after its padding at 3",
    b64(RED)[:41]: "base64 of 41 characters, one too many or too few",
    "": "an empty text",
    RED.hex(): "hexadecimal digits",
    "data:image/svg+xml,%3Csvg/%3E": "a data: URL without ;base64, before its data",
}
SOMETHING_ELSE = {
    b64(b64(RED).encode()): "got base64 of base64. Encode the file once.",
    b64(numpy_file()): "got base64 of a NumPy array.",
    b64(b"%PDF-1.7"): "got base64 of a PDF file.",
    b64(b"https://example.org/x.jpg"): "got base64 of an address.",
    b64(b"no image"): "got not an image in a known format. Formats: JPEG, PNG,",
}
# Keys: first cells of the table. Values: requests, each with the colours that the answer names, or with status and reason.
CASES: dict[str, list[tuple[dict, list[str] | tuple[int, str]]]] = {
    '`{"instances": [{"b64": "..."}]}`': [
        (rows({"b64": b64(RED)}, {"b64": b64(GREEN)}), ["red", "green"]),
        ({"json": {}}, (400, "got an empty object")),
        (rows(), (400, "got instances that hold an empty list")),
        ({"json": {"instances": {"b64": b64(RED)}}}, (400, "got instances that hold an object with the key b64")),
        ({"json": {"image": b64(RED)}}, (400, "got an object with the key image. List the images in instances.")),
    ],
    "an instance that is a text, or names its base64 otherwise": [
        (rows(b64(RED), {"image_bytes": {"b64": b64(GREEN)}}, {"image_bytes": b64(RED)}), ["red", "green", "red"]),
        (rows({"content": b64(GREEN), "mimeType": "image/jpeg"}, {"data": b64(RED)}), ["green", "red"]),
        (rows({"image": {"content": b64(RED)}, "features": []}, {"bytes": b64(GREEN)}), ["red", "green"]),
        (rows({"photo": b64(GREEN)}, {"key": "7", "input_1": {"b64": b64(RED)}}, [b64(GREEN)]), ["green", "red", "green"]),
        (rows({"a": "x", "b": "y"}), (400, f"instances[0] {RULE} an object with the keys a, b.")),
        (rows({"b64": 5}), (400, f"instances[0].b64 {RULE} a number.")),
        (rows(None), (400, f"instances[0] {RULE} null.")),
        (rows(tensor(b64(RED))), (400, "got a tensor of the Open Inference Protocol. Send that to /v2/models/NAME/infer.")),
    ],
    '`{"inputs": ...}`, TF-Serving\'s columns': [
        (columns({"b64": b64(RED)}), ["red"]),
        (columns([{"b64": b64(RED)}, b64(GREEN)]), ["red", "green"]),
        (columns({"image_bytes": [{"b64": b64(GREEN)}, {"b64": b64(RED)}]}), ["green", "red"]),
        (columns({"image_bytes": b64(GREEN)}), ["green"]),
        (columns({"image_bytes": [b64(RED), "%"]}), ["red", ""]),
        (columns({"image_bytes": ["%"]}), (400, f"inputs.image_bytes[0] {RULE} base64 with the character %")),
        ({"json": {"inputs": [b64(RED)], "instances": [b64(RED)]}}, (400, "got both")),
    ],
    "a tensor `image_bytes` of type BYTES": [
        ({"json": {"inputs": [tensor(b64(RED), safe(GREEN))]}, "path": INFER}, ["red", "green"]),
        (binary(GREEN, mime(RED).encode(), f"data:image/jpeg;base64,{b64(RED)}".encode()), ["green", "red", "red"]),
        ({"json": {"inputs": [tensor(b64(RED), "%")]}, "path": INFER}, ["red", ""]),
        ({"json": {"inputs": [tensor("%")]}, "path": INFER}, (400, f"image_bytes[0] {RULE} base64 with the character % at 0")),
        (
            {"json": {"inputs": [tensor(1.0) | {"datatype": "FP32"}]}, "path": INFER},
            (400, "got image_bytes of type FP32. Send image files, not"),
        ),
        (
            {"json": {"inputs": [tensor(b64(RED)), tensor(b64(GREEN)) | {"name": "more"}]}, "path": INFER},
            (400, "a request must have one input; got 2 tensors. Send all its images in one tensor, or"),
        ),
        (rows(b64(RED)) | {"path": INFER}, (400, 'got Field required at inputs. Send {"inputs": [{"name": "image_bytes",')),
    ],
    "base64 with line breaks or white space": [
        *((rows({"b64": FORMS[name](RED)}), ["red"]) for name in ("line feeds", "MIME", "folded lines", "white space around")),
        (
            rows(b64(RED).replace("+", " ")),
            (400, f"with a space at {b64(RED).index('+')}, where a + may have been. A form turns + into a space"),
        ),
        (rows(mime(RED).replace("+", " ")), (400, "where a + may have been")),
    ],
    "base64 that is URL-safe or lacks its padding": [
        (rows(*(FORMS[name](GREEN) for name in ("URL-safe", "no padding", "URL-safe without padding"))), ["green"] * 3)
    ],
    "base64 as a `data:` URL": [(rows(*(make(RED) for name, make in FORMS.items() if "data:" in name)), ["red"] * 5)],
    "base64 in quotes, or escaped once more": [
        (rows(*(FORMS[name](RED) for name in ("percent-encoded", "Python's repr", "JSON within JSON"))), ["red"] * 3)
    ],
    "an image file as the body": [
        (sent(RED, "image/jpeg"), ["red"]),
        (sent(GREEN, "application/octet-stream"), ["green"]),
        (sent(GREEN, "application/x-image"), ["green"]),
        (sent(RED, "application/x-www-form-urlencoded"), ["red"]),  # curl --data-binary
        (sent(VALID, "application/octet-stream"), ["red"]),
        (sent(b"no image", "image/jpeg"), (400, "not an image in a known format")),
        (
            sent(f"image={quote(b64(RED))}", "application/x-www-form-urlencoded"),
            (400, "the fields image of a URL-encoded form"),
        ),
        (sent(b""), (400, "got an empty body, no JSON")),
    ],
    "a form with files": [
        (form(("a.jpg", RED), ("b.jpg", GREEN), ("", "a text beside them")), ["red", "green"]),
        (form(("", "only a text")), (400, "a form must hold an image as file; got no file, but image.")),
    ],
    "base64 as the body, or in a form": [
        (sent(b64(RED), "image/jpeg"), ["red"]),
        (sent(f"data:image/jpeg;base64,{b64(GREEN)}", "text/plain"), ["green"]),
        (sent(json.dumps(b64(GREEN)), "application/json"), ["green"]),
        (form(("", f"data:image/jpeg;base64,{b64(RED)}")), ["red"]),
        (form(("image.txt", mime(GREEN))), ["green"]),
    ],
    "JSON with a byte order mark, or in UTF-16": [
        *((sent(VALID.encode(encoding)), ["red"]) for encoding in ("utf-8-sig", "utf-16", "utf-16-be")),
        (sent("no JSON".encode("utf-16")), (400, "must be JSON")),
    ],
    "an array of pixels, a list of numbers": [
        (
            rows([[[0, 0, 0]] * 2] * 4),
            (400, f"instances[0] {RULE} a nested list of shape 4 x 2 x 3, such as an array. Pixels are"),
        ),
        (rows({"image": [[0, 0, 0]]}), (400, f"instances[0].image {RULE} a nested list of shape 1 x 3")),
        (rows(*FLAT), (400, "got instances that hold a list of 4 numbers")),
        (rows(BUFFER), (400, f"instances[0].data {RULE} a list of {len(RED)} numbers")),
        (columns([0] * 1000), (400, "got inputs that hold a list of 1000 numbers")),
    ],
    "an address, the name of a file": [
        (rows("https://me:secret@example.org/x.jpg?sig=1"), (400, "got the address https://example.org/x.jpg?.... The server")),
        (
            rows({"image": {"source": {"imageUri": "gs://bucket/x.jpg"}}}),
            (400, "got the address gs://bucket/x.jpg. The server"),
        ),
        (rows("blob:https://example.org/7-1"), (400, "got the address blob:")),
        (rows("photos/rose.jpg"), (400, "got the name of a file, photos/rose.jpg. The server fetches nothing.")),
        (rows("C:\\photos\\rose.jpg"), (400, "got the name of a file, C:")),
    ],
    "a text that is not base64": [(rows({"b64": text}), (400, f"{RULE} {found}")) for text, found in NOT_BASE64.items()],
    "base64 of something else": [(rows({"b64": text}), (400, found)) for text, found in SOMETHING_ELSE.items()],
    "a good image beside a bad one": [
        (
            rows({"b64": b64(RED)}, {"b64": "%"}, {"b64": b64(b"no image")}, 7, {"b64": b64(GREEN)}),
            ["red", "", "", "", "green"],
        ),
        (rows(*"%!%!%"), (400, 'character % at 0. Send {"b64": "..."}, the bytes of the file in base64. 2 more are wrong.')),
        (
            rows("%", b64(b"no image")),
            (400, "got instances[0] must be base64 of an image file; got base64 with the character %"),
        ),
    ],
    "an image with broken metadata": [
        (rows(*(b64(with_broken_metadata(name)) for name in ("JPEG", "PNG", "WEBP")), b64(GREEN)), ["red"] * 3 + ["green"])
    ],
    "`/versions/N` behind the name of the model": [
        (rows(b64(RED)) | {"path": "/v1/models/colours/versions/1:predict"}, ["red"]),
        ({"json": {"inputs": [tensor(b64(RED))]}, "path": "/v2/models/colours/versions/1/infer"}, ["red"]),
    ],
    "another version, or a label": [
        (
            rows(b64(RED)) | {"path": "/v1/models/colours/versions/2:predict"},
            (404, "got 2, and of colours version 1 is loaded."),
        ),
        (
            rows(b64(RED)) | {"path": "/v1/models/colours/versions/2:search"},
            (404, "got 2, and of colours version 1 is loaded."),
        ),
        (rows(b64(RED)) | {"path": "/v1/models/colours/versions/x:predict"}, (404, "got x, and of colours version 1")),
        (
            rows(b64(RED)) | {"path": "/v1/models/colours/labels/stable:predict"},
            (404, "/versions/1, or left out; got the label"),
        ),
        (
            {"json": {"inputs": [tensor(b64(RED))]}, "path": "/v2/models/colours/versions/7/infer"},
            (404, "version 1 is loaded."),
        ),
        ({"method": "GET", "path": "/v1/models/colours/versions/2"}, (404, "version 1 is loaded.")),
        ({"method": "GET", "path": "/v2/models/colours/versions/2"}, (404, "version 1 is loaded.")),
        ({"method": "GET", "path": "/v2/models/colours/versions/2/ready"}, (404, "version 1 is loaded.")),
    ],
    "a compressed body": [
        (
            sent(gzip.compress(VALID.encode()), **{"content-encoding": "gzip"}),
            (415, "got Content-Encoding: gzip. Send it as it"),
        ),
        (sent(gzip.compress(VALID.encode())), (400, "got gzip-compressed data, no JSON")),
        (sent(VALID, **{"content-encoding": "identity"}), ["red"]),
    ],
    "another method, another path": [
        (sent(RED) | {"method": "PUT"}, (405, f"the method for {PREDICT} must be POST; got PUT. POST images to")),  # curl -T
        ({"method": "GET"}, (405, "must be POST; got GET")),
        (sent(RED) | {"path": "/predict"}, (404, "got /predict. POST images to /v1/models/NAME:predict")),
        (sent(RED) | {"path": "/v1/models/colours"}, (405, "must be GET, HEAD; got POST. POST images to")),
        *(
            ({"method": method, "path": path}, (404, f":predict, :explain or :search; got {path}. POST images to"))
            for method in ("POST", "GET", "DELETE")
            for path in ("/v1/models/colours:classify", "/v1/models/colours/versions/1:classify")
        ),
    ],
    "a page of another origin": [(rows(b64(RED)) | {"headers": {"Origin": ORIGIN}}, ["red"])],
}


def send(url: str, request: dict) -> requests.Response:
    options = {"method": "POST", "path": PREDICT} | request
    return requests.request(options.pop("method"), url + options.pop("path"), timeout=SECONDS, **options)


def colours(response: requests.Response) -> list[str]:
    assert response.status_code == 200, response.text
    answer = response.json()
    if "predictions" not in answer:
        return next(output["data"] for output in answer["outputs"] if output["name"] == "classes")
    return [one.get("classes", "") for one in answer["predictions"]]


def test_every_line_of_the_table_is_tested():
    assert data_page.first_cells("Requests to the server") == list(CASES)


@pytest.mark.parametrize(
    ("line", "number"), [(line, number) for line, requested in CASES.items() for number in range(len(requested))]
)
def test_a_request_gets_the_answer_of_the_table(url, line, number):
    request, expected = CASES[line][number]
    response = send(url, request)
    if isinstance(expected, list):
        assert colours(response) == expected
    else:
        assert (response.status_code, expected[1] in response.json()["error"]) == (expected[0], True), response.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404),
        ("POST", "/v1/models/colours:classify", 404),
        ("POST", "/v1/models/other:predict", 404),
        ("DELETE", "/v1/models", 405),
        ("PUT", PREDICT, 405),
    ],
)
def test_the_error_of_another_address_or_method_begins_as_its_page_says(url, method, path, status):
    response = send(url, {"method": method, "path": path})
    page = (ROOT / "docs" / "reference" / "http.md").read_text(encoding="utf-8")
    beginnings = re.findall(r"`([^`]+)`", "".join(re.findall(rf"^\| {status} \|.*\|(.*)\|$", page, re.MULTILINE)))
    assert response.status_code == status and response.json()["error"].startswith(tuple(beginnings)), response.text


def test_a_model_whose_name_holds_a_colon_is_answered_for(tmp_path):
    colour_model.write_version(tmp_path / "red:blue" / "1")
    with server.run_server(tmp_path) as address:
        assert send(address, {"method": "GET", "path": "/v1/models/red:blue"}).json()["name"] == "red:blue"
        assert colours(send(address, rows(b64(RED)) | {"path": "/v1/models/red:blue:predict"})) == ["red"]
        refused = send(address, rows(b64(RED)) | {"path": "/v1/models/red:blue"})
        assert (refused.status_code, "must be GET, HEAD; got POST" in refused.json()["error"]) == (405, True)
        refused = send(address, rows(b64(RED)) | {"path": "/v1/models/red:blue/versions/1:foo"})
        assert (refused.status_code, "must be :predict, :explain or :search" in refused.json()["error"]) == (404, True)


@pytest.mark.parametrize("name", FORMS)
def test_base64_of_a_client_is_read_wherever_images_are_taken(url, name):
    encode = FORMS[name]
    assert colours(send(url, rows({"b64": encode(RED)}, encode(GREEN)))) == ["red", "green"]
    assert colours(send(url, columns({"image_bytes": [encode(GREEN)]}))) == ["green"]
    assert colours(send(url, {"json": {"inputs": [tensor(encode(RED))]}, "path": INFER})) == ["red"]
    response = send(url, rows({"content": encode(with_tail(colour_index.picture(5)))}, top_k=3) | {"path": SEARCH})
    (answer,) = response.json()["predictions"]
    assert [Path(hit["path"]).name for hit in answer["hits"]] == colour_index.nearest(5, 3)


def test_columns_are_answered_as_tf_serving_does(url):
    answer = send(url, columns({"image_bytes": [{"b64": b64(GREEN)}, "%", {"b64": b64(RED)}]})).json()
    outputs = answer["outputs"]
    assert (outputs["classes"], outputs["class_idx"]) == (["green", "", "red"], [1, -1, 0])
    assert [round(sum(row), 5) for row in outputs["probabilities"]] == [1, 0, 1]
    assert [bool(reason) for reason in outputs["error"]] == [False, True, False]
    assert outputs["error"][1] == answer["predictions"][1]["error"]


def test_the_error_of_an_instance_says_which_one_it_is(url):
    answers = send(url, rows({"b64": b64(RED)}, {"image_bytes": {"b64": "a%"}})).json()["predictions"]
    assert answers[1]["error"].startswith(f"instances[1].image_bytes.b64 {RULE} base64 with the character % at 1.")


def test_an_image_of_the_index_is_named_by_its_id_and_another_one_may_have_an_id_too(url):
    image = colour_index.picture(5)
    (first,) = send(url, rows({"b64": b64(image), "id": "row-7"}, top_k=1) | {"path": SEARCH}).json()["predictions"]
    (again,) = send(url, rows({"id": first["hits"][0]["id"]}, top_k=1) | {"path": SEARCH}).json()["predictions"]
    assert [Path(answer["hits"][0]["path"]).name for answer in (first, again)] == ["05.png"] * 2


@pytest.mark.parametrize("path", ["/v1/models/colours", "/v1/models/colours/versions/1", "/v2/models/colours/versions/1/ready"])
def test_the_status_of_a_version_is_that_of_tf_serving(url, path):
    status = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    answer = requests.get(url + path, timeout=SECONDS).json()
    assert answer == {"name": "colours", "ready": True, "model_version_status": [status]}
    assert requests.get(f"{url}/v2/models/colours/versions/01", timeout=SECONDS).json()["versions"] == ["1"]


def test_the_client_takes_the_address_of_a_version(url):
    client = ServingClient(f" {url}/v1/models/colours/versions/1:predict\n")
    assert [answer.label for answer in client.classify([RED, GREEN])] == ["red", "green"]


def test_curl_sends_a_large_body_after_the_server_agrees(url, tmp_path):
    (tmp_path / "body").write_text(VALID + " " * (3 << 20))
    command = ["curl", "-sv", "-H", "Expect: 100-continue", "--data-binary", "@body", url + PREDICT]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "HTTP/1.1 100 Continue" in done.stderr and '"classes":"red"' in done.stdout


def preflight(url: str, origin: str) -> requests.Response:
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    return requests.options(url + PREDICT, headers=headers, timeout=SECONDS)


ALLOWED = "Access-Control-Allow-Origin"


@pytest.mark.parametrize("origin", [ORIGIN, "http://localhost:3000"])
def test_a_page_of_a_named_origin_may_call_the_server(url, origin):
    asked = preflight(url, origin)
    assert (asked.status_code, asked.headers[ALLOWED]) == (200, origin)
    assert "POST" in asked.headers["Access-Control-Allow-Methods"]
    assert asked.headers["Access-Control-Allow-Headers"] == "authorization"
    answers = [send(url, body | {"headers": {"Origin": origin}}) for body in (rows(b64(RED)), rows("%"), {"path": "/nowhere"})]
    assert [(answer.status_code, answer.headers[ALLOWED]) for answer in answers] == [(n, origin) for n in (200, 400, 404)]
    assert "KFP-Vision-Fingerprint" in answers[0].headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize("origin", ["https://other.example.org", "http://shop.example.org", "null"])
def test_a_page_of_another_origin_may_not(url, origin):
    assert preflight(url, origin).status_code == 400
    answer = send(url, rows(b64(RED)) | {"headers": {"Origin": origin}})
    assert answer.status_code == 200 and ALLOWED not in answer.headers


@pytest.mark.slow
def test_preflights_and_errors_need_no_token_to_be_read_by_a_page(tmp_path, monkeypatch):
    monkeypatch.setenv("KFP_VISION_TOKEN", "a-token")
    monkeypatch.setenv("KFP_VISION_CORS_ORIGINS", "*")
    colour_model.write_version(tmp_path / "1")
    with server.run_server(tmp_path) as url:
        assert preflight(url, ORIGIN).status_code == 200
        without = send(url, rows(b64(RED)) | {"headers": {"Origin": ORIGIN}})
        assert (without.status_code, without.headers[ALLOWED]) == (401, "*")
        headers = {"Origin": ORIGIN, "Authorization": "Bearer a-token"}
        large = send(url, {"data": bytes(33 << 20), "headers": headers})
        assert (large.status_code, large.headers[ALLOWED]) == (413, "*")
        assert colours(send(url, rows(b64(RED)) | {"headers": headers})) == ["red"]
        metrics = requests.get(f"{url}/metrics", headers=headers, timeout=SECONDS).text
        assert 'kfp_vision_requests_total{route="preflight",status="200"} 1.0' in metrics


@pytest.mark.slow
def test_without_the_setting_no_page_elsewhere_may_call_the_server(tmp_path):
    colour_model.write_version(tmp_path / "1")
    with server.run_server(tmp_path) as url:
        assert preflight(url, ORIGIN).status_code == 405
        assert ALLOWED not in send(url, rows(b64(RED)) | {"headers": {"Origin": ORIGIN}}).headers


def test_reports_an_invalid_origin_in_one_line(tmp_path):
    command = [sys.executable, "-m", "kfp_vision.cli", "serve", str(tmp_path), "--cors-origins", f"{ORIGIN}/page"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: --cors-origins must be * or origins of the form https://host or https://host:port, separated by commas; "
        f"got {ORIGIN}/page. Leave out any path, and write out each host; * allows all pages.\n"
    )
