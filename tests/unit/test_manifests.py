"""Every manifest is what Kubernetes and KServe publish of its kind, and fits the rest of the house."""

from pathlib import Path

import published
import pytest
import yaml

from kfp_vision import __version__, inference_service, parameters
from kfp_vision.components.images import CPU_IMAGE

FOLDER = Path(__file__).resolve().parents[2] / "manifests"
FILES = sorted(file.name for file in FOLDER.glob("*.yaml") if file.name != "kustomization.yaml")


def read(name: str) -> dict:
    (document,) = yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8"))
    return document


@pytest.mark.parametrize("name", FILES)
def test_a_manifest_passes_its_published_schema(name):
    assert published.faults(read(name)) == []


@pytest.mark.parametrize("file", sorted((FOLDER / "pipelines").glob("[!k]*.yaml")), ids=lambda file: file.stem)
def test_a_pipeline_is_what_kfp_publishes_of_its_kind(file):
    pipeline, version = yaml.safe_load_all(file.read_text(encoding="utf-8"))
    assert (pipeline["kind"], version["kind"]) == ("Pipeline", "PipelineVersion")
    assert published.faults(pipeline) == published.faults(version) == []
    assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"] == file.stem.replace("_", "-")
    assert version["metadata"]["name"] == f"{pipeline['metadata']['name']}-{__version__}"
    spec, platform = yaml.safe_load_all((FOLDER.parent / "pipelines" / file.name).read_text(encoding="utf-8"))
    assert version["spec"]["pipelineSpec"] == spec and version["spec"]["platformSpec"] == platform
    for path, value in (("pipelineSpec", "x"), ("spec", {}), ("displayName", 7)):
        assert published.faults(version | {"spec": version["spec"] | {path: value}}) != []


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("role.yaml", ("rules", 0, "verbz"), ["get"]),
        ("role.yaml", ("rules", 0, "verbs"), "get"),
        ("role-binding.yaml", ("roleRef", "name"), 7),
        ("service-account.yaml", ("secrets",), {"name": "x"}),
        ("serving-runtime.yaml", ("spec", "container"), []),
        ("serving-runtime.yaml", ("spec", "containers"), None),
        ("serving-runtime.yaml", ("spec", "containers", 0, "ports", 0, "containerPort"), "8080"),
        ("serving-runtime.yaml", ("spec", "containers", 0, "readinessProbe", "httpGet", "ports"), 8080),
    ],
)
def test_a_manifest_with_a_fault_does_not_pass(name, path, value):
    document = read(name)
    within = document
    for step in path[:-1]:
        within = within[step]
    within[path[-1]] = value
    assert published.faults(document) != []


def test_kustomize_takes_every_manifest_there_is():
    of_pipelines = sorted(file.name for file in (FOLDER / "pipelines").glob("[!k]*.yaml"))
    for name, files in (("kustomization.yaml", FILES), ("pipelines/kustomization.yaml", of_pipelines)):
        kustomization = read(name)
        assert sorted(kustomization["resources"]) == files
        assert (kustomization["apiVersion"], kustomization["kind"]) == ("kustomize.config.k8s.io/v1beta1", "Kustomization")


def test_the_role_is_bound_and_the_runtime_is_what_the_deployment_makes_itself():
    role, binding = read("role.yaml"), read("role-binding.yaml")
    assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) == (role["kind"], role["metadata"]["name"])
    (runtime,) = read("serving-runtime.yaml")["spec"]["containers"]
    settings = parameters.of_deployment({"service_runtime": "kfp-vision"})
    wanted = inference_service.manifest("{{.Name}}", "s3://bucket/model", "", settings)
    (container,) = wanted["spec"]["predictor"]["containers"]
    assert runtime["image"] == CPU_IMAGE
    same = ("name", "image", "command", "args", "ports", "readinessProbe")
    assert {key: runtime[key] for key in same} == {key: container[key] for key in same}
