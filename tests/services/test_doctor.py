"""`kfp-vision doctor` asks real services: stores, Kubeflow Pipelines, a webhook; and closed ports."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from support.model_servers import free_port
from support.webhook_receiver import Web

HEALTH = "/apis/v2beta1/healthz"


def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kfp_vision.cli", "doctor", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def found(*arguments: str) -> dict[str, Any]:
    done = doctor(*arguments, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)["here"]


def test_a_store_that_the_environment_names_answers(s3):
    s3.bucket("photos", {"rose.jpg": b"1"})
    store = found()["store s3://"]
    assert store["works"] == "yes"
    assert store["found"].startswith(f"http://127.0.0.1:{s3.port} answers, with ")


@pytest.mark.slow
def test_a_store_that_refuses_the_key_is_told_from_one_that_does_not_answer(s3, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    store = found()["store s3://"]
    assert store["works"] == "partly"
    assert store["found"].startswith(f"http://127.0.0.1:{s3.port} answers, and refuses the key or to list its buckets (HTTP 40")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    store = found()["store s3://"]
    assert (store["works"], store["found"].endswith(" does not answer.")) == ("no", True)


@pytest.mark.slow
def test_google_cloud_storage_answers_or_not(gcs, monkeypatch):
    assert found()["store gs://"]["works"] == "yes"
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{free_port()}")
    assert found()["store gs://"]["works"] == "no"


def test_without_credentials_no_store_is_asked(no_credentials):
    assert [name for name in found() if name.startswith("store")] == []


@pytest.mark.slow
def test_an_address_that_is_given_must_be_readable(s3):
    s3.bucket("flowers", {"rose.jpg": b"1"})
    assert found("s3://flowers")["s3://flowers"]["works"] == "yes"
    done = doctor("s3://flowers", "s3://fotos")
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("no") and "s3://fotos" in line]
    assert "got no such object or bucket: s3://fotos. Check" in line
    assert "error:" not in line


@pytest.mark.parametrize(
    ("answer", "works", "words"),
    [
        ((200, {"multi_user": False}), "yes", "answers."),
        ((401, {}), "partly", "asks who you are."),
        ((404, {}), "no", "is no Kubeflow Pipelines (HTTP 404)."),
    ],
)
def test_kubeflow_pipelines_answers_or_is_something_else(no_credentials, answer, works, words):
    with Web({HEALTH: answer}).running() as web:
        api = found("--endpoint", web.url)["Kubeflow Pipelines"]
    assert (api["works"], api["found"].endswith(words)) == (works, True)


def test_kubeflow_pipelines_at_a_closed_port_does_not_answer(no_credentials):
    done = doctor("--endpoint", f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 0, done.stderr
    assert "Kubeflow Pipelines" in done.stdout and "does not answer (ConnectionError). Check the address." in done.stdout


def test_the_webhook_gets_a_test_message(no_credentials, monkeypatch):
    with Web({"/secret-path": (200, {})}).running() as web:
        monkeypatch.setenv("KFP_VISION_WEBHOOK", f"{web.url}/secret-path")
        done = doctor("--webhook")
        assert (done.returncode, done.stdout) == (0, "the webhook was notified\n")
        ((path, _, message),) = web.got
    assert path == "/secret-path"
    assert (message["state"], message["text"]) == ("SUCCEEDED", "the test of kfp-vision doctor succeeded")
    assert message["results"] == ["This is a test message. Nothing was run."]


def test_a_webhook_that_refuses_is_a_failure_without_its_address(no_credentials, monkeypatch):
    with Web().running() as web:
        monkeypatch.setenv("KFP_VISION_WEBHOOK", f"{web.url}/secret-path")
        done = doctor("--webhook")
    assert done.returncode == 1
    assert "could not be notified (HTTP 404)" in done.stdout and "secret-path" not in done.stdout + done.stderr


def test_a_test_message_needs_a_webhook(no_credentials, monkeypatch):
    monkeypatch.delenv("KFP_VISION_WEBHOOK", raising=False)
    done = doctor("--webhook")
    assert done.returncode == 2
    assert done.stderr.startswith("error: KFP_VISION_WEBHOOK must be set for a test message; got nothing. Set it to ")
