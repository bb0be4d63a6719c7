"""The whole loop with real parts: what a model in use does not know comes back as labels, and a better version is deployed.

A training, a repository in a bucket, a server, what it collects, a review, labels given in Chromium, a training with them, the
server that takes the new version up, and MLflow's own server, in which it is registered.
"""

import base64
import contextlib
import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
from support import chromium, model_servers
from support.registry_servers import mlflow_server

from kfp_vision.collection import collected
from kfp_vision.deployment import register
from kfp_vision.deployment.model_card import Origin
from kfp_vision.repository.version import fetch_version
from kfp_vision.storage import sample

pytestmark = pytest.mark.slow

SECONDS = 600  # for an answer on a busy machine
COMMAND = [sys.executable, "-m", "kfp_vision.cli"]
KNOWN, NEW = ("bellcup", "globelet"), "raybloom"  # classes of the first training, and one that it has never seen
TRAINED, MET, HELD_OUT = range(1, 16), range(41, 81), range(101, 107)  # images of a class, by their numbers in the sample
MET_OF_KNOWN = 2  # images of each class that is known
REVIEWED = 16
RECIPE = {"recipe": "quick", "train_steps": 20, "gpu_count": 0, "model_name": "flowers"}


def drawn(label: str, number: int) -> bytes:
    return sample.draw(f"{label}/{number:04}.{'png' if number % sample.PNG_EVERY == 0 else 'jpg'}")


def run(folder: Path, pipeline: str, form: Mapping[str, Any]) -> dict[str, Any]:
    """Runs a pipeline by the command line in a folder, and returns its results."""
    fields = [part for name, value in form.items() for part in ("-p", f"{name}={value}")]
    command = [*COMMAND, "run", pipeline, *fields, "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def collecting_server(repository: str, place: Path) -> Iterator[str]:
    """Serves a repository and collects every answer with its image; yields the model's address."""
    port = model_servers.free_port()
    command = [*COMMAND, "serve", repository, "--port", str(port), "--collect", str(place), "--collect-share", "1"]
    with model_servers.ended(subprocess.Popen([*command, "--collect-images"], stdout=subprocess.DEVNULL)) as process:
        url = f"http://127.0.0.1:{port}"
        model_servers.until(lambda: process.poll() is not None or is_ready(url), SECONDS)
        assert process.poll() is None
        yield f"{url}/v1/models/flowers"


def is_ready(url: str) -> bool:
    with contextlib.suppress(requests.ConnectionError):
        return requests.get(f"{url}/v2/health/ready", timeout=SECONDS).ok
    return False


def ask(model: str, images: list[bytes]) -> tuple[list[str], str]:
    """Returns the classes that a server names, and the fingerprint of the version that named them."""
    instances = [{"b64": base64.b64encode(image).decode()} for image in images]
    answer = requests.post(f"{model}:predict", json={"instances": instances}, timeout=SECONDS)
    assert answer.ok, answer.text
    return [one["classes"] for one in answer.json()["predictions"]], answer.headers["kfp-vision-fingerprint"]


def label_with_keys(browser, folder: Path, chosen: Path, label_of: Mapping[bytes, str]) -> Path:
    """Labels all images of a review's table on its page, by keys; a class that is not there yet is typed once."""
    command = [*COMMAND, "review", str(chosen), "--labels", "labels.csv", "--port", "0"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    wanted = [label_of[Path(row["path"]).read_bytes()] for row in read_rows(chosen)]
    with model_servers.ended(
        subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, env=environment)
    ) as process:
        page = browser.new_page()
        page.set_default_timeout(1000 * SECONDS)
        page.goto(process.stdout.readline().split()[2])
        for label in wanted:
            chromium.wait_until(page, chromium.SHOWS_IMAGE, SECONDS)
            classes = page.locator("#choices bdi").all_inner_texts()
            if label in classes:
                page.keyboard.press(str(1 + classes.index(label)))
            else:
                page.get_by_label("Another label").fill(label)
                page.keyboard.press("Enter")
        page.get_by_text("All images are labelled.").wait_for()
        page.evaluate("busy")  # all answers are saved
        page.close()
    return folder / "labels.csv"


def test_what_a_model_did_not_know_is_labelled_and_makes_a_better_version(browser, s3, tmp_path, monkeypatch):
    for label in KNOWN:
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in TRAINED:
            (tmp_path / "photos" / label / f"{number:04}.jpg").write_bytes(drawn(label, number))
    repository, place = f"s3://{s3.bucket('loop', {'other': b''})}/models", tmp_path / "collected"
    form = RECIPE | {"images_uri": tmp_path / "photos", "deploy_to": repository}
    met = {drawn(NEW, number): NEW for number in MET}
    met |= {drawn(label, number): label for label in KNOWN for number in MET[:MET_OF_KNOWN]}
    held_out = {drawn(label, number): label for label in (*KNOWN, NEW) for number in HELD_OUT}

    first = run(tmp_path, "image_classification", form)
    assert (first["accepted"], first["endpoint"]["version"]) == (True, 1)
    with collecting_server(repository, place) as model:
        ask(model, list(met))
        model_servers.until(lambda: count_collected(place) == len(met), SECONDS)

        review = {"model_uri": repository, "collected_uri": place, "review_images": REVIEWED}
        chosen = Path(run(tmp_path, "review", review)["chosen"])
        labels = label_with_keys(browser, tmp_path, chosen, met)
        given = [row["label"] for row in read_rows(labels)]
        assert len(given) <= REVIEWED and given.count(NEW) >= len(given) / 2  # mostly of what the model does not know

        before, old = ask(model, list(held_out))
        second = run(tmp_path, "image_classification", form | {"labels_uri": labels})
        assert (second["accepted"], second["endpoint"]["version"]) == (True, 2)
        model_servers.until(lambda: ask(model, list(met)[:1])[1] != old, SECONDS)  # the server takes it up by itself
        after, new = ask(model, list(held_out))
    assert count_images(second) - count_images(first) == len(given)
    errors = [sum(named != label for named, label in zip(names, held_out.values(), strict=True)) for names in (before, after)]
    assert errors[0] >= len(HELD_OUT)  # the first version names none of the images of the class that it has never seen
    assert errors[1] <= errors[0] / 2 and NEW in after

    with mlflow_server(tmp_path) as mlflow:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow)
        register_in_mlflow(second, f"{repository}/2", tmp_path / "registered")
        version = mlflow_version(mlflow, "flowers", "1")
        assert version["tags"]["kfp_vision.fingerprint"] == new
        assert version["tags"]["data_fingerprint"] == data_fingerprint(second) != data_fingerprint(first)
        alias = {"name": "flowers", "alias": "champion", "version": "1"}
        requests.post(f"{mlflow}/api/2.0/mlflow/registered-models/alias", json=alias, timeout=SECONDS).raise_for_status()
        assert fetch_version("models:/flowers@champion", tmp_path / "fetched").fingerprint == new


