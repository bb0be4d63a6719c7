"""The kfp commands and programs of the pages, run literally against a server that validates requests as KFP's API does."""

import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from support.page_commands import find_command, find_kfp_command, find_program, words

from kfp_vision.cli import commands, run
from kfp_vision.pipelines import image_classification

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
HOST = "http://localhost:3000"
YAML = "compiled/pipelines/image_classification.yaml"
# Accepted type of each parameter, and its name in the API's error message.
# KFP 2.17: backend/src/apiserver/template/v2_template.go
API_TYPES = {
    "STRING": (str, "string"),
    "NUMBER_INTEGER": (float, "double or integer"),
    "NUMBER_DOUBLE": (float, "double or integer"),
    "BOOLEAN": (bool, "bool"),
    "LIST": (list, "list"),
    "STRUCT": (dict, "struct"),
}
CREATED = {"created_at": "2026-01-01T00:00:00Z"}
PIPELINE = {"pipeline_id": "p1", "display_name": "image-classification", **CREATED}
VERSION = {"pipeline_id": "p1", "pipeline_version_id": "v1", "display_name": "0.1.0", **CREATED}
EXPERIMENT = {"experiment_id": "e1", "display_name": "flowers", **CREATED}
RUN = {"run_id": "r1", "display_name": "first", "experiment_id": "e1", **CREATED}
RECURRING = {"recurring_run_id": "j1", "display_name": "sundays", "experiment_id": "e1", **CREATED}
ANSWERS = {
    "healthz": {"multi_user": False},
    "pipelines/upload": PIPELINE,
    "pipelines/upload_version": VERSION,
    "pipelines": {"pipelines": [PIPELINE], "total_size": 1},
    "pipelines/PIPELINE_ID": PIPELINE,
    "pipelines/PIPELINE_ID/versions": {"pipeline_versions": [VERSION], "total_size": 1},
    "pipelines/PIPELINE_ID/versions/VERSION_ID": VERSION,
    "experiments": {"experiments": [EXPERIMENT], "total_size": 1},
    "runs": RUN,
    "runs/r1": RUN,
    "recurringruns": RECURRING,
    "recurringruns/RECURRING_RUN_ID": RECURRING,
}


@dataclass(frozen=True)
class Request:
    """A request: its method, the path below the API's prefix, its query, and its body."""

    method: str
    path: str
    query: dict[str, list[str]]
    body: bytes

    @property
    def content(self) -> Any:
        """Returns the parsed body."""
        return json.loads(self.body)


@dataclass
class Kubeflow:
    """The address of the server, and the requests it received."""

    address: str = ""
    requests: list[Request] = field(default_factory=list)

    def only_post(self, path: str) -> Request:
        """Returns the only POST request to a path."""
        (found,) = [one for one in self.requests if one.path == path and one.method == "POST"]
        return found


