"""The commands and programs of the pages that need no cluster, run literally: server, curl, predict, search, secrets."""

import base64
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml
from support import colour_index, colour_model, exported_colours, exported_model, page_commands, published_schemas
from support.model_servers import ended, free_port, program, started, until
from support.page_commands import ROOT, find_command, find_program, words
from support.webhook_receiver import Web

from kfp_vision.cli import commands
from kfp_vision.deployment import model_card
from kfp_vision.exports import export
from kfp_vision.prediction import authentication
from kfp_vision.reports import outcome
from kfp_vision.repository import papers
from kfp_vision.repository.version import Version
from kfp_vision.storage import sample
from kfp_vision.storage.base import ENVIRONMENT_VARIABLES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Returns a folder as the pages have it: a repository with a model and its index, and images of one colour each."""
    folder = tmp_path_factory.mktemp("project")
    for file in ("rose.jpg", "photo.jpg", "photos/rose.jpg", "flowers/bellcup/0001.jpg"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(colour_model.picture("red"))
    model = colour_index.write_model(folder / "model")
    index = colour_index.write(model, colour_index.write_pictures(folder / "hues"), folder / "index")
    shutil.copytree(model / "serving", folder / "models" / "photos")
    shutil.copytree(index, folder / "models" / "photos" / "index")
    return folder


@pytest.fixture(scope="module")
def served(folder) -> Iterator[str]:
    """Serves the model with the pages' command, and returns its address."""
    port = free_port()
    command = words(find_command(".venv/bin/kfp-vision serve models/photos"))
    repository = str(folder / "models" / "photos")
    command = [repository if word == "models/photos" else word for word in command]
    process = started([*command, "--port", str(port), "--name", "classifier"], port, folder / "server.log")
    with ended(process):
        until(lambda: requests.get(f"http://127.0.0.1:{port}/v2/health/ready", timeout=60).ok)
        yield f"http://127.0.0.1:{port}"


