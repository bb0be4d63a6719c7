"""The server as a separate process on a free port, tested over HTTP and gRPC."""

import base64
import contextlib
import hashlib
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from PIL import Image
from support import colour_model, exported_model, model_servers
from support.model_servers import ended
from support.permissions import AS_ANYONE

from kfp_vision.core.errors import InputError
from kfp_vision.prediction.client import FINGERPRINT_HEADER, ServingClient
from kfp_vision.repository.version import Version
from kfp_vision.serving import server

PREDICT, INFER = "/v1/models/colours:predict", "/v2/models/colours/infer"
SECONDS = 300  # enough on a busy machine
MIB = 1 << 20
REQUESTS = 4_000
STATUS = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}  # as of TF-Serving
UNBUFFERED = {"PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="module")
def version(tmp_path_factory) -> Path:
    """Returns version 1 of the colours model, to be copied."""
    return colour_model.write_version(tmp_path_factory.mktemp("version") / "1")


@pytest.fixture(scope="module")
def url(version) -> Iterator[str]:
    with server.run_server(version.parent) as address:
        yield address


def b64(image: bytes) -> str:
    return base64.b64encode(image).decode()


def tensor(*elements: object, **changes: object) -> dict:
    return {"name": "image_bytes", "shape": [len(elements)], "datatype": "BYTES", "data": list(elements)} | changes


def post(address: str, body: object, **options) -> requests.Response:
    return requests.post(address, data=json.dumps(body), timeout=SECONDS, **options)


def names(response: requests.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [one.get("classes", "") for one in response.json()["predictions"]]


def refusal(response: requests.Response) -> str:
    """Returns the reason for a rejection, after checking that it has no traceback and that the server still answers."""
    assert 400 <= response.status_code < 500, response.text
    reason = response.json()["error"]
    assert reason and "Traceback" not in reason and "\n" not in reason
    parts = urlsplit(response.url)
    again = post(f"{parts.scheme}://{parts.netloc}{PREDICT}", {"instances": [{"b64": b64(colour_model.picture("blue"))}]})
    assert names(again) == ["blue"]
    return reason


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("colour", colour_model.RGB)
def test_classifies_images_of_every_format(url, colour, image_format):
    response = post(url + PREDICT, {"instances": [{"b64": b64(colour_model.picture(colour, image_format))}]})
    assert names(response) == [colour]
    (answer,) = response.json()["predictions"]
    assert answer.keys() == {"classes", "class_idx", "probabilities"}
    assert list(colour_model.RGB)[answer["class_idx"]] == colour
    assert answer["probabilities"][answer["class_idx"]] > 0.99
    assert sum(answer["probabilities"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded", "text/plain; charset=utf-8", ""])
def test_accepts_json_with_any_content_type(url, kind):
    body = {"instances": [{"b64": b64(colour_model.picture("green"))}]}
    assert names(post(url + PREDICT, body, headers={"content-type": kind})) == ["green"]


def test_accepts_the_byte_formats_of_tensorflow_serving_clients(url):
    text = b64(colour_model.picture("red"))
    assert names(post(url + PREDICT, {"instances": [text, {"image_bytes": {"b64": text}}]})) == ["red", "red"]


def test_accepts_a_form_with_several_images(url):
    files = [("file", (f"{colour}.jpg", colour_model.picture(colour))) for colour in colour_model.RGB]
    assert names(requests.post(url + PREDICT, files=files, timeout=SECONDS)) == list(colour_model.RGB)


def test_accepts_requests_of_curl(url, tmp_path):
    (tmp_path / "x.jpg").write_bytes(colour_model.picture("blue"))
    body = {"instances": [{"b64": b64(colour_model.picture("red"))}]}
    (tmp_path / "body.json").write_text(json.dumps(body))
    for options, expected in ((["-F", "file=@x.jpg"], "blue"), (["-d", "@body.json"], "red")):
        command = [curl(), "--silent", "--fail", *options, url + PREDICT]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, text=True)
        assert json.loads(done.stdout)["predictions"][0]["classes"] == expected


def curl() -> str:
    from support.skip import leave_out

    return shutil.which("curl") or leave_out("no curl on this machine")


KSERVES_CLIENT = """
import asyncio, json, sys
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

url, protocol, *files = sys.argv[1:]
pictures = np.array([open(file, "rb").read() for file in files], object)
tensor = InferInput("image_bytes", [len(files)], "BYTES")
tensor.set_data_from_numpy(pictures)

async def ask():
    client = InferenceRESTClient(RESTConfig(protocol=protocol))
    assert await client.is_server_live(url)
    assert await client.is_model_ready(url, "colours")
    if protocol == "v2":
        assert await client.is_server_ready(url)
        answer = await client.infer(url, InferRequest("colours", [tensor]), "colours")
        return answer.get_output_by_name("classes").as_numpy().tolist()
    import base64
    instances = [{"b64": base64.b64encode(picture).decode()} for picture in pictures]
    return [one["classes"] for one in (await client.infer(url, {"instances": instances}, "colours"))["predictions"]]

print(json.dumps([name if isinstance(name, str) else name.decode() for name in asyncio.run(ask())]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_answers_kserves_own_client(url, tmp_path, protocol):
    for colour in ("blue", "red"):
        (tmp_path / f"{colour}.jpg").write_bytes(colour_model.picture(colour))
    command = [sys.executable, "-c", KSERVES_CLIENT, url, protocol, str(tmp_path / "blue.jpg"), str(tmp_path / "red.jpg")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert (done.returncode, done.stdout) == (0, '["blue", "red"]\n'), done.stderr


def test_accepts_an_image_as_the_whole_body(url):
    response = requests.post(
        url + PREDICT, data=colour_model.picture("green"), headers={"content-type": "image/jpeg"}, timeout=SECONDS
    )
    assert names(response) == ["green"]


def test_one_bad_image_does_not_fail_its_batch(url):
    instances = [{"b64": b64(colour_model.picture("red"))}, {"b64": "%%%"}, {"b64": b64(b"no picture")}, 7, {}]
    instances += [{"b64": b64(colour_model.picture("blue")[:-40])}, {"b64": b64(colour_model.picture("green"))}]
    response = post(url + PREDICT, {"instances": instances})
    assert names(response) == ["red", "", "", "", "", "", "green"]
    reasons = [one.get("error") for one in response.json()["predictions"]]
    assert "the character % at 0" in reasons[1] and "known format" in reasons[2]
    assert "got a number" in reasons[3] and "got an empty object" in reasons[4]
    assert reasons[5] and reasons[0] is reasons[6] is None


def outputs(response: requests.Response) -> dict[str, list]:
    assert response.status_code == 200, response.text
    return {output["name"]: output["data"] for output in response.json()["outputs"]}


def test_speaks_the_open_inference_protocol(url):
    request_tensor = tensor(*(b64(colour_model.picture(colour)) for colour in ("green", "red")))
    response = post(url + INFER, {"id": "7", "inputs": [request_tensor]})
    answer = outputs(response)
    assert answer["classes"] == ["green", "red"] and answer["class_idx"] == [1, 0]
    assert len(answer["probabilities"]) == 6 and "error" not in answer
    assert {key: response.json()[key] for key in ("id", "model_name", "model_version")} == {
        "id": "7",
        "model_name": "colours",
        "model_version": "1",
    }


def test_accepts_tensors_as_binary_data(url):
    images = [colour_model.picture("blue"), colour_model.picture("red", "PNG")]
    raw = b"".join(struct.pack("<I", len(image)) + image for image in images)
    described = tensor(*images, parameters={"binary_data_size": len(raw)})
    del described["data"]
    head = json.dumps({"inputs": [described]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "content-type": "application/octet-stream"}
    assert outputs(requests.post(url + INFER, data=head + raw, headers=headers, timeout=SECONDS))["classes"] == ["blue", "red"]


def test_returns_tensors_as_binary_data_on_request(url):
    body = {"inputs": [tensor(b64(colour_model.picture("blue")))], "parameters": {"binary_data_output": True}}
    response = post(url + INFER, body)
    length = int(response.headers["Inference-Header-Content-Length"])
    sizes = {one["name"]: one["parameters"]["binary_data_size"] for one in json.loads(response.content[:length])["outputs"]}
    assert sizes == {"classes": 4 + len("blue"), "class_idx": 8, "probabilities": 12}
    assert response.content[length:][:16] == struct.pack("<I4sq", 4, b"blue", 2)


def test_one_bad_image_does_not_fail_its_tensor(url):
    answer = outputs(post(url + INFER, {"inputs": [tensor(b64(colour_model.picture("red")), "%%%")]}))
    assert (answer["classes"], answer["class_idx"]) == (["red", ""], [0, -1])
    assert answer["error"][0] == "" and "base64" in answer["error"][1]


def top_labels(response: requests.Response) -> list[list[str]]:
    assert response.status_code == 200, response.text
    for prediction in response.json()["predictions"]:
        scores = [one["score"] for one in prediction["top_k"]]
        assert scores == sorted(prediction["probabilities"], reverse=True)[: len(scores)]
        assert all(prediction["probabilities"][one["class_idx"]] == one["score"] for one in prediction["top_k"])
    return [[one["label"] for one in prediction["top_k"]] for prediction in response.json()["predictions"]]


def draw_mixed_colour(red: int, green: int, blue: int) -> bytes:
    """Returns an image whose classes rank in the order of its colour channels."""
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (red, green, blue)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("k", [1, 2, 3, 99])
def test_returns_the_top_k_classes(url, k):
    encoded = draw_mixed_colour(90, 60, 120)
    image = {"instances": [{"b64": b64(encoded)}]}
    answers = [
        post(f"{url}{PREDICT}?top_k={k}", image),
        post(url + PREDICT, image | {"top_k": k}),
        requests.post(url + PREDICT, data={"top_k": k}, files={"file": encoded}, timeout=SECONDS),
        requests.post(f"{url}{PREDICT}?top_k={k}", data=encoded, headers={"content-type": "image/png"}, timeout=SECONDS),
    ]
    assert [top_labels(response) for response in answers] == [[["blue", "red", "green"][:k]]] * 4


def test_returns_the_top_k_classes_as_tensors(url):
    request_tensor = tensor(b64(draw_mixed_colour(60, 120, 10)), "%%%", b64(draw_mixed_colour(120, 10, 60)))
    response = post(url + INFER, {"inputs": [request_tensor], "parameters": {"top_k": 2}})
    shapes = {one["name"]: one["shape"] for one in response.json()["outputs"]}
    answer = outputs(response)
    assert shapes["top_k_classes"] == shapes["top_k_class_idx"] == shapes["top_k_scores"] == [3, 2]
    assert answer["top_k_classes"] == ["green", "red", "", "", "red", "blue"]
    assert answer["top_k_class_idx"] == [1, 0, -1, -1, 0, 2]
    assert answer["top_k_scores"][0] > answer["top_k_scores"][1] > answer["top_k_scores"][2] == answer["top_k_scores"][3] == 0


@pytest.mark.parametrize("k", ["0", "-1", "1.5", "x", "", "9" * 5000])
def test_rejects_an_invalid_top_k_in_the_query(url, k):
    body = {"instances": [{"b64": b64(colour_model.picture("red"))}]}
    assert "top_k must be a positive integer; got " in refusal(post(f"{url}{PREDICT}?top_k={k}", body))


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "x", [3], {"k": 3}, 10**30])
def test_rejects_an_invalid_top_k_in_the_body(url, k):
    body = {"instances": [{"b64": b64(colour_model.picture("red"))}], "top_k": k}
    assert "top_k must be a positive integer; got " in refusal(post(url + PREDICT, body))
    assert refusal(post(url + INFER, {"inputs": [tensor(b64(colour_model.picture("red")))], "parameters": {"top_k": k}}))


@pytest.mark.parametrize(
    "changes", [{"parameters": [1]}, {"parameters": "x"}, {"outputs": [{"name": "classes", "parameters": [1]}]}]
)
def test_rejects_invalid_parameters_as_a_client_error(url, changes):
    body = json.dumps({"inputs": [tensor(b64(colour_model.picture("red")))]} | changes)
    headers = {"Inference-Header-Content-Length": str(len(body))}
    for options in ({}, {"headers": headers}):
        assert "Open Inference Protocol" in refusal(requests.post(url + INFER, data=body, timeout=SECONDS, **options))


def test_returns_only_the_requested_tensors(url):
    body = {"inputs": [tensor(b64(colour_model.picture("blue")))], "outputs": [{"name": "classes"}]}
    assert outputs(post(url + INFER, body)) == {"classes": ["blue"]}
    assert "nonsense" in refusal(post(url + INFER, body | {"outputs": [{"name": "nonsense"}]}))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", {"status": "alive"}),
        ("/v1/models", {"models": ["colours"]}),
        ("/v1/models/colours", {"name": "colours", "ready": True, "model_version_status": [STATUS]}),
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models", {"models": ["colours"]}),
        ("/v2/models/colours/ready", {"name": "colours", "ready": True, "model_version_status": [STATUS]}),
    ],
)
def test_reports_liveness_and_readiness(url, path, expected):
    response = requests.get(url + path, timeout=SECONDS)
    assert (response.status_code, response.json()) == (200, expected)


def test_every_answer_names_the_fingerprint_of_its_version(url, version):
    digest = hashlib.sha256()
    for file in sorted(path for path in version.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(version)} {file.stat().st_size}\n".encode() + file.read_bytes())
    image = b64(colour_model.picture("red"))
    instances, explain = {"instances": [{"b64": image}]}, PREDICT.replace(":predict", ":explain")
    responses = [post(url + path, instances) for path in (PREDICT, explain)] + [post(url + INFER, {"inputs": [tensor(image)]})]
    assert [response.headers["KFP-Vision-Fingerprint"] for response in responses] == [digest.hexdigest()] * 3
    service = ServingClient(f"{url}/v1/models/colours")
    assert service.fingerprint == ""
    service.classify([colour_model.picture("red")])
    assert service.fingerprint == digest.hexdigest()


def test_describes_its_model_and_counts_its_requests(url):
    described = requests.get(f"{url}/v2/models/colours", timeout=SECONDS).json()
    assert described["versions"] == ["1"]
    assert len(described["fingerprint"]) == 64
    assert [(one["name"], one["datatype"]) for one in described["inputs"]] == [("image_bytes", "BYTES")]
    assert [one["name"] for one in described["outputs"]] == ["classes", "class_idx", "probabilities"]
    metrics = requests.get(f"{url}/metrics", timeout=SECONDS).text
    assert 'request_predict_seconds_count{model_name="colours"}' in metrics


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/repository/models/colours/unload"),
        ("POST", "/v2/repository/models/colours/load"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("DELETE", "/v1/models/colours"),
    ],
)
def test_unused_routes_are_disabled(url, method, path):
    response = requests.request(method, url + path, timeout=SECONDS)
    assert response.status_code in (404, 405) and response.json()["error"]
    assert requests.get(f"{url}/v1/models/colours", timeout=SECONDS).json()["ready"] is True


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "must be JSON"),
        ("{", "must be JSON"),
        ("\xff\xfe", "must be JSON"),
        ("[]", "instances"),
        ("[1]", "instances"),
        ("null", "instances"),
        ("{}", "instances"),
        ('{"instances": []}', "instances"),
        ('{"instances": {"b64": ""}}', "instances"),
        ('{"instances": [{"b64": ""}]}', "empty"),
        ('{"instances": [{"b64": 5}]}', "got a number"),
        ('{"instances": [{"b64": "bm8gcGljdHVyZQ=="}]}', "known format"),
        (json.dumps({"instances": ["x"] * 257}), "at most 256 images; got 257"),
        ("[" * 100_000, "must be JSON"),
    ],
    ids=range(14),
)
def test_rejects_an_invalid_body_with_a_reason(url, body, reason):
    assert reason in refusal(requests.post(url + PREDICT, data=body.encode("latin-1"), timeout=SECONDS))


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ([], "type BYTES; got no input"),
        ([tensor()], "empty tensor"),
        ([tensor("bm8gcGljdHVyZQ==", shape=[3])], "size of its shape"),
        ([tensor("bm8gcGljdHVyZQ==", shape=[-4])], "size of its shape"),
        ([tensor(1.0, datatype="FP32")], "type FP32"),
        ([tensor(1.0, datatype="NONSENSE")], "NONSENSE"),
        ([{"name": "image_bytes"}], "Open Inference Protocol"),
        ("text", "Open Inference Protocol"),
        ([tensor("bm8gcGljdHVyZQ==")], "known format"),
    ],
    ids=range(9),
)
def test_rejects_an_invalid_tensor_with_a_reason(url, inputs, reason):
    assert reason in refusal(post(url + INFER, {"inputs": inputs}))


@pytest.mark.parametrize("length", ["abc", "-5", "0", "99999", "2"])
def test_rejects_an_invalid_header_as_a_client_error(url, length):
    body = json.dumps({"inputs": [tensor("bm8=", parameters={"binary_data_size": 77})]})
    headers = {"Inference-Header-Content-Length": length}
    assert "Open Inference Protocol" in refusal(requests.post(url + INFER, data=body, headers=headers, timeout=SECONDS))


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        ("multipart/form-data", "x", "boundary"),
        ("multipart/form-data; boundary=b", "x", "a form must be as RFC 7578 has it; got: Invalid multipart data. Send"),
        ("multipart/form-data; boundary=b", "", "must hold an image as file"),
        ("multipart/form-data; boundary=b", '--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--b--\r\n', "as file"),
        ("image/jpeg", "x", "known format"),
    ],
)
def test_rejects_an_invalid_form_with_a_reason(url, kind, body, reason):
    response = requests.post(url + PREDICT, data=body, headers={"content-type": kind}, timeout=SECONDS)
    assert reason in refusal(response)


def test_rejects_a_form_of_too_many_files_as_a_body_of_too_many_images(url):
    files = [("file", ("a.jpg", b"x"))] * 257
    reason = refusal(requests.post(url + PREDICT, files=files, timeout=SECONDS))
    assert reason.startswith("a request must hold at most 256 images; got ") and "Send several" in reason


def test_accepts_a_form_with_base64_of_a_large_photograph(url):
    padded = base64.b64encode(colour_model.picture("green", "JPEG") + bytes(2 * MIB)).decode()
    response = requests.post(url + PREDICT, files={"picture": (None, padded)}, timeout=SECONDS)
    assert names(response) == ["green"]


def test_rejects_an_image_of_sixty_megapixels(url):
    large = colour_model.picture("red", "PNG", (10_000, 6_000))
    assert len(large) < MIB
    response = requests.post(url + PREDICT, files={"file": large}, timeout=SECONDS)
    assert "10000 x 6000 pixels, more than 50 million" in refusal(response)


@pytest.mark.parametrize("chunked", [False, True])
def test_rejects_a_body_that_is_too_large(url, chunked):
    body = (bytes(MIB) for _ in range(40)) if chunked else bytes(40 * MIB)
    response = requests.post(url + PREDICT, data=body, timeout=SECONDS)
    assert response.status_code == 413
    assert "at most 32 MiB" in refusal(response)


@pytest.mark.parametrize("path", ["/v1/models/other:predict", "/v2/models/other/infer"])
def test_another_models_name_is_not_found(url, path):
    response = post(url + path, {"instances": ["x"], "inputs": [tensor("x")]})
    assert response.status_code == 404
    assert "other" in refusal(response)


def read_metrics(url: str, **options) -> dict[str, float]:
    """Returns the Prometheus metrics by name and labels."""
    text = requests.get(f"{url}/metrics", timeout=SECONDS, **options).text
    lines = (line.rpartition(" ") for line in text.splitlines() if line.startswith("kfp_vision_"))
    return {name: float(value) for name, _, value in lines}


def metric_growth(url: str, ask: Callable[[], object]) -> dict[str, float]:
    """Returns by how much each metric has grown during a call."""
    before = read_metrics(url)
    ask()
    return {name: value - before.get(name, 0) for name, value in read_metrics(url).items() if value != before.get(name, 0)}


def test_waiting_images_are_computed_in_batches(url):
    encoded = {colour: b64(colour_model.picture(colour)) for colour in colour_model.RGB}
    requested = [[list(colour_model.RGB)[(number + place) % 3] for place in range(9)] for number in range(100)]
    answered: list[list[str]] = []

    def ask(chosen: list[str]) -> list[str]:
        good = [{"b64": encoded[colour]} for colour in chosen]
        return names(post(url + PREDICT, {"instances": [*good, {"b64": "bm8gcGljdHVyZQ=="}]}))

    with ThreadPoolExecutor(32) as clients:
        growth = metric_growth(url, lambda: answered.extend(clients.map(ask, requested)))
    assert answered == [[*chosen, ""] for chosen in requested]
    label = '{model="colours"}'
    assert growth[f"kfp_vision_batch_pictures_sum{label}"] == 900
    assert growth[f"kfp_vision_batch_pictures_count{label}"] < 900
    assert growth['kfp_vision_pictures_total{model="colours",outcome="named"}'] == 900
    assert growth['kfp_vision_pictures_total{model="colours",outcome="refused"}'] == 100
    assert read_metrics(url)[f"kfp_vision_waiting_pictures{label}"] == 0


@pytest.mark.parametrize(
    ("method", "path", "route", "status", "side"),
    [
        ("POST", PREDICT, "predict", 400, "client"),
        ("POST", "/v1/models/other:predict", "predict", 404, "client"),
        ("POST", INFER, "infer", 400, "client"),
        ("GET", "/", "page", 200, ""),
        ("GET", "/v2/health/ready", "health", 200, ""),
        ("GET", "/somewhere/else", "other", 404, "client"),
        ("DELETE", PREDICT, "predict", 405, "client"),
    ],
)
def test_requests_and_errors_are_counted_by_kind(url, method, path, route, status, side):
    growth = metric_growth(url, lambda: requests.request(method, url + path, timeout=SECONDS))
    ignored = ("_bucket", "_sum", "_created", '"metrics"')
    expected = {f'kfp_vision_requests_total{{route="{route}",status="{status}"}}': 1}
    expected |= {f'kfp_vision_request_seconds_count{{route="{route}"}}': 1}
    expected |= {f'kfp_vision_errors_total{{route="{route}",side="{side}"}}': 1} if side else {}
    assert {name: increase for name, increase in growth.items() if not any(part in name for part in ignored)} == expected


TOKEN = "a-token_of.the~tests+/=="


@pytest.fixture(scope="module")
def guarded_server(version) -> Iterator[str]:
    """Starts a server that requires a token, and yields its address."""
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # only for this server
            patch.setenv("KFP_VISION_TOKEN", TOKEN + "\n")  # a secret created from a file ends with a newline
            address = stack.enter_context(server.run_server(version.parent))
        yield address


def bearing(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


GUARDED_ROUTES = [
    ("POST", PREDICT),
    ("POST", INFER),
    ("POST", "/"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/colours"),
    ("GET", "/v2"),
    ("GET", "/v2/models"),
    ("GET", "/v2/models/colours"),
    ("GET", "/v2/models/colours/ready"),
    ("GET", "/metrics"),
    ("GET", "/nowhere"),
]


@pytest.mark.parametrize(("method", "path"), GUARDED_ROUTES)
@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, "got no token"),
        ({"Authorization": ""}, "got no token"),
        (bearing(""), "got another token"),
        (bearing(TOKEN[:-1]), "got another token"),
        (bearing(TOKEN + "x"), "got another token"),
        ({"Authorization": TOKEN}, "got another token"),
        ({"Authorization": f"Basic {TOKEN}"}, "got another token"),
        ({"Authorization": b"Bearer \xff\xfe"}, "got another token"),
    ],
    ids=range(8),
)
def test_without_the_token_a_server_reveals_nothing(guarded_server, method, path, headers, found):
    response = requests.request(method, guarded_server + path, headers=headers, data=b"x" * MIB, timeout=SECONDS)
    assert response.status_code == 401
    assert found in response.json()["error"] and TOKEN not in response.text and "colours" not in response.text
    assert response.headers["WWW-Authenticate"].startswith("Bearer ")


def test_with_the_token_a_server_answers(guarded_server):
    body = {"instances": [{"b64": b64(colour_model.picture("green"))}]}
    assert names(post(guarded_server + PREDICT, body, headers=bearing(TOKEN))) == ["green"]
    assert names(post(guarded_server + PREDICT, body, headers={"authorization": f"bearer {TOKEN}"})) == ["green"]
    for _, path in GUARDED_ROUTES[3:-1]:
        assert requests.get(guarded_server + path, headers=bearing(TOKEN), timeout=SECONDS).status_code == 200


@pytest.mark.parametrize("path", ["/", "/v2/health/live", "/v2/health/ready"])
def test_health_checks_need_no_token(guarded_server, path):
    assert requests.get(guarded_server + path, timeout=SECONDS).status_code == 200
    assert requests.head(guarded_server + path, timeout=SECONDS).status_code == 200


def test_the_command_line_sends_the_token(guarded_server, tmp_path, monkeypatch):
    (tmp_path / "x.jpg").write_bytes(colour_model.picture("blue"))
    command = [sys.executable, "-m", "kfp_vision.cli", "predict", "--url", guarded_server, str(tmp_path / "x.jpg"), "--json"]

    def predict() -> subprocess.CompletedProcess:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)

    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("default login somebody password else\n")
    monkeypatch.setenv("KFP_VISION_TOKEN", TOKEN)
    assert json.loads(predict().stdout)["prediction"] == "blue"
    monkeypatch.setenv("KFP_VISION_TOKEN", "another")
    done = predict()
    assert (done.returncode, done.stdout) == (1, "")
    found = f"HTTP 401 at {guarded_server}/v1/models"
    assert (
        done.stderr == f"error: the server requires a valid token; got {found}. Set KFP_VISION_TOKEN to the server's token.\n"
    )


@pytest.mark.parametrize(("token", "found"), [("", "an empty value"), (" \n", "an empty value"), ("two words", "9 characters")])
def test_rejects_an_invalid_token_in_one_line(version, monkeypatch, token, found):
    monkeypatch.setenv("KFP_VISION_TOKEN", token)
    done = serve(version.parent)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        f"error: KFP_VISION_TOKEN must consist of letters, digits and - . _ ~ + /, with = only at its end; got {found}"
    )
    assert done.stderr.count("\n") == 1 and "two words" not in done.stderr


@pytest.fixture
def repository(version, tmp_path) -> Path:
    shutil.copytree(version, tmp_path / "colours" / "1")
    return tmp_path / "colours"


@pytest.mark.slow
def test_loads_a_new_version_without_losing_a_request(repository, tmp_path):
    languages = [tuple(colour_model.RGB), ("rouge", "vert", "bleu"), ("rot", "gruen", "blau")]
    new_versions = [colour_model.write_version(tmp_path / "new" / str(number), languages[number - 1]) for number in (2, 3)]
    body = json.dumps({"instances": [{"b64": b64(colour_model.picture(colour))} for colour in colour_model.RGB]})
    answers: list[tuple[int, tuple[str, ...]]] = []
    stop = threading.Event()

    with server.run_server(repository) as url:

        def ask() -> None:
            with requests.Session() as session:
                while not stop.is_set():
                    response = session.post(url + PREDICT, data=body, timeout=SECONDS)
                    answers.append((response.status_code, tuple(names(response))))

        with ThreadPoolExecutor(8) as clients:
            client_runs = [clients.submit(ask) for _ in range(8)]
            try:
                for version, language in zip(new_versions, languages[1:], strict=True):
                    target = len(answers) + REQUESTS / 4
                    model_servers.until(lambda: len(answers) >= target)  # noqa: B023
                    version.rename(repository / version.name)
                    model_servers.until(lambda: (200, language) in answers[-100:])  # noqa: B023
                model_servers.until(lambda: len(answers) >= REQUESTS)
            finally:
                stop.set()
            for one in client_runs:
                one.result()
        assert {status for status, _ in answers} == {200}
        # Each answer comes from a single version, and every version has answered.
        assert {labels for _, labels in answers} == set(languages)

        (repository / "4").mkdir()  # holds no model
        shutil.copytree(repository / "1", repository / "10")
        exported_model.break_version(repository / "10")
        time.sleep(3)
        assert names(post(url + PREDICT, json.loads(body)))[0] == "rot"
        assert requests.get(f"{url}/v2/health/ready", timeout=SECONDS).json() == {"ready": True}

        for gone in ("2", "3", "4", "10"):
            shutil.rmtree(repository / gone)
        model_servers.until(lambda: names(post(url + PREDICT, json.loads(body)))[0] == "red")


@pytest.mark.slow
def test_clients_survive_a_killed_and_restarted_server(repository, tmp_path):
    port, colour_of = model_servers.free_port(), list(colour_model.RGB) * 100
    images = [colour_model.picture(colour) for colour in colour_of]
    answers: dict[int, list[str]] = {number: [] for number in range(4)}

    def start() -> subprocess.Popen:
        command = [sys.executable, "-m", "kfp_vision.cli", "serve", str(repository), "--port", str(port)]
        return model_servers.started(command, port, tmp_path / "log")

    def ask(number: int) -> None:
        service = ServingClient(f"http://127.0.0.1:{port}")
        for at in range(0, len(images), 3):
            answers[number] += [prediction.label for prediction in service.classify(images[at : at + 3])]

    with contextlib.ExitStack() as processes:
        process = processes.enter_context(ended(start()))
        with ThreadPoolExecutor(len(answers)) as clients:
            client_runs = [clients.submit(ask, number) for number in answers]
            for killed in (1, 2):
                model_servers.until(lambda: min(map(len, answers.values())) > killed * 100)  # noqa: B023
                process.kill()
                process.wait()
                process = processes.enter_context(ended(start()))
            for one in client_runs:
                one.result()
    assert list(answers.values()) == [colour_of] * len(answers)


@pytest.mark.parametrize(("cut", "answered"), [(1, True), (2, True), (3, False)])
def test_the_client_retries_a_truncated_answer(cut, answered):
    body = json.dumps({"predictions": [{"classes": "red", "class_idx": 0, "probabilities": [1.0]}]}).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    bodies = []

    class TruncatingHandler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            lengths = []
            while (line := self.rfile.readline().lower()).strip():
                lengths += [int(line.split()[1])] if line.startswith(b"content-length") else []
            bodies.append(self.rfile.read(*lengths))
            self.wfile.write(head + (body[:9] if len(bodies) <= cut else body))

    with socketserver.TCPServer(("127.0.0.1", 0), TruncatingHandler) as truncating_server:
        thread = threading.Thread(target=truncating_server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            service = ServingClient(f"http://127.0.0.1:{truncating_server.server_address[1]}/v1/models/colours")
            with contextlib.nullcontext() if answered else pytest.raises(InputError, match="a server must answer; got Chunked"):
                assert [one.label for one in service.classify([b"a picture"])] == ["red"]
        finally:
            truncating_server.shutdown()
            thread.join()
    assert len(bodies) == min(cut + 1, 3)


def serve(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "kfp_vision.cli", "serve", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)


def test_reports_a_port_in_use_in_one_line(repository):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = serve(repository, "--port", port)
    assert (done.returncode, done.stdout) == (1, "")
    message = f"error: the port must be free; got 127.0.0.1:{port} (Address already in use). Choose another one with --port.\n"
    assert done.stderr == message


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--port", "--grpc-port"])
def test_of_two_servers_that_start_at_once_one_reports_the_port_in_one_line(repository, option):
    port = model_servers.free_port()
    others = ["--port", "0"] if option == "--grpc-port" else []
    command = [sys.executable, "-m", "kfp_vision.cli", "serve", str(repository), option, str(port), *others]
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with ended(subprocess.Popen(command, **options)) as one, ended(subprocess.Popen(command, **options)) as other:
        model_servers.until(lambda: one.poll() is not None or other.poll() is not None)
        loser = other if one.poll() is None else one
        assert loser.wait() == 1
        (line,) = [line for line in loser.stderr.read().splitlines() if " INFO: " not in line]
        found = f"got 127.0.0.1:{port} (Address already in use). Choose another one with {option}."
        assert line == f"error: the port must be free; {found}"


def test_http_and_grpc_cannot_have_one_port(repository):
    port = model_servers.free_port()
    done = serve(repository, "--port", port, "--grpc-port", port)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: --grpc-port must be another than --port; got {port}. ")


def test_reports_a_folder_without_a_model_in_one_line(tmp_path):
    done = serve(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: there must be a model to serve; got none in {tmp_path}. "
        "Give the model folder of a run, or a directory of numbered versions.\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "engine"),
    [
        ("openvino/model.xml", "auto"),
        ("openvino/model.bin", "auto"),
        ("assets.extra/model.json", "auto"),
        ("saved_model.pb", "tensorflow"),
        ("variables/variables.index", "tensorflow"),
    ],
)
def test_reports_a_model_that_does_not_load_in_one_line(repository, broken, engine):
    (repository / "1" / broken).write_bytes(b"broken")
    done = serve(repository, "--port", 0, "--engine", engine)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: a ") and str(repository / "1") in lines[0]


def test_run_server_fails_with_the_error_of_the_command(tmp_path):
    line = (
        f"error: there must be a model to serve; got none in {tmp_path}. "
        "Give the model folder of a run, or a directory of numbered versions."
    )
    with pytest.raises(InputError) as raised, server.run_server(tmp_path):
        pass
    assert str(raised.value) == line
    command = [sys.executable, "-m", "kfp_vision.serving", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{line}\n")


@pytest.mark.slow
def test_a_server_in_a_child_process_ends_with_its_parent(repository):
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom kfp_vision.serving import server\n"
        "with server.run_server(Path(sys.argv[1])) as url:\n    print(url, flush=True)\n    time.sleep(10_000)\n"
    )
    command = [sys.executable, "-c", program, str(repository)]
    with ended(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as parent:
        address = urlsplit(parent.stdout.readline().strip())
        assert is_listening(address.port)
        parent.kill()
        model_servers.until(lambda: not is_listening(address.port))


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_sigterm_ends_the_server_cleanly(repository):
    command = [sys.executable, "-m", "kfp_vision.cli", "serve", str(repository), "--port", "0", "--name", "tints"]
    with ended(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)) as process:
        lines = [process.stdout.readline().strip() for _ in range(3)]
        assert re.fullmatch(r"tints, version 1: red, green, blue; computed by OpenVINO [\d.]+, (bfloat16|float32)", lines[0])
        assert lines[2].startswith("curl -F file=@image.jpg http://127.0.0.1:") and lines[2].endswith(
            "/v1/models/tints:predict"
        )
        address = lines[2].split()[-1]
        assert names(post(address, {"instances": [b64(colour_model.picture("red"))]})) == ["red"]
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=SECONDS)
    assert process.returncode in (0, -signal.SIGTERM)


@pytest.fixture
def directory(version, tmp_path) -> Path:
    """Returns a folder with a good model, a broken one, and a folder without a model."""
    shutil.copytree(version, tmp_path / "models" / "good one" / "1")
    shutil.copytree(version, tmp_path / "models" / "bad" / "1")
    exported_model.break_version(tmp_path / "models" / "bad" / "1")
    (tmp_path / "models" / "notes").mkdir()
    return tmp_path / "models"


@contextlib.contextmanager
def start_server(path: Path, log: Path, *options: object) -> Iterator[str]:
    """Starts a server, writes its output to a file, and yields its address, even if it is not ready."""
    command = [*AS_ANYONE, sys.executable, "-m", "kfp_vision.cli", "serve", str(path), "--port", "0", *map(str, options)]
    with (
        log.open("w") as output,
        ended(subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | UNBUFFERED)) as process,
    ):
        model_servers.until(lambda: "\ncurl" in log.read_text() or process.poll() is not None)
        yield log.read_text().split("open ")[1].split("/ in")[0]


@pytest.mark.slow
def test_a_broken_model_does_not_affect_another_one(directory, tmp_path):
    body = {"instances": [b64(colour_model.picture("green"))]}
    with start_server(directory, tmp_path / "log") as url:
        assert names(post(f"{url}/v1/models/good%20one:predict", body)) == ["green"]
        assert f"{directory}/bad/1" in (tmp_path / "log").read_text()
        ready = requests.get(f"{url}/v2/health/ready", timeout=SECONDS)
        assert (ready.status_code, ready.json()["ready"], ready.json()["not_ready"]) == (503, False, ["bad"])
        for path in ("/v1/models/bad", "/v2/models/bad", "/v2/models/bad/ready"):
            assert requests.get(url + path, timeout=SECONDS).status_code == 503
        for path in ("/v1/models/bad:predict", "/v2/models/bad/infer"):
            response = post(url + path, body)
            assert response.status_code == 503 and "bad is not ready" in response.json()["error"]
            assert str(directory) not in response.text
        assert requests.get(f"{url}/v1/models", timeout=SECONDS).json() == {"models": ["bad", "good one"]}
        assert requests.get(f"{url}/v2/models/good%20one/ready", timeout=SECONDS).status_code == 200

        shutil.copytree(directory / "good one" / "1", directory / "bad" / "1", dirs_exist_ok=True)  # completes the model
        model_servers.until(lambda: requests.get(f"{url}/v2/health/ready", timeout=SECONDS).status_code == 200)
        assert names(post(f"{url}/v1/models/bad:predict", body)) == ["green"]
        shutil.copytree(directory / "bad", directory / "notes" / "serving")  # a third model
        model_servers.until(lambda: post(f"{url}/v1/models/notes:predict", body).status_code == 200)


@pytest.mark.slow
@pytest.mark.parametrize("hidden", ["saved_model.pb", "openvino/head.npy", "assets.extra/model.json", "openvino"])
def test_a_version_that_may_not_be_read_is_named_once_and_loaded_when_it_may(repository, tmp_path, hidden):
    file, body = repository / "2" / hidden, {"instances": [{"b64": b64(colour_model.picture("green"))}]}
    line = f"error: the files of a version must be readable for whoever loads it; got {file}. Change the permissions, with"
    with start_server(repository, tmp_path / "log") as url:
        shutil.copytree(repository / "1", repository / ".new")
        mode = (repository / ".new" / hidden).stat().st_mode
        (repository / ".new" / hidden).chmod(0)
        (repository / ".new").rename(repository / "2")
        model_servers.until(lambda: line in (tmp_path / "log").read_text())
        time.sleep(3)
        assert (tmp_path / "log").read_text().count(str(file)) == 1
        assert post(url + PREDICT, body).headers[FINGERPRINT_HEADER] == Version(repository / "1").fingerprint
        command = [*AS_ANYONE, sys.executable, "-m", "kfp_vision.cli", "predict", "--model", repository, sys.executable]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
        assert done.returncode == 1 and done.stderr.startswith(line) and done.stderr.count("\n") == 1
        file.chmod(mode)
        model_servers.until(lambda: "colours, version 2: red" in (tmp_path / "log").read_text())


@pytest.mark.slow
def test_a_folder_whose_name_is_not_utf_8_does_not_affect_the_others(directory, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")  # as a terminal has it
    shutil.copytree(directory / "good one", os.fsdecode(os.fsencode(directory) + b"/r\xf6ses"))  # in Latin-1
    shutil.rmtree(directory / "bad")
    body = {"instances": [b64(colour_model.picture("green"))]}
    with start_server(directory, tmp_path / "log") as url:
        model_servers.until(lambda: requests.get(f"{url}/v2/health/ready", timeout=SECONDS).status_code == 200)
        assert requests.get(f"{url}/v1/models", timeout=SECONDS).json() == {"models": ["good one", r"r\udcf6ses"]}
        for name in ("good%20one", "r%5Cudcf6ses"):
            assert names(post(f"{url}/v1/models/{name}:predict", body)) == ["green"]
        for path in ("/", "/metrics"):
            page = requests.get(url + path, headers={"Accept": "text/html"}, timeout=SECONDS)
            assert page.status_code == 200 and "udcf6ses" in page.text


def test_rejects_one_name_for_several_models(directory):
    done = serve(directory, "--name", "tints")
    assert done.returncode == 1
    assert done.stderr == (
        f"error: --name must be for a single model; got tints for bad, good one in {directory}. "
        "Leave it out: each model is named after its folder.\n"
    )


KSERVES_GRPC_CLIENT = """
import asyncio, json, sys
import grpc, numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

address, token, *files = sys.argv[1:]
pictures = [open(file, "rb").read() for file in files]
bearer = (("authorization", f"Bearer {token}"),)

def request(model, pictures, **parameters):
    tensor = InferInput("image_bytes", [len(pictures)], "BYTES")
    tensor.set_data_from_numpy(np.array(pictures, object))
    return InferRequest(model, [tensor], request_id="7", parameters=parameters)

async def refused(call):
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "nothing"

async def ask():
    async with InferenceGRPCClient(address) as client, grpc.aio.insecure_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        answer = await client.infer(request("colours", pictures, top_k=2), headers=bearer)
        named = {output.name: output.as_numpy() for output in answer.outputs}
        contents = pb.InferTensorContents(bytes_contents=pictures)
        unload = pb.RepositoryModelUnloadRequest(model_name="colours")
        plain = pb.ModelInferRequest.InferInputTensor(name="image_bytes", datatype="BYTES", shape=[2], contents=contents)
        by_contents = await stub.ModelInfer(pb.ModelInferRequest(model_name="colours", inputs=[plain]), metadata=bearer)
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model": await client.is_model_ready("colours", headers=bearer),
            "classes": [name.decode() for name in named["classes"]],
            "best": list(named["top_k_classes"].shape),
            "versions": [answer.model_version, by_contents.model_version],
            "id": answer.id,
            "refused": [
                await refused(client.infer(request("colours", [b"no picture"]), headers=bearer)),
                await refused(client.infer(request("colours", pictures, top_k=0), headers=bearer)),
                await refused(stub.ModelInfer(pb.ModelInferRequest(model_name="colours", inputs=[plain] * 2), metadata=bearer)),
                await refused(client.infer(request("other", pictures), headers=bearer)),
                await refused(client.infer(request("colours", pictures))),
                await refused(client.is_model_ready("colours", headers=(("authorization", "Bearer other"),))),
                await refused(stub.ModelMetadata(pb.ModelMetadataRequest(name="other"), metadata=bearer)),
                await refused(stub.RepositoryModelUnload(unload, metadata=bearer)),
                await refused(stub.ModelReady(pb.ModelReadyRequest(name="colours", version="1"), metadata=bearer)),
                await refused(stub.ModelReady(pb.ModelReadyRequest(name="colours", version="9"), metadata=bearer)),
                await refused(stub.ModelMetadata(pb.ModelMetadataRequest(name="colours", version="9"), metadata=bearer)),
            ],
            "metadata": (await stub.ModelMetadata(pb.ModelMetadataRequest(name="colours"), metadata=bearer)).inputs[0].name,
        }

print(json.dumps(asyncio.run(ask())))
"""


@pytest.mark.slow
def test_answers_kserves_client_over_grpc(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("KFP_VISION_TOKEN", TOKEN)
    port = model_servers.free_port()
    files = [tmp_path / "blue.jpg", tmp_path / "red.png"]
    files[0].write_bytes(colour_model.picture("blue"))
    files[1].write_bytes(colour_model.picture("red", "PNG"))
    with start_server(repository, tmp_path / "log", "--grpc-port", port) as url:
        model_servers.until(lambda: requests.get(f"{url}/v2/health/ready", timeout=SECONDS).ok)
        command = [sys.executable, "-c", KSERVES_GRPC_CLIENT, f"127.0.0.1:{port}", TOKEN, *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {
            "live": True,
            "ready": True,
            "model": True,
            "classes": ["blue", "red"],
            "best": [2, 2],
            "versions": ["1", "1"],
            "id": "7",
            "refused": [
                "INVALID_ARGUMENT",
                "INVALID_ARGUMENT",
                "INVALID_ARGUMENT",
                "NOT_FOUND",
                "UNAUTHENTICATED",
                "UNAUTHENTICATED",
                "NOT_FOUND",
                "UNIMPLEMENTED",
                "nothing",
                "NOT_FOUND",
                "NOT_FOUND",
            ],
            "metadata": "image_bytes",
        }
        counted = read_metrics(url, headers=bearing(TOKEN))
        assert counted['kfp_vision_errors_total{route="grpc",side="client"}'] == 9
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = serve(repository, "--port", 0, "--grpc-port", taken.getsockname()[1])
    assert (done.returncode, done.stdout) == (1, "") and "Choose another one with --grpc-port." in done.stderr


class Client(threading.Thread):
    """Sends requests until the server is gone, each over a new connection or all over one kept alive."""

    def __init__(self, address: str, keeps_connection: bool):
        super().__init__()
        self.place, self.keeps_connection = urlsplit(address), keeps_connection
        self.answered, self.lost = 0, ""

    def run(self) -> None:
        body = json.dumps({"instances": [b64(colour_model.picture(colour)) for colour in colour_model.RGB]})
        connection = http.client.HTTPConnection(self.place.hostname, self.place.port, timeout=SECONDS)
        try:
            while True:
                try:
                    connection.connect() if connection.sock is None else None
                except ConnectionRefusedError:
                    return
                connection.request("POST", self.place.path, body)
                response = connection.getresponse()
                assert [one["classes"] for one in json.loads(response.read())["predictions"]] == list(colour_model.RGB)
                self.answered += 1
                if response.will_close or not self.keeps_connection:
                    connection.close()
        except Exception as error:
            self.lost = f"{type(error).__name__}: {error}"


@pytest.mark.slow
def test_sigterm_loses_no_request(repository, tmp_path):
    command = [sys.executable, "-m", "kfp_vision.cli", "serve", str(repository), "--port", "0"]
    with (
        (tmp_path / "log").open("w") as log,
        ended(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)) as process,
    ):
        address = [process.stdout.readline() for _ in range(3)][2].split()[-1]
        reading = threading.Thread(target=process.stdout.read)  # drains the pipe, which would fill up
        clients = [Client(address, keeps_connection=number % 2 == 0) for number in range(16)]
        for thread in (reading, *clients):
            thread.start()
        model_servers.until(lambda: all(client.answered > 5 for client in clients))
        before = [client.answered for client in clients]
        process.send_signal(signal.SIGTERM)
        for thread in (*clients, reading):
            thread.join()
        assert process.wait(SECONDS) in (0, -signal.SIGTERM)
    assert [client.lost for client in clients] == [""] * len(clients)
    assert all(client.answered > count for client, count in zip(clients, before, strict=True))


@pytest.mark.slow
def test_logs_each_request_as_json_without_images_or_tokens(repository, monkeypatch):
    monkeypatch.setenv("KFP_VISION_TOKEN", TOKEN)
    image, bearer = b64(colour_model.picture("red")), {"headers": bearing(TOKEN)}
    command = [sys.executable, "-m", "kfp_vision.cli", "serve", str(repository), "--port", "0"]
    with ended(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)) as process:
        address = [process.stdout.readline() for _ in range(3)][2].split()[-1]
        post(f"{address}?top_k=1", {"instances": [image, "%%%"]}, **bearer)
        post(address, {"instances": ["bm8gcGljdHVyZQ=="]}, **bearer)
        post(address, {"instances": [image]})
        requests.get(address.replace(PREDICT, "/" + "x" * 1000), timeout=SECONDS, **bearer)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=SECONDS)
    lines = [json.loads(line) for line in output.splitlines()]
    expected = {"method": "POST", "path": PREDICT, "model": "colours", "version": 1}
    assert [{key: value for key, value in line.items() if key not in ("time", "milliseconds")} for line in lines] == [
        expected | {"status": 200, "pictures": 2},
        expected | {"status": 400, "pictures": 1},
        expected | {"status": 401, "pictures": 0, "model": "", "version": 0},
        expected | {"status": 404, "pictures": 0, "model": "", "version": 0, "method": "GET", "path": "/" + "x" * 199 + "..."},
    ]
    for line in lines:
        assert datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0)
        assert line["milliseconds"] >= 0
    for secret in (image, image[:40], "bm8gcGljdHVyZQ==", TOKEN):
        assert secret not in output + errors