def read_rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def count_collected(place: Path) -> int:
    return len(list(collected.read_collected(str(place)))) if collected.list_batches(str(place)) else 0


def output(result: Mapping[str, Any], name: str) -> Path:
    """Returns an output of a stage of a run, by the names of both."""
    (found,) = Path(result["run_dir"]).glob(f"*/{name}")
    return found


def count_images(result: Mapping[str, Any]) -> int:
    return len(read_rows(output(result, "ingest-images/images")))


def data_fingerprint(result: Mapping[str, Any]) -> str:
    values = json.loads(output(result, "decide-training/executor_output.json").read_text())["parameterValues"]
    return values["fingerprint"]


def register_in_mlflow(result: Mapping[str, Any], uri: str, registered: Path) -> None:
    """Registers a run's model where it was deployed to, since MLflow takes none from a folder of this machine."""
    judgements = [output(result, f"evaluate-classifier/{name}") for name in ("verdict", "metrics", "report")]
    origin = Origin("image-classification", {}, data_fingerprint(result), Path(result["run_dir"]).name, "")
    judged = register.Judged(Path(result["model_dir"]), uri, *judgements)
    (done,) = register.register_model(judged, "mlflow", origin, registered)
    assert (done.get("error"), done.get("version")) == (None, "1")


def mlflow_version(mlflow: str, name: str, number: str) -> dict[str, Any]:
    """Returns a version in MLflow, its tags as a dictionary."""
    asked = {"name": name, "version": number}
    answer = requests.get(f"{mlflow}/api/2.0/mlflow/model-versions/get", params=asked, timeout=SECONDS)
    answer.raise_for_status()
    version = answer.json()["model_version"]
    return version | {"tags": {tag["key"]: tag["value"] for tag in version["tags"]}}