def run_error(run: dict[str, Any]) -> str:
    """Returns the message with which KFP's API would reject a run; empty if it would accept it."""
    known = run["pipeline_spec"]["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
    for name, value in run["runtime_config"].get("parameters", {}).items():
        if name not in known:
            return f"parameter(s) provided are not required by pipeline: {name}"
        kind, type_name = API_TYPES[known[name]["parameterType"]]
        sent = float(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if not isinstance(sent, kind):
            return f"input parameter {name} requires type {type_name}"
    return ""


@pytest.fixture
def kubeflow() -> Iterator[Kubeflow]:
    state = Kubeflow()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.answer()

        def do_DELETE(self) -> None:
            self.answer()

        def answer(self) -> None:
            parts = urlsplit(self.path)
            path = parts.path.partition("/apis/v2beta1/")[2]
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            state.requests.append(Request(self.command, path, parse_qs(parts.query), body))
            answer_body = ANSWERS.get(path, {})
            if (self.command, path) == ("GET", "recurringruns"):
                answer_body = {"recurringRuns": [RECURRING], "total_size": 1}
            error = run_error(json.loads(body)) if (self.command, path) == ("POST", "runs") else ""
            content = json.dumps({"error": error, "code": 3} if error else answer_body).encode()
            self.send_response(400 if error else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    state.address = f"http://127.0.0.1:{server.server_port}"
    with server:
        yield state
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Returns a folder in which the pages' command has compiled the pipelines for a registry."""
    folder = tmp_path_factory.mktemp("project")
    command = words(find_command(".venv/bin/kfp-vision compile --registry registry.example.org/team --output compiled"))
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def run_command(kubeflow, folder) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Returns a function that runs a command against the server, in the folder with the compiled pipelines."""

    def run(*arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        command = [part.replace(HOST, kubeflow.address) for part in arguments]
        environment = os.environ | {"HOME": "/nowhere"}
        return subprocess.run(command, cwd=folder, input=typed, capture_output=True, text=True, check=False, env=environment)

    return run


@pytest.fixture
def run_successfully(run_command) -> Callable[..., str]:
    def run(*arguments: str, typed: str = "") -> str:
        done = run_command(*arguments, typed=typed)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


FIRST = find_kfp_command("run create -e flowers -r first ")


def test_uploads_a_pipeline(kubeflow, folder, run_successfully):
    run_successfully(*find_kfp_command("pipeline create "))
    request = kubeflow.only_post("pipelines/upload")
    assert request.query["name"] == ["image-classification"]
    assert request.query["description"] == ["Folders of images in, a deployed classifier out."]
    assert (folder / YAML).read_bytes() in request.body


def test_uploads_newer_yaml_as_a_version(kubeflow, folder, run_successfully):
    run_successfully(*find_kfp_command("pipeline create-version "))
    request = kubeflow.only_post("pipelines/upload_version")
    assert (request.query["name"], request.query["pipelineid"]) == (["0.1.0"], ["p1"])
    assert (folder / YAML).read_bytes() in request.body


def test_lists_and_deletes_a_pipeline_and_its_versions(kubeflow, run_successfully):
    assert "image-classification" in run_successfully(*find_kfp_command("pipeline list"))
    assert "0.1.0" in run_successfully(*find_kfp_command("pipeline list-versions "))
    run_successfully(*find_kfp_command("pipeline delete-version "), typed="y\n")
    run_successfully(*find_kfp_command("pipeline delete "), typed="y\n")
    deleted = [request.path for request in kubeflow.requests if request.method == "DELETE"]
    assert deleted == ["pipelines/PIPELINE_ID/versions/VERSION_ID", "pipelines/PIPELINE_ID"]


def fields_of_the_demo() -> dict[str, Any]:
    demo = re.search(r"^DEMO := (.*?)$(?<!\\)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert demo
    typed = [word for word in shlex.split(demo[1].replace("\\\n", " ")) if "=" in word and "REPOSITORY" not in word]
    fields = commands.parse_assignments(typed, run.form_fields(image_classification))
    del fields["model_name"]
    return fields


def test_the_first_run_trains_as_the_demo_does(kubeflow, folder, run_successfully):
    run_successfully(*FIRST)
    request = kubeflow.only_post("runs").content
    assert request["runtime_config"]["parameters"] == fields_of_the_demo()
    assert request["pipeline_spec"]["pipeline_spec"] == next(yaml.safe_load_all((folder / YAML).read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("mine", {"images_uri": "s3://bucket/photos", "train_steps": 3000}),
        (
            "typed",
            {
                "model_name": "2024",
                "advanced": {"seed": 1},
                "node_selector": {"pool": "gpu"},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            },
        ),
        (
            "two-gpus",
            {
                "images_uri": "s3://bucket/photos",
                "gpu_count": 2,
                "batch_size": 64,
                "node_selector": {"pool": "gpu"},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            },
        ),
        (
            "four-machines",
            {
                "images_uri": "s3://bucket/photos",
                "workers": 4,
                "gpu_count": 2,
                "batch_size": 256,
                "checkpoint_dir": "s3://bucket/checkpoints/flowers",
                "node_selector": {"pool": "gpu"},
            },
        ),
        (
            "served",
            {
                "deploy_to": "kserve",
                "model_name": "flowers",
                "advanced": {"service_repository": "s3://models/kserve", "service_account": "kfp-vision-models"},
            },
        ),
    ],
)
def test_each_run_of_the_pages_has_its_fields_with_the_right_types(kubeflow, run_successfully, name, changed):
    found = {
        "mine": find_kfp_command("run create -e flowers -r mine "),
        "typed": find_kfp_command("run create -e flowers -r typed "),
        "two-gpus": find_kfp_command("run create -e flowers -r two-gpus "),
        "four-machines": find_kfp_command("run create -e flowers -r four-machines "),
        "served": find_kfp_command("run create -e flowers -r served "),
    }
    run_successfully(*found[name])
    assert kubeflow.only_post("runs").content["runtime_config"]["parameters"] == changed


@pytest.mark.parametrize("value", ["2024", "1e5", "true", "null"])
def test_a_text_that_parses_as_another_type_needs_quotes(kubeflow, run_command, run_successfully, value):
    unquoted = run_command(*FIRST, f"model_name={value}")
    assert unquoted.returncode != 0
    assert "input parameter model_name requires type string" in unquoted.stdout + unquoted.stderr
    kubeflow.requests.clear()
    run_successfully(*FIRST, f'model_name="{value}"')
    assert kubeflow.only_post("runs").content["runtime_config"]["parameters"]["model_name"] == value
    page = (ROOT / "docs" / "tutorial" / "3-cluster.md").read_text(encoding="utf-8")
    assert f"`{value}`" in page.partition("-r first")[2].partition("-r typed")[0]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("images_uri=s3://bucket/photos?region=eu-west-1", "s3://bucket/photos?region=eu-west-1"),
        ("model_name=flowers-2", "flowers-2"),
        ("deploy_to=", ""),
        ("learning_rate=1e-3", 0.001),
        ("fine_tune=false", False),
    ],
)
def test_other_values_need_no_quotes(kubeflow, run_successfully, argument, value):
    run_successfully(*FIRST, argument)
    sent = kubeflow.only_post("runs").content["runtime_config"]["parameters"][argument.partition("=")[0]]
    assert (sent, type(sent)) == (value, type(value))


def test_the_program_trains_as_the_demo_does(kubeflow, run_successfully):
    program = find_program("client.create_run_from_pipeline_package(")
    printed = run_successfully(sys.executable, "-c", program.replace(HOST, kubeflow.address))
    request = kubeflow.only_post("runs").content
    assert request["runtime_config"]["parameters"] == fields_of_the_demo()
    assert (request["display_name"], printed.splitlines()[-1]) == ("from-python", "r1")


def test_the_program_creates_a_recurring_run(kubeflow, run_successfully):
    program = find_program("client.create_recurring_run(")
    run_successfully(sys.executable, "-c", program.replace(HOST, kubeflow.address))
    request = kubeflow.only_post("recurringruns").content
    assert request["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * 0"
    assert request["no_catchup"] is True and request["display_name"] == "sundays"
    parameters = request["runtime_config"]["parameters"]
    assert parameters["skip_unchanged"] is True and parameters["gpu_count"] == 0
    assert parameters.keys() == {"images_uri", "deploy_to", "skip_unchanged", "checkpoint_uri", "gpu_count", "train_steps"}


def test_lists_and_pauses_recurring_runs(kubeflow, run_successfully):
    assert "sundays" in run_successfully(*find_kfp_command("recurring-run list"))
    run_successfully(*find_kfp_command("recurring-run disable "))
    assert kubeflow.only_post("recurringruns/RECURRING_RUN_ID:disable")
