"""The README's commands of KFP, carried out as they stand there, against a server that takes what KFP's own API takes."""

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

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HOST = "http://localhost:8080"
COMMANDS = [
    re.sub(r"\\\n *", "", command) for command in re.findall(r"^    (kfp --endpoint (?:.*\\\n)*.*)$", README, re.MULTILINE)
]
PROGRAM = re.search(r"^    from kfp import Client\n(?:\n|    .*\n)+", README, re.MULTILINE)
# What the API takes for a field, and says otherwise: KFP 2.17, backend/src/apiserver/template/v2_template.go.
TAKEN = {
    "STRING": (str, "string"),
    "NUMBER_INTEGER": (float, "double or integer"),
    "NUMBER_DOUBLE": (float, "double or integer"),
    "BOOLEAN": (bool, "bool"),
    "LIST": (list, "list"),
    "STRUCT": (dict, "struct"),
}
MADE = {"created_at": "2026-01-01T00:00:00Z"}
PIPELINE = {"pipeline_id": "p1", "display_name": "image-classification", **MADE}
VERSION = {"pipeline_id": "p1", "pipeline_version_id": "v1", "display_name": "0.1.0", **MADE}
EXPERIMENT = {"experiment_id": "e1", "display_name": "flowers", **MADE}
RUN = {"run_id": "r1", "display_name": "first", "experiment_id": "e1", **MADE}
RECURRING = {"recurring_run_id": "j1", "display_name": "sundays", "experiment_id": "e1", **MADE}
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
class Asked:
    """A request: its method, the path below the API's, its query, and its body."""

    method: str
    path: str
    query: dict[str, list[str]]
    body: bytes

    @property
    def content(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


@dataclass
class Kubeflow:
    """What has been asked, and where to ask."""

    address: str = ""
    asked: list[Asked] = field(default_factory=list)

    def only(self, path: str) -> Asked:
        """The one request for a path that changes something."""
        (found,) = [one for one in self.asked if one.path == path and one.method == "POST"]
        return found


def refusal(run: dict[str, Any]) -> str:
    """Why the API would not take a run, as KFP says it; nothing where it would."""
    known = run["pipeline_spec"]["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
    for name, value in run["runtime_config"].get("parameters", {}).items():
        if name not in known:
            return f"parameter(s) provided are not required by pipeline: {name}"
        kind, called = TAKEN[known[name]["parameterType"]]
        sent = float(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if not isinstance(sent, kind):
            return f"input parameter {name} requires type {called}"
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
            state.asked.append(Asked(self.command, path, parse_qs(parts.query), body))
            told = ANSWERS.get(path, {})
            if (self.command, path) == ("GET", "recurringruns"):
                told = {"recurringRuns": [RECURRING], "total_size": 1}
            refused = refusal(json.loads(body)) if (self.command, path) == ("POST", "runs") else ""
            said = json.dumps({"error": refused, "code": 3} if refused else told).encode()
            self.send_response(400 if refused else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

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


def ended(kubeflow: Kubeflow, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [part.replace(HOST, kubeflow.address) for part in arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | {"HOME": "/nowhere"})


def carried_out(kubeflow: Kubeflow, *arguments: str) -> str:
    done = ended(kubeflow, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def said(beginning: str) -> list[str]:
    """The one command that begins so, in its words, with the program of this environment."""
    (command,) = [one for one in COMMANDS if one.startswith(f"kfp --endpoint {HOST} {beginning}")]
    return [str(Path(sys.executable).parent / "kfp"), *shlex.split(command)[1:]]


def test_a_pipeline_is_uploaded(kubeflow):
    carried_out(kubeflow, *said("pipeline create "))
    asked = kubeflow.only("pipelines/upload")
    assert asked.query["name"] == ["image-classification"]
    assert (ROOT / "pipelines" / "image_classification.yaml").read_bytes() in asked.body


def test_a_newer_yaml_becomes_a_version_of_it(kubeflow):
    carried_out(kubeflow, *said("pipeline create-version "))
    asked = kubeflow.only("pipelines/upload_version")
    assert (asked.query["name"], asked.query["pipelineid"]) == (["0.1.0"], ["p1"])
    assert (ROOT / "pipelines" / "image_classification.yaml").read_bytes() in asked.body


def test_a_run_is_started_with_the_fields_of_the_right_type(kubeflow):
    carried_out(kubeflow, *said("run create -e flowers -r first "))
    asked = kubeflow.only("runs").content
    assert asked["runtime_config"]["parameters"] == {"train_steps": 3000}
    assert asked["pipeline_spec"]["pipeline_spec"] == next(
        yaml.safe_load_all((ROOT / "pipelines" / "image_classification.yaml").read_text(encoding="utf-8"))
    )


def test_texts_lists_and_dictionaries_arrive_as_they_are_written(kubeflow):
    carried_out(kubeflow, *said("run create -e flowers -r typed "))
    assert kubeflow.only("runs").content["runtime_config"]["parameters"] == {
        "model_name": "2024",
        "advanced": {"seed": 1},
        "node_selector": {"pool": "gpu"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    }


@pytest.mark.parametrize("value", ["2024", "1e5", "true", "null"])
def test_a_text_that_is_taken_for_something_else_needs_quotes_of_its_own(kubeflow, value):
    command = said("run create -e flowers -r first ")
    bare = ended(kubeflow, *command, f"model_name={value}")
    assert bare.returncode != 0
    assert "input parameter model_name requires type string" in bare.stdout + bare.stderr
    kubeflow.asked.clear()
    carried_out(kubeflow, *command, f'model_name="{value}"')
    assert kubeflow.only("runs").content["runtime_config"]["parameters"]["model_name"] == value
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
def test_whatever_else_is_written_as_it_is(kubeflow, argument, value):
    carried_out(kubeflow, *said("run create -e flowers -r first "), argument)
    sent = kubeflow.only("runs").content["runtime_config"]["parameters"][argument.partition("=")[0]]
    assert (sent, type(sent)) == (value, type(value))


def test_a_run_that_deploys_to_kserve_is_given_its_settings(kubeflow):
    carried_out(kubeflow, *said("run create -e flowers -r served "))
    given = kubeflow.only("runs").content["runtime_config"]["parameters"]
    assert given["deploy_to"] == "kserve"
    assert given["advanced"] == {"service_repository": "s3://models/kserve", "service_account": "kfp-vision-models"}


def test_the_program_makes_a_recurring_run(kubeflow):
    program = re.sub("^    ", "", PROGRAM[0], flags=re.MULTILINE).replace(HOST, kubeflow.address)
    carried_out(kubeflow, sys.executable, "-c", program)
    asked = kubeflow.only("recurringruns").content
    assert asked["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * 0"
    assert asked["no_catchup"] is True and asked["display_name"] == "sundays"
    given = {"images_uri": "s3://bucket/photos", "deploy_to": "s3://models/flowers", "skip_unchanged": True}
    assert asked["runtime_config"]["parameters"] == given


def test_recurring_runs_are_listed_and_paused(kubeflow):
    assert "sundays" in carried_out(kubeflow, *said("recurring-run list"))
    carried_out(kubeflow, *said("recurring-run disable "))
    assert kubeflow.only("recurringruns/RECURRING_RUN_ID:disable")
