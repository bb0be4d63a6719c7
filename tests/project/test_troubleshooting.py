"""The troubleshooting page quotes every reason for a failure literally."""

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
EIGHT_GIB_POD = {"spec": {"containers": [{"name": "main", "image": "x", "resources": {"limits": {"memory": "8Gi"}}}]}}
ONE_DAY_POD = {"spec": {"activeDeadlineSeconds": 86400}}
UNPULLED_POD = {**EIGHT_GIB_POD, "status": {"containerStatuses": [cluster_run.waiting("main", "ImagePullBackOff", "Back-off")]}}


@pytest.mark.parametrize(
    ("message", "pod", "log"),
    [
        ("main: OOMKilled (exit code 137)", EIGHT_GIB_POD, StageLog()),
        ("main: Error (exit code 1)", {}, StageLog(killed=True)),
        ("Pod was active on the node longer than the specified deadline", ONE_DAY_POD, StageLog()),
        ("Pod was active on the node longer than the specified deadline", UNPULLED_POD, StageLog()),
        ('Usage of EmptyDir volume "tmp" exceeds the limit "1Mi".', {}, StageLog()),
        ("Unschedulable: 0/1 nodes are available", {}, StageLog()),
        ("pod deleted", {}, StageLog()),
    ],
)
def test_the_page_quotes_each_reason_of_a_failed_stage(message, pod, log):
    reason = stage_failures.explain_failure("train_classifier", message, pod, log)
    matches = [quote for quote in re.findall(r"`([^`]+)`", PAGE) if reason.startswith(re.split(r": \.\.\.|\.\.\.", quote)[0])]
    assert matches, reason


def model_pod(**status: object) -> dict:
    """Returns a pod of a model on KServe."""
    containers = [{"name": "kserve-container", "image": "x", "resources": {"limits": {"memory": "2Gi"}}}]
    return {"metadata": {"annotations": {}}, "spec": {"containers": containers}, "status": status}


def terminated_status(container: str, **details: object) -> dict:
    return {"name": container, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": details}}


def deployment_without_pods(message: str) -> dict:
    condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}
    return {"status": {"conditions": [condition]}}


UNSCHEDULED = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1: 1 Insufficient cpu."}


@pytest.mark.parametrize(
    ("deployment", "pod"),
    [
        (None, model_pod(containerStatuses=[cluster_run.waiting("kserve-container", "ErrImagePull", "not found")])),
        (None, model_pod(conditions=[UNSCHEDULED])),
        (deployment_without_pods('error looking up service account models/x: serviceaccount "x" not found'), None),
        (deployment_without_pods('pods "x" is forbidden: violates PodSecurity "restricted:v1.30": runAsNonRoot != true'), None),
        (
            None,
            model_pod(initContainerStatuses=[terminated_status("storage-initializer", exitCode=1, message="no such bucket")]),
        ),
        (None, model_pod(containerStatuses=[terminated_status("kserve-container", exitCode=137, reason="OOMKilled")])),
        (None, model_pod(containerStatuses=[terminated_status("kserve-container", exitCode=1, message="error: no model")])),
    ],
)
def test_the_page_quotes_each_reason_of_a_model_that_does_not_start(deployment, pod):
    (reason,) = rollout.start_failures(deployment, [pod] if pod else [], {})
    quotes = [re.split(r"\s*\.\.\.\s*", quote) for quote in re.findall(r"`([^`]+)`", KSERVE)]
    assert [quote for quote in quotes if all(piece in reason for piece in quote) and len("".join(quote)) > 10], reason


@pytest.mark.parametrize("replicas", [0, 1])
def test_the_page_quotes_the_reason_of_a_model_scaled_to_zero(replicas):
    counts = dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), replicas)
    spec = {"replicas": replicas, "template": {}}
    reason = rollout.rollout_progress(
        {"metadata": {"generation": 1}, "spec": spec, "status": {"observedGeneration": 1, **counts}}, {}
    )
    assert f"`{reason}`" in KSERVE if not replicas else reason == ""


def test_the_page_quotes_the_unknown_reason():
    assert f"`{outcome.UNKNOWN_REASON}`" in PAGE


def test_the_files_named_on_the_page_exist():
    assert all((ROOT / file).exists() for file in re.findall(r"`((?:pipelines|manifests)/[\w./-]+)`", PAGE))
