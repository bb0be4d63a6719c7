"""Registers models in a real MLflow server and in a stand-in for Kubeflow's Model Registry, and finds them there."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from support import exported_model
from support.model_servers import free_port
from support.registry_servers import KubeflowRegistry, mlflow_server

from kfp_vision.core.errors import InputError
from kfp_vision.deployment import register
from kfp_vision.deployment.model_card import Origin
from kfp_vision.networks import NETWORKS, pretrained
from kfp_vision.repository import bucket_repository, kubeflow_registry, mlflow_registry, publish, registries
from kfp_vision.repository.registration import Registration
from kfp_vision.repository.version import Version, check_model_uri, exported_version, fetch_version, versions

pytestmark = pytest.mark.slow

CURVES = [{"step": 10, "loss": 1.5, "learning_rate": 0.01}, {"step": 20, "loss": 0.5, "learning_rate": 0.001}]
EVALUATION = {"images": 40, "split": "test", "accuracy": 0.875, "accuracy_interval": [0.7, 0.95]}
ORIGIN = Origin("image-classification", {"images_uri": "s3://photos"}, "0ca8", "sunday", "8a2f")


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as url:
        yield url


@pytest.fixture
def kubeflow() -> Iterator[KubeflowRegistry]:
    with KubeflowRegistry().running() as registry:
        yield registry
        assert registry.refused == []


@pytest.fixture(autouse=True)
def no_environment(monkeypatch) -> None:
    for name in (*registries.ENVIRONMENT, "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_TRACKING_AUTH", "MLFLOW_WORKSPACE"):
        monkeypatch.delenv(name, raising=False)


def write_run(folder: Path, name: str, accepted: bool = True) -> register.Judged:
    """Writes what the stages before the registration leave of a model in a bucket."""
    about = {"network": "resnet50", "learning_rate": 0.03, "advanced": {"seed": 3}, "trained_from": "ab12"}
    model = exported_model.version(folder / "model" / "serving" / "1", name=name, weights=name.encode(), **about)
    (folder / "model" / "training.json").write_text(json.dumps(CURVES))
    verdict = {"accepted": accepted, "reasons": ["accuracy 0.8750 is below min_accuracy 0.9"]}
    (folder / "verdict").write_text(json.dumps({"model_fingerprint": model.fingerprint, "verdict": verdict}))
    (folder / "metrics").write_text(json.dumps(EVALUATION | {"verdict": verdict}))
    (folder / "report").write_text("<p>the report</p>")
    files = [folder / name for name in ("verdict", "metrics", "report")]
    return register.Judged(folder / "model", f"s3://mlpipeline/{name}/model", *files)


def asked(url: str, path: str, **query: str) -> dict[str, Any]:
    answer = requests.get(f"{url}/api/2.0/{path}", params=query, timeout=60)
    answer.raise_for_status()
    return answer.json()


def pairs(entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {entry["key"]: entry["value"] for entry in entries}


def test_mlflow_has_the_run_with_its_curves_report_and_the_version_with_tags(mlflow, tmp_path):
    judged = write_run(tmp_path, "roses")
    (done,) = register.register_model(judged, f"mlflow+{mlflow}", ORIGIN, tmp_path / "registered")
    assert done == {"kind": "mlflow", "version": "1", "is_new": True, "place": mlflow}
    assert json.loads((tmp_path / "registered").read_text()) == {"registries": [done]}
    version = asked(mlflow, "mlflow/model-versions/get", name="roses", version="1")["model_version"]
    assert (version["source"], version["description"][:4]) == ("s3://mlpipeline/roses/model", "---\n")
    tags = pairs(version["tags"])
    assert tags["kfp_vision.fingerprint"] == Version(judged.model / "serving" / "1").fingerprint
    assert (tags["network"], tags["data_fingerprint"], tags["kfp_run_id"]) == ("resnet50", "0ca8", "8a2f")
    run = asked(mlflow, "mlflow/runs/get", run_id=version["run_id"])["run"]
    assert (run["info"]["status"], run["info"]["run_name"]) == ("FINISHED", "sunday")
    parameters = pairs(run["data"]["params"])
    assert (parameters["learning_rate"], parameters["advanced.seed"]) == ("0.03", "3")
    assert pairs(run["data"]["metrics"])["accuracy"] == 0.875
    losses = asked(mlflow, "mlflow/metrics/get-history", run_id=version["run_id"], metric_key="training.loss")["metrics"]
    assert [(one["step"], one["value"]) for one in losses] == [(10, 1.5), (20, 0.5)]
    files = asked(mlflow, "mlflow/artifacts/list", run_id=version["run_id"])["files"]
    assert [file["path"] for file in files] == ["model_card.md", "report.html"]
    place = f"mlflow-artifacts/artifacts/{run['info']['experiment_id']}/{version['run_id']}/artifacts/report.html"
    assert requests.get(f"{mlflow}/api/2.0/{place}", timeout=60).text == "<p>the report</p>"


def test_a_model_is_registered_once_by_its_fingerprint(mlflow, kubeflow, tmp_path, capsys):
    judged, both = write_run(tmp_path, "tulips"), f"mlflow+{mlflow}, model-registry+{kubeflow.url}"
    for is_new in (True, False):
        done = register.register_model(judged, both, ORIGIN, tmp_path / "registered")
        assert [(one["kind"], one["version"], one["is_new"]) for one in done] == [
            ("mlflow", "1", is_new),
            ("model-registry", "1", is_new),
        ]
    assert len(asked(mlflow, "mlflow/model-versions/search", filter="name='tulips'")["model_versions"]) == 1
    assert (len(kubeflow.versions), len(kubeflow.artifacts)) == (1, 1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "outcome: tulips registered in mlflow as version 1"
    assert lines[3] == "outcome: tulips is registered already in model-registry as version 1"
    (tmp_path / "model" / "serving" / "1" / "saved_model.pb").write_bytes(b"trained again")
    verdict = json.loads(judged.verdict.read_text())
    verdict["model_fingerprint"] = Version(judged.model / "serving" / "1").fingerprint
    judged.verdict.write_text(json.dumps(verdict))
    done = register.register_model(judged, both, ORIGIN, tmp_path / "registered")
    assert [(one["version"], one["is_new"]) for one in done] == [("2", True), ("2", True)]


def test_mlflows_run_of_the_stage_is_used_and_left_to_the_platform(mlflow, tmp_path, monkeypatch):
    body = {"name": "the platform's"}
    experiment = requests.post(f"{mlflow}/api/2.0/mlflow/experiments/create", json=body, timeout=60).json()["experiment_id"]
    begun = requests.post(f"{mlflow}/api/2.0/mlflow/runs/create", json={"experiment_id": experiment}, timeout=60).json()
    run_id = begun["run"]["info"]["run_id"]
    for name, value in {"TRACKING_URI": mlflow, "EXPERIMENT_ID": experiment, "RUN_ID": run_id}.items():
        monkeypatch.setenv(f"MLFLOW_{name}", value)
    register.register_model(write_run(tmp_path, "lilies"), "mlflow", ORIGIN, tmp_path / "registered")
    version = asked(mlflow, "mlflow/model-versions/get", name="lilies", version="1")["model_version"]
    assert version["run_id"] == run_id
    run = asked(mlflow, "mlflow/runs/get", run_id=run_id)["run"]
    assert (run["info"]["status"], pairs(run["data"]["metrics"])["accuracy"]) == ("RUNNING", 0.875)


def test_the_model_registry_has_the_version_with_figures_and_lineage(kubeflow, tmp_path):
    judged = write_run(tmp_path, "roses")
    register.register_model(judged, f"model-registry+{kubeflow.url}", ORIGIN, tmp_path / "registered")
    (version,) = kubeflow.versions.values()
    assert kubeflow.models[version["registeredModelId"]]["name"] == "roses"
    properties = version["customProperties"]
    assert properties["accuracy"] == {"metadataType": "MetadataDoubleValue", "double_value": 0.875}
    assert properties["network"] == {"metadataType": "MetadataStringValue", "string_value": "resnet50"}
    (artifact,) = kubeflow.artifacts.values()
    assert (artifact["uri"], artifact["modelFormatName"]) == ("s3://mlpipeline/roses/model", "tensorflow")
    lineage = {name: artifact[f"modelSource{name}"] for name in ("Kind", "Class", "Id", "Name")}
    assert lineage == {"Kind": "kfp", "Class": "pipelinerun", "Id": "8a2f", "Name": "sunday"}


def test_a_version_whose_artifact_is_missing_gets_it(kubeflow, tmp_path):
    judged = write_run(tmp_path, "roses")
    registry = f"model-registry+{kubeflow.url}"
    register.register_model(judged, registry, ORIGIN, tmp_path / "registered")
    kubeflow.artifacts.clear()  # as if the stage had been killed
    (done,) = register.register_model(judged, registry, ORIGIN, tmp_path / "registered")
    assert (done["is_new"], len(kubeflow.versions), len(kubeflow.artifacts)) == (False, 1, 1)


def test_the_model_registry_lists_in_pages(kubeflow):
    kubeflow.page_size = 2
    api = kubeflow_registry.connect(kubeflow.url)
    model = Registration("roses", "f", "s3://a/1", "# card", {}, {"accuracy": 0.9}, [], {}, {})
    for number in range(1, 6):
        registered = kubeflow_registry.register(api, replace(model, fingerprint=f"f{number}", uri=f"s3://a/{number}"))
        assert (registered.version, registered.is_new) == (str(number), True)
    again = kubeflow_registry.register(api, replace(model, fingerprint="f5"))
    assert (again.version, again.is_new) == ("5", False)
    assert kubeflow_registry.find_uri(api, "roses", "5") == "s3://a/5"
    with pytest.raises(InputError, match="no roses/6 among 1, 2, 3, 4, 5 at "):
        kubeflow_registry.find_uri(api, "roses", "6")


def test_a_registry_that_fails_is_a_warning(tmp_path, capsys):
    nobody = f"http://127.0.0.1:{free_port()}"
    judged = write_run(tmp_path, "roses")
    done = register.register_model(judged, f"mlflow+{nobody},model-registry+{nobody}", ORIGIN, tmp_path / "registered")
    assert [one["kind"] for one in done] == ["mlflow", "model-registry"] and all(one["error"] for one in done)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" roses")[0] for line in lines] == ["outcome: warning:", "outcome: warning:"]
    assert lines[0] == (
        "outcome: warning: roses is not registered in mlflow: a model registry must answer; "
        f"got ConnectionError from {nobody}. Check its address, and that it runs. The run is good all the same."
    )


def test_a_local_folder_is_not_registered_in_mlflow_and_leaves_no_run(mlflow, tmp_path):
    judged = replace(write_run(tmp_path, "orchids"), uri=str(tmp_path / "model"))
    (done,) = register.register_model(judged, f"mlflow+{mlflow}", ORIGIN, tmp_path / "registered")
    assert done["error"].startswith("a model must be in a bucket to be registered in MLflow; got ")
    with pytest.raises(requests.HTTPError):
        asked(mlflow, "mlflow/experiments/get-by-name", experiment_name="orchids")


def test_a_model_of_a_laptop_is_registered_where_it_was_deployed(mlflow, place, tmp_path):
    name = f"irises-{place.scheme}"
    judged = replace(write_run(tmp_path, name), uri=str(tmp_path / "model"))
    repository = f"{place.bucket({'other': b''})}/models"
    former = exported_model.version(tmp_path / "former" / "1", name=name, weights=b"former")
    for model in (former, exported_version(judged.model)):
        publish.publish(model, repository)
    origin = replace(ORIGIN, form={"deploy_to": f" {repository}/\n"})
    register.register_model(judged, f"mlflow+{mlflow}", origin, tmp_path / "registered")
    found = asked(mlflow, "mlflow/model-versions/get", name=name, version="1")["model_version"]
    assert found["source"] == f"{repository}/2"


def test_a_repository_that_cannot_be_listed_is_a_warning(kubeflow, tmp_path, capsys):
    judged = replace(write_run(tmp_path, "asters"), uri=str(tmp_path / "model"))
    origin = replace(ORIGIN, form={"deploy_to": "gs:///models"})
    (done,) = register.register_model(judged, f"model-registry+{kubeflow.url}", origin, tmp_path / "registered")
    assert done["version"] == "1"
    assert "warning: looks for no copy in gs:///models: " in capsys.readouterr().out


def test_a_rejected_model_is_not_registered(kubeflow, tmp_path):
    judged = write_run(tmp_path, "roses", accepted=False)
    with pytest.raises(InputError, match=r"a model must be accepted to be registered; got accuracy 0\.8750 is below"):
        register.register_model(judged, f"model-registry+{kubeflow.url}", ORIGIN, tmp_path / "registered")
    assert kubeflow.models == {}


def test_the_tokens_of_the_environment_are_sent(kubeflow, monkeypatch):
    monkeypatch.setenv("MODEL_REGISTRY_TOKEN", "a-token\n")
    monkeypatch.setenv("MODEL_REGISTRY_URL", kubeflow.url)
    kubeflow_registry.connect()
    assert kubeflow.tokens == ["Bearer a-token"]


def test_a_registered_model_is_read_wherever_a_model_is(mlflow, kubeflow, place, tmp_path, monkeypatch):
    name = f"daisies-{place.scheme}"
    model = exported_model.version(tmp_path / "model" / "1", name=name)
    repository = f"{place.bucket({'other': b''})}/models"
    publish.publish(model, repository)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow)
    monkeypatch.setenv("MODEL_REGISTRY_URL", kubeflow.url)
    described = Registration(name, model.fingerprint, repository, "# card", {}, {}, [], {}, {})
    for registry in (mlflow_registry, kubeflow_registry):
        assert registry.register(registry.connect(), described).version == "1"
    alias = {"name": name, "alias": "champion", "version": "1"}
    requests.post(f"{mlflow}/api/2.0/mlflow/registered-models/alias", json=alias, timeout=60).raise_for_status()
    for number, uri in enumerate(
        (f"models:/{name}/1", f"models:/{name}/latest", f"models:/{name}@champion", f"model-registry://{name}/1")
    ):
        check_model_uri(uri, "model_uri")
        assert fetch_version(f" {uri}\n", tmp_path / f"fetched-{number}").fingerprint == model.fingerprint
        with bucket_repository.local_copy(uri) as path:
            assert [one.fingerprint for one in versions(path)] == [model.fingerprint]
    with pytest.raises(InputError, match=f"no {name}/2 among 1 at"):
        check_model_uri(f"model-registry://{name}/2", "model_uri")


def test_a_registered_model_is_a_checkpoint_to_start_from(mlflow, kubeflow, place, tmp_path, monkeypatch):
    with (tmp_path / "weights.npz").open("wb") as file:
        np.savez(file, **{"conv1/kernel": np.zeros((7, 7, 3, 64), "float32")})
    bucket = place.bucket({"weights.npz": (tmp_path / "weights.npz").read_bytes()})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow)
    monkeypatch.setenv("MODEL_REGISTRY_URL", kubeflow.url)
    name = f"weights-{place.scheme}"
    described = Registration(name, "f", f"{bucket}/weights.npz", "# card", {}, {}, [], {}, {})
    for registry in (mlflow_registry, kubeflow_registry):
        registry.register(registry.connect(), described)
    for uri in (f"models:/{name}/1", f"model-registry://{name}/1"):
        checkpoint = pretrained.open_checkpoint(uri, NETWORKS["inception_v1"], tmp_path)
        assert checkpoint.shapes == {"conv1/kernel": (7, 7, 3, 64)}


@pytest.fixture
def logged_model(mlflow, place) -> tuple[str, str]:
    """Logs a model to MLflow whose files lie in a bucket; returns its id and the URI of the files."""
    bucket = place.bucket({"other": b""})
    body = {"name": f"of {bucket}", "artifact_location": f"{bucket}/mlflow"}
    made = requests.post(f"{mlflow}/api/2.0/mlflow/experiments/create", json=body, timeout=60).json()
    body = {"experiment_id": made["experiment_id"], "name": "roses"}
    info = requests.post(f"{mlflow}/api/2.0/mlflow/logged-models", json=body, timeout=60).json()["model"]["info"]
    assert info["artifact_uri"].startswith(f"{bucket}/mlflow/models/m-")
    return info["model_id"], info["artifact_uri"]


def test_a_logged_model_is_read_by_its_id_and_by_the_version_that_came_of_it(mlflow, logged_model, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow)
    (model_id, place), name = logged_model, f"logged-{logged_model[0]}"
    model = exported_model.version(tmp_path / "model" / "1")
    publish.publish(model, place)
    requests.post(f"{mlflow}/api/2.0/mlflow/registered-models/create", json={"name": name}, timeout=60).raise_for_status()
    body = {"name": name, "source": f"models:/{model_id}", "model_id": model_id}
    requests.post(f"{mlflow}/api/2.0/mlflow/model-versions/create", json=body, timeout=60).raise_for_status()
    for number, uri in enumerate((f"models:/{model_id}", f"models:/{name}/1")):
        assert fetch_version(uri, tmp_path / str(number)).fingerprint == model.fingerprint
    with pytest.raises(InputError, match=rf"MLflow must have the logged model; got no m-{'0' * 32} at http"):
        check_model_uri(f"models:/m-{'0' * 32}", "model_uri")


def test_a_card_that_is_longer_than_mlflow_takes_is_cut_and_attached_whole(mlflow):
    api, card = mlflow_registry.connect(mlflow), "".join(f"| class {number} | 0.9 |\n" for number in range(1000))
    model = Registration("many-classes", "f", "s3://a/1", card, {}, {}, [], {}, {})
    mlflow_registry.register(api, model)
    description = asked(mlflow, "mlflow/model-versions/get", name="many-classes", version="1")["model_version"]["description"]
    whole, said = description[: -len(mlflow_registry.REST)], description[-len(mlflow_registry.REST) :]
    assert 4900 < len(description) <= 5000 and card.startswith(f"{whole}\n") and "model_card.md" in said


def test_an_unknown_version_is_named(mlflow):
    api = mlflow_registry.connect(mlflow)
    with pytest.raises(InputError, match=r"MLflow must have the version, .*; got no nobody/7 at http"):
        mlflow_registry.find_uri(api, "nobody", "7")
