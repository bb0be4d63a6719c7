"""The troubleshooting page quotes every reason of a failure literally."""

import re
from pathlib import Path

import pytest
from support import cluster_run

from kfp_vision.deployment import rollout
from kfp_vision.reports import outcome, stage_failures
from kfp_vision.reports.stage_failures import StageLog

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
KSERVE = PAGE.split("## A model on KServe that does not answer")[1].split("\n## ")[0]
EIGHT = {"spec": {"containers": [{"name": "main", "image": "x", "resources": {"limits": {"memory": "8Gi"}}}]}}
A_DAY = {"spec": {"activeDeadlineSeconds": 86400}}
UNPULLED = {**EIGHT, "status": {"containerStatuses": [cluster_run.waiting("main", "ImagePullBackOff", "Back-off")]}}


@pytest.mark.parametrize(
    ("message", "pod", "log"),
    [
        ("main: OOMKilled (exit code 137)", EIGHT, StageLog()),
        ("main: Error (exit code 1)", {}, StageLog(killed=True)),
        ("Pod was active on the node longer than the specified deadline", A_DAY, StageLog()),
        ("Pod was active on the node longer than the specified deadline", UNPULLED, StageLog()),
        ('Usage of EmptyDir volume "tmp" exceeds the limit "1Mi".', {}, StageLog()),
        ("Unschedulable: 0/1 nodes are available", {}, StageLog()),
        ("pod deleted", {}, StageLog()),
    ],
)
def test_each_reason_is_on_the_page(message, pod, log):
    said = stage_failures.explain_failure("train_classifier", message, pod, log)
    told = [quoted for quoted in re.findall(r"`([^`]+)`", PAGE) if said.startswith(re.split(r": \.\.\.|\.\.\.", quoted)[0])]
    assert told, said


def of_a_model(**status: object) -> dict:
    """Returns a pod of KServe."""
    containers = [{"name": "kserve-container", "image": "x", "resources": {"limits": {"memory": "2Gi"}}}]
    return {"metadata": {"annotations": {}}, "spec": {"containers": containers}, "status": status}


def ended(container: str, **how: object) -> dict:
    return {"name": container, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": how}}


def failed_to_make(message: str) -> dict:
    condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}
    return {"status": {"conditions": [condition]}}


UNSCHEDULED = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1: 1 Insufficient cpu."}


@pytest.mark.parametrize(
    ("deployment", "pod"),
    [
        (None, of_a_model(containerStatuses=[cluster_run.waiting("kserve-container", "ErrImagePull", "not found")])),
        (None, of_a_model(conditions=[UNSCHEDULED])),
        (failed_to_make('error looking up service account models/x: serviceaccount "x" not found'), None),
        (failed_to_make('pods "x" is forbidden: violates PodSecurity "restricted:v1.30": runAsNonRoot != true'), None),
        (None, of_a_model(initContainerStatuses=[ended("storage-initializer", exitCode=1, message="no such bucket")])),
        (None, of_a_model(containerStatuses=[ended("kserve-container", exitCode=137, reason="OOMKilled")])),
        (None, of_a_model(containerStatuses=[ended("kserve-container", exitCode=1, message="error: no model")])),
    ],
)
def test_each_reason_of_a_model_on_kserve_is_on_the_page(deployment, pod):
    (said,) = rollout.start_failures(deployment, [pod] if pod else [], {})
    pieces = [re.split(r"\s*\.\.\.\s*", quoted) for quoted in re.findall(r"`([^`]+)`", KSERVE)]
    assert [quoted for quoted in pieces if all(piece in said for piece in quoted) and len("".join(quoted)) > 10], said


@pytest.mark.parametrize("replicas", [0, 1])
def test_a_model_scaled_to_zero_is_on_the_page(replicas):
    counts = dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), replicas)
    spec = {"replicas": replicas, "template": {}}
    said = rollout.rollout_progress(
        {"metadata": {"generation": 1}, "spec": spec, "status": {"observedGeneration": 1, **counts}}, {}
    )
    assert f"`{said}`" in KSERVE if not replicas else said == ""


def test_an_unknown_reason_is_on_the_page():
    assert f"`{outcome.UNKNOWN_REASON}`" in PAGE


def test_the_files_named_on_the_page_exist():
    named = re.findall(r"\]\(([^)]+)\)", PAGE)
    assert named and [file for file in named if not (ROOT / "docs" / file).exists()] == []
    assert all((ROOT / file).exists() for file in re.findall(r"`((?:pipelines|manifests)/[\w./-]+)`", PAGE))