def ran(command: str, folder: Path, served: str = "") -> str:
    """Runs a command of a page in a folder, against this server, and returns what it prints."""
    command = re.sub(r"(?<![\w/])\.venv/bin", str(page_commands.BIN), command.replace("http://127.0.0.1:8000", served))
    done = subprocess.run(["bash", "-ec", command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_quickstart_classifies_an_image_of_the_sample():
    page = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    label, folder = re.findall(r"^(\w+)  [\d.]+  \.\.\./flowers/(\w+)/0001\.jpg$", page, re.MULTILINE)[0]
    assert label == folder and label in sample.CLASSES


def test_classifies_images_with_a_server(folder, served):
    form = find_command("curl -F file=@rose.jpg http://127.0.0.1:8000/v1/models/classifier:predict")
    text = find_command('curl -d \'{"instances": [{"b64": "\'"$(base64')
    for command in (form, text):
        assert json.loads(ran(command, folder, served))["predictions"][0]["classes"] == "red"
    for command, file in (
        (find_command(".venv/bin/kfp-vision predict --url http://127.0.0.1:8000 photos/rose.jpg"), "photos/rose.jpg"),
        (find_command(".venv/bin/kfp-vision predict --url http://127.0.0.1:8000 flowers/bellcup"), "flowers/bellcup/0001.jpg"),
    ):
        assert re.fullmatch(rf"red  [01]\.\d{{4}}  (\S*/)?{file}\n", ran(command, folder, served))


def test_the_shortened_request_is_answered_with_what_is_wrong(folder, served):
    command = find_command('curl -d \'{"instances": [{"b64": "..."}]}\'')
    assert "error" in json.loads(ran(command, folder, served))


def test_classifies_images_without_a_server(folder):
    printed = ran(find_command(".venv/bin/kfp-vision predict --model models/photos photos"), folder)
    assert re.fullmatch(r"red  [01]\.\d{4}  (\S*/)?photos/rose\.jpg\n", printed)


def test_makes_an_earlier_version_the_newest(tmp_path):
    for number, weights in (("3", b"earlier"), ("4", b"later")):
        exported_model.version(tmp_path / "photos" / number, weights=weights)
    command = find_command(".venv/bin/kfp-vision rollback s3://models/photos --to 3").replace("s3://models/photos", "photos")
    assert "version 3 is the newest in photos again, as version 5" in ran(command, tmp_path)


def test_lists_shows_tags_names_and_imports_versions(tmp_path):
    repository = tmp_path / "models" / "photos"
    for number, weights in (("3", b"earlier"), ("4", b"later")):
        exported_model.version(repository / number, weights=weights)
    model = Version(repository / "4")
    accepted = {"accuracy": 0.9, "verdict": {"accepted": True, "reasons": []}}
    model_card.write_papers(model, accepted, model_card.Origin(), tmp_path / "papers")
    papers.publish_papers(tmp_path / "papers", str(repository), 4)
    tag = find_command(".venv/bin/kfp-vision models models/photos --tag 4")
    assert "version 4: reviewed by anna" in ran(tag, tmp_path)
    alias = find_command(".venv/bin/kfp-vision models models/photos --alias champion 4")
    assert "champion is version 4" in ran(alias, tmp_path)
    show = find_command(".venv/bin/kfp-vision models models/photos --show newest")
    assert "# flowers" in ran(show, tmp_path).splitlines()
    models = find_command(".venv/bin/kfp-vision models s3://models/photos").replace("s3://", "")
    *_, newest, _ = ran(models, tmp_path).splitlines()
    assert newest.split() == ["4", *newest.split()[1:2], "accuracy", "0.9000", "champion", "reviewed", "by", "anna"]
    imported = find_command(".venv/bin/kfp-vision models models/photos --import runs")
    assert "version 4 of " in ran(imported.replace("runs/quick-classification-20261129-124747", str(repository)), tmp_path)


def test_explains_an_answer_with_a_server(folder, served):
    command = find_command("curl -F file=@rose.jpg http://127.0.0.1:8000/v1/models/classifier:explain")
    (one,) = json.loads(ran(command, folder, served))["explanations"][0]["maps"]
    assert one["label"] == "red" and "overlay" not in one
    command = find_command("curl -F file=@rose.jpg -F label=roses -F overlay=true").replace("roses", "blue")
    (one,) = json.loads(ran(command, folder, served))["explanations"][0]["maps"]
    assert one["label"] == "blue" and base64.b64decode(one["overlay"]["b64"]).startswith(b"\xff\xd8")


def test_searches_an_index_with_a_server(folder, served):
    form = find_command("curl -F file=@rose.jpg 'http://127.0.0.1:8000").replace("roses", "reddish")
    hits = json.loads(ran(form, folder, served))["predictions"][0]["hits"]
    assert len(hits) == 5 and {hit["label"] for hit in hits} == {"reddish"}
    again = find_command('curl -d \'{"instances": [{"id": "0cc1..."}]}\'').replace("0cc1...", hits[0]["id"])
    assert json.loads(ran(again, folder, served))["predictions"][0]["hits"][0]["id"] == hits[0]["id"]
    command = find_command(".venv/bin/kfp-vision search --url http://127.0.0.1:8000")
    assert len(ran(command, folder, served).splitlines()) == 6


def test_searches_an_index_without_a_server(folder):
    command = find_command(".venv/bin/kfp-vision search --index runs/.../index").replace("runs/.../index", "index")
    assert len(ran(command, folder).splitlines()) == 6


def test_makes_a_token_that_a_header_can_carry(tmp_path):
    made = ran(f"{find_command('export KFP_VISION_TOKEN=$(openssl rand -hex 32)')}; echo $KFP_VISION_TOKEN", tmp_path).strip()
    assert authentication.TOKEN_PATTERN.fullmatch(made) and len(made) == 64


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        (find_command("kubectl -n kubeflow create secret generic kfp-vision-storage "), set(ENVIRONMENT_VARIABLES)),
        (
            find_command("kubectl -n kubeflow create secret generic kfp-vision-webhook "),
            set(outcome.REPORT_ENVIRONMENT),
        ),
        (
            find_command("kubectl -n kubeflow create secret generic kfp-vision-collect "),
            {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"},
        ),
        (
            find_command("kubectl -n kubeflow create secret generic kfp-vision-models "),
            {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"},
        ),
        (find_command("kubectl -n kubeflow create secret generic kfp-vision-registry "), {".dockerconfigjson"}),
    ],
    ids=lambda value: "",
)
def test_makes_each_secret_with_keys_that_are_read(command, keys, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    template = ROOT / "manifests" / "secrets" / "kfp-vision-registry.dockerconfigjson"
    (tmp_path / "registry.json").write_bytes(template.read_bytes())
    kubectl = command.replace("kubectl", program("kubectl"), 1)
    secret = yaml.safe_load(ran(f"{kubectl} --dry-run=client --output=yaml", tmp_path))
    assert (secret["kind"], secret["metadata"]["namespace"]) == ("Secret", "kubeflow")
    assert secret["data"].keys() and secret["data"].keys() <= keys


def test_a_local_run_sends_a_test_message(tmp_path):
    web = Web({"/services/...": (200, {})})
    with web.running():
        test_message = find_command("KFP_VISION_WEBHOOK=https://hooks.slack.com/services/... .venv/bin/kfp-vision doctor")
        run = find_command("KFP_VISION_WEBHOOK=https://hooks.slack.com/services/... .venv/bin/kfp-vision run")
        for command, printed in ((test_message, "the webhook was notified"), (run, "records")):
            assert printed in ran(command.replace("https://hooks.slack.com", web.url), tmp_path)
    test, sent = [body for path, _, body in web.got if path == "/services/..."]
    assert "This is a test message. Nothing was run." in test["results"]
    assert sent["state"] == "SUCCEEDED"


def test_the_program_of_a_pipeline_of_ones_own_compiles(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    source = find_program("components.load_component_from_file(")
    compiler = f"{source}\nfrom kfp.compiler import Compiler\nCompiler().compile(my_splits, {str(tmp_path / 'own.yaml')!r})\n"
    subprocess.run([sys.executable, "-c", compiler], check=True)
    pipeline = yaml.safe_load((tmp_path / "own.yaml").read_text())
    assert pipeline["root"]["dag"]["tasks"].keys() == {"ingest-images", "split-images"}


@pytest.mark.slow
def test_three_lines_answer_with_each_exported_file(tmp_path):
    root = exported_colours.write_records(tmp_path)
    exported_colours.write_verdict(root / "verdict", exported_colours.write_model(root / "model"))
    records = export.Records(root / "train", root / "validation", root / "test")
    made = {"exports": tmp_path / "exports", "page": tmp_path / "page.html"}
    export.export_model(root / "model", root / "verdict", records, "litert,onnx,openvino", **made)
    image = f"import numpy as np\nimage = np.full((1, {colour_model.SIZE}, {colour_model.SIZE}, 3), (30, 30, 200), np.uint8)\n"
    programs = {
        "litert": find_program("Interpreter("),
        "onnx": find_program("onnxruntime.InferenceSession("),
        "openvino": find_program("openvino.compile_model("),
    }
    for name, source in programs.items():
        folder = made["exports"] / name
        command = [sys.executable, "-c", f"{image}{source}\nprint(probabilities[0].argmax())"]
        environment = os.environ | {"HOME": str(tmp_path), "CI": "true"}  # OpenVINO sends no events from there
        done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
        assert done.stdout.split()[-1] == str(list(colour_model.RGB).index("blue"))


def test_the_job_for_several_machines_is_valid_and_gives_each_its_place():
    (text,) = page_commands.blocks(ROOT / "docs" / "how-to" / "several-machines.md", "yaml")
    service, job = yaml.safe_load_all(text)
    for document in (service, job):
        assert published_schemas.faults(document) == []
    (container,) = job["spec"]["template"]["spec"]["containers"]
    script = container["args"][0].partition("exec ")
    typed = f'{script[0]}\necho "$TF_CONFIG"'
    for index in range(job["spec"]["completions"]):
        done = subprocess.run(["sh", "-c", typed], env={"JOB_COMPLETION_INDEX": str(index)}, capture_output=True, check=True)
        config = json.loads(done.stdout)
        assert config["task"] == {"type": "worker", "index": index}
        assert config["cluster"]["worker"][index].startswith(
            f"{job['metadata']['name']}-{index}.{service['metadata']['name']}:"
        )
    commands.build_parser().parse_args(shlex.split(script[2].replace("$JOB_COMPLETION_INDEX", "0"))[1:])
