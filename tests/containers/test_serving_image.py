"""The image of the server: small, without TensorFlow, and answering by every protocol, unprivileged and read-only."""

import base64
import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from support import colour_index, colour_model, grpc_client
from support.model_servers import free_port, until

from kfp_vision import __version__
from kfp_vision.components.container_images import CPU_NAME, SERVE_NAME

pytestmark = pytest.mark.slow

MAX_BYTES = 600e6  # unpacked, on Docker's python:3.11-slim-bookworm
BASE_BYTES = 130e6  # of that base, unpacked
SECONDS = 120  # until the server answers; usually two
ABSENT = ("tensorflow", "keras", "kfp", "cv2", "sklearn", "scipy", "matplotlib", "pandas", "tensorboard")


@pytest.fixture(scope="module")
def serving_image(engine, base_image) -> str:
    """Builds the image of the server; returns its name."""
    engine.build("image-serve")
    return SERVE_NAME


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Writes a model repository with an index beside its version."""
    root = tmp_path_factory.mktemp("models")
    model = colour_index.write_model(root / "model")
    repository = root / "colours"
    (model / "serving").rename(repository)
    (model / "serving").symlink_to(repository)
    colour_index.write(model, colour_index.write_pictures(root / "photos"), repository / "index")
    return repository


@contextlib.contextmanager
def running(engine, image: str, models: Path, *options: str) -> Iterator[str]:
    """Serves a repository in a container, which shares this machine's network; yields the container."""
    isolation = ["--network=host", "--no-healthcheck", "--read-only", "--tmpfs=/tmp", "--user=4321:0", "--cap-drop=ALL"]
    command = ["kfp-vision", "serve", "/models", "--name", "colours", *options]
    container = engine.run("run", "--detach", *isolation, "--volume", f"{models}:/models:ro", image, *command).strip()
    try:
        yield container
    finally:
        engine.run("rm", "--force", container)


@pytest.fixture(scope="module")
def server(engine, serving_image, models) -> Iterator[tuple[str, str]]:
    """Serves the repository; yields the URL, and the address for gRPC."""
    port, grpc_port = free_port(), free_port()
    with running(engine, serving_image, models, "--port", str(port), "--grpc-port", str(grpc_port)) as container:
        url = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            with contextlib.suppress(requests.ConnectionError):
                return requests.get(f"{url}/v2/health/ready", timeout=SECONDS).ok
            (info,) = json.loads(engine.run("inspect", container))
            assert info["State"]["Running"], engine.run("logs", container)
            return False

        until(ready, SECONDS)
        yield url, f"127.0.0.1:{grpc_port}"


def post(url: str, body: dict) -> dict:
    response = requests.post(url, json=body, timeout=SECONDS)
    assert response.status_code == 200, response.text
    return response.json()


def test_the_image_is_small(engine, serving_image):
    sizes = [json.loads(engine.run("inspect", name))[0]["Size"] for name in (serving_image, os.environ["KFP_VISION_BASE"])]
    assert sizes[0] - sizes[1] + BASE_BYTES <= MAX_BYTES


def test_the_image_holds_no_tensorflow_nor_anything_else_of_the_stages(engine, serving_image):
    program = f"import importlib.util; print(*[name for name in {ABSENT} if importlib.util.find_spec(name)])"
    assert (
        engine.run("run", "--rm", "--network=none", "--no-healthcheck", serving_image, "python3", "-c", program).split() == []
    )


def test_the_image_has_labels_and_a_numeric_user(engine, serving_image):
    (info,) = json.loads(engine.run("inspect", serving_image))
    assert info["Config"]["User"] == "10001:0"
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in info["Config"]["Labels"].items()}
    assert (labels["title"], labels["version"], labels["licenses"]) == ("kfp-vision-serve", __version__, "Apache-2.0")
    check = info.get("Healthcheck") or info["Config"]["Healthcheck"]  # podman 4.3, and docker
    assert check["Test"][0] == "CMD"


def test_answers_v1(server):
    encoded = [{"b64": base64.b64encode(colour_model.picture(colour)).decode()} for colour in ("blue", "red")]
    answer = post(f"{server[0]}/v1/models/colours:predict", {"instances": encoded})
    assert [prediction["classes"] for prediction in answer["predictions"]] == ["blue", "red"]


def test_answers_the_open_inference_protocol_over_http(server):
    data = [base64.b64encode(colour_model.picture("green", "PNG")).decode()]
    body = {"inputs": [{"name": "image_bytes", "shape": [1], "datatype": "BYTES", "data": data}]}
    answer = post(f"{server[0]}/v2/models/colours/infer", body)
    outputs = {output["name"]: output["data"] for output in answer["outputs"]}
    assert outputs["classes"] == ["green"]


def test_answers_the_open_inference_protocol_over_grpc(server):
    answer = grpc_client.ask(server[1], [colour_model.picture("blue")])
    assert answer["classes"]["data"] == ["blue"]


def test_searches_the_index(server):
    encoded = {"b64": base64.b64encode(colour_index.picture(5)).decode()}
    answer = post(f"{server[0]}/v1/models/colours:search", {"instances": [encoded], "top_k": 3})
    (result,) = answer["predictions"]
    found = [Path(hit["path"]).name for hit in result["hits"]]
    assert found == colour_index.nearest(5, 3)


def test_shows_its_page(server):
    response = requests.get(f"{server[0]}/", headers={"accept": "text/html"}, timeout=SECONDS)
    assert response.status_code == 200 and "colours" in response.text
    assert response.headers["content-type"].startswith("text/html")


def test_refuses_a_model_without_a_file_for_openvino_in_one_line(engine, serving_image, tmp_path):
    version = colour_model.write_version(tmp_path / "old" / "1")
    for file in (version / "openvino").iterdir():
        file.unlink()
    (version / "openvino").rmdir()
    isolation = [
        "--rm",
        "--network=none",
        "--no-healthcheck",
        "--read-only",
        "--tmpfs=/tmp",
        "--volume",
        f"{tmp_path / 'old'}:/models:ro",
    ]
    command = [engine.program, "run", *isolation, serving_image, "kfp-vision", "serve", "/models"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line == (
        "error: a model that TensorFlow computes must be served where TensorFlow is installed; got there is no "
        "openvino/model.xml in /models/1. Train it again with this release, or serve it with the container image "
        f"{CPU_NAME} (service_image of advanced)."
    )
