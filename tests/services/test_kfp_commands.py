"""The README's kfp commands, run literally against a server that validates requests as KFP's API does."""

import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HOST = "http://localhost:8080"
COMMANDS = [
    re.sub(r"\\\n *", "", command) for command in re.findall(r"^    (kfp --endpoint (?:.*\\\n)*.*)$", README, re.MULTILINE)
]
PROGRAM = re.search(r"^    from kfp import Client\n(?:\n|    .*\n)+", README, re.MULTILINE)
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


def run_command(kubeflow: Kubeflow, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [part.replace(HOST, kubeflow.address) for part in arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | {"HOME": "/nowhere"})


def run_successfully(kubeflow: Kubeflow, *arguments: str) -> str:
    done = run_command(kubeflow, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def readme_command(beginning: str) -> list[str]:
    """Returns the README's only command with this beginning, split into words, with this environment's kfp."""
    (command,) = [one for one in COMMANDS if one.startswith(f"kfp --endpoint {HOST} {beginning}")]
    return [str(Path(sys.executable).parent / "kfp"), *shlex.split(command)[1:]]


def test_uploads_a_pipeline(kubeflow):
    run_successfully(kubeflow, *readme_command("pipeline create "))
    request = kubeflow.only_post("pipelines/upload")
    assert request.query["name"] == ["image-classification"]
    assert (ROOT / "pipelines" / "image_classification.yaml").read_bytes() in request.body


def test_uploads_newer_yaml_as_a_version(kubeflow):
    run_successfully(kubeflow, *readme_command("pipeline create-version "))
    request = kubeflow.only_post("pipelines/upload_version")
    assert (request.query["name"], request.query["pipelineid"]) == (["0.1.0"], ["p1"])
    assert (ROOT / "pipelines" / "image_classification.yaml").read_bytes() in request.body


def test_starts_a_run_with_fields_of_the_right_type(kubeflow):
    run_successfully(kubeflow, *readme_command("run create -e flowers -r first "))
    request = kubeflow.only_post("runs").content
    assert request["runtime_config"]["parameters"] == {"train_steps": 3000}
    assert request["pipeline_spec"]["pipeline_spec"] == next(
        yaml.safe_load_all((ROOT / "pipelines" / "image_classification.yaml").read_text(encoding="utf-8"))
    )


def test_quoted_texts_lists_and_dictionaries_keep_their_types(kubeflow):
    run_successfully(kubeflow, *readme_command("run create -e flowers -r typed "))
    assert kubeflow.only_post("runs").content["runtime_config"]["parameters"] == {
        "model_name": "2024",
        "advanced": {"seed": 1},
        "node_selector": {"pool": "gpu"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    }


@pytest.mark.parametrize("value", ["2024", "1e5", "true", "null"])
def test_a_text_that_parses_as_another_type_needs_quotes(kubeflow, value):
    command = readme_command("run create -e flowers -r first ")
    unquoted = run_command(kubeflow, *command, f"model_name={value}")
    assert unquoted.returncode != 0
    assert "input parameter model_name requires type string" in unquoted.stdout + unquoted.stderr
    kubeflow.requests.clear()
    run_successfully(kubeflow, *command, f'model_name="{value}"')
    assert kubeflow.only_post("runs").content["runtime_config"]["parameters"]["model_name"] == value
    assert f"`{value}`" in README.partition("## On a cluster")[2].partition("-r typed")[0]


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
def test_other_values_need_no_quotes(kubeflow, argument, value):
    run_successfully(kubeflow, *readme_command("run create -e flowers -r first "), argument)
    sent = kubeflow.only_post("runs").content["runtime_config"]["parameters"][argument.partition("=")[0]]
    assert (sent, type(sent)) == (value, type(value))


def test_starts_a_run_that_deploys_to_kserve_with_its_settings(kubeflow):
    run_successfully(kubeflow, *readme_command("run create -e flowers -r served "))
    parameters = kubeflow.only_post("runs").content["runtime_config"]["parameters"]
    assert parameters["deploy_to"] == "kserve"
    assert parameters["advanced"] == {"service_repository": "s3://models/kserve", "service_account": "kfp-vision-models"}


def test_the_program_creates_a_recurring_run(kubeflow):
    program = re.sub("^    ", "", PROGRAM[0], flags=re.MULTILINE).replace(HOST, kubeflow.address)
    run_successfully(kubeflow, sys.executable, "-c", program)
    request = kubeflow.only_post("recurringruns").content
    assert request["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * 0"
    assert request["no_catchup"] is True and request["display_name"] == "sundays"
    parameters = {"images_uri": "s3://bucket/photos", "deploy_to": "s3://models/flowers", "skip_unchanged": True}
    assert request["runtime_config"]["parameters"] == parameters


def test_lists_and_pauses_recurring_runs(kubeflow):
    assert "sundays" in run_successfully(kubeflow, *readme_command("recurring-run list"))
    run_successfully(kubeflow, *readme_command("recurring-run disable "))
    assert kubeflow.only_post("recurringruns/RECURRING_RUN_ID:disable")
