"""Follows the rollout of a model by KServe: whether only pods of the new model answer, and why they do not start.

In KServe's Standard mode `Ready` of an InferenceService does not tell: it stays True for as long as a pod of the previous model
is available (`PropagateRawStatus` in pkg/apis/serving/v1beta1/inference_service_status.go of KServe 0.20.0). The Deployment
that KServe creates tells, and its pods tell why not. KServe copies the annotations of the InferenceService to the pods.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kfp_vision.reports import stage_failures

STANDARD_MODES = ("Standard", "RawDeployment")  # the mode without Knative, by its name since KServe 0.16 and before
MODE_ANNOTATION = "serving.kserve.io/deploymentMode"  # annotation written by KServe's webhook
SERVICE_LABEL = "serving.kserve.io/inferenceservice"  # label of the pods
INITIALIZER = "storage-initializer"  # KServe's container that downloads the model
OUT_OF_MEMORY = "OOMKilled"
STARTING_REASONS = ("ContainerCreating", "PodInitializing")  # normal reasons to wait, not reported
CRASH_LOOP = "CrashLoopBackOff"  # reported as the reason why the container ended before
STALLED = "ProgressDeadlineExceeded"
INVALID = "InvalidSpec"  # KServe's state of a spec that cannot become ready
EXIT_OK = 0


def is_standard(service: Mapping[str, Any]) -> bool:
    """Returns whether KServe runs an InferenceService as a plain Deployment, without Knative."""
    annotated = (service["metadata"].get("annotations") or {}).get(MODE_ANNOTATION, "")
    return (_status(service).get("deploymentMode") or annotated) in STANDARD_MODES


def deployment_name(name: str) -> str:
    """Returns the name that KServe gives the Deployment of an InferenceService in Standard mode."""
    return f"{name}-predictor"


def has_annotations(resource: Mapping[str, Any], annotations: Mapping[str, str]) -> bool:
    """Returns whether a resource has annotations.

    Args:
        resource: any Kubernetes object, or the template of a pod.
        annotations: by name; all must have these values.

    Returns:
        Whether it has all of them.
    """
    return annotations.items() <= ((resource.get("metadata") or {}).get("annotations") or {}).items()


def rollout_progress(deployment: Mapping[str, Any] | None, annotations: Mapping[str, str]) -> str:
    """Describes what the rollout of a Deployment waits for.

    Args:
        deployment: from Kubernetes; None if there is none.
        annotations: those of the new pods.

    Returns:
        A few words; empty if the rollout is complete.
    """
    if deployment is None:
        return "KServe has not created the Deployment yet"
    if not has_annotations(deployment["spec"]["template"], annotations):
        return "KServe has not updated the Deployment yet"
    status, wanted = _status(deployment), deployment["spec"].get("replicas", 1)
    if status.get("observedGeneration") != deployment["metadata"]["generation"]:
        return "Kubernetes has not started the rollout yet"
    if not wanted:
        return "it is scaled to zero, so that no server answers"
    updated, total, available = (status.get(f"{kind}eplicas") or 0 for kind in ("updatedR", "r", "availableR"))
    if updated == total == available == wanted:
        return ""
    return f"{updated} of {wanted} pods updated, {total} in total, {available} available"


def start_failures(
    deployment: Mapping[str, Any] | None, pods: Iterable[Mapping[str, Any]], annotations: Mapping[str, str]
) -> list[str]:
    """Lists the reasons why the new pods do not start.

    Args:
        deployment: from Kubernetes; None if there is none.
        pods: those of the InferenceService, the previous ones included.
        annotations: those of the new pods.

    Returns:
        Each reason once; none if Kubernetes reports none.
    """
    found = [reason for pod in pods if has_annotations(pod, annotations) for reason in _pod_failures(pod)]
    conditions = _status(deployment or {}).get("conditions") or []
    for condition in conditions:  # the only report of pods that the cluster does not admit
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            found.append(_reason_and_message(condition))
    if not found:
        found = [_reason_and_message(condition) for condition in conditions if condition.get("reason") == STALLED]
    return list(dict.fromkeys(found))


def previous_answers(pods: Iterable[Mapping[str, Any]], annotations: Mapping[str, str]) -> bool:
    """Returns whether a pod of a previous model answers.

    Args:
        pods: those of the InferenceService.
        annotations: those of the new pods.

    Returns:
        Whether any other pod is ready.
    """
    return any(_is_ready(pod) for pod in pods if not has_annotations(pod, annotations))


def kserve_reasons(service: Mapping[str, Any]) -> list[str]:
    """Lists what KServe reports of an InferenceService that is not ready: its conditions, and why the model does not load."""
    status = _status(service)
    by_reason: dict[str, str] = {}  # the condition that gave a reason first
    conditions = [one for one in status.get("conditions") or [] if one["status"] != "True" and one.get("severity") != "Info"]
    for condition in sorted(conditions, key=lambda one: one["type"] == "Ready"):  # Ready last: it repeats others
        by_reason.setdefault(_reason_and_message(condition), f"{condition['type']} is {condition['status']}")
    reports = [f"{what} ({why})" if why else what for why, what in by_reason.items() if why or len(by_reason) == 1]
    failure = (status.get("modelStatus") or {}).get("lastFailureInfo") or {}
    last = {"reason": failure.get("reason"), "message": _last_line(failure.get("message"))}
    return reports + [line for line in [_reason_and_message(last)] if line and not any(line in one for one in reports)]


def is_invalid(service: Mapping[str, Any]) -> bool:
    """Returns whether KServe rejects the spec of an InferenceService, so that waiting does not help."""
    return (_status(service).get("modelStatus") or {}).get("transitionStatus") == INVALID


def _pod_failures(pod: Mapping[str, Any]) -> Iterator[str]:
    status = _status(pod)
    if status.get("phase") == "Failed":  # by eviction, for example
        yield _reason_and_message(status)
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield f"no node takes its pod ({_reason_and_message(condition)})"
    spec = {one["name"]: one for one in pod["spec"].get("initContainers", []) + pod["spec"].get("containers", [])}
    for container in (status.get("initContainerStatuses") or []) + (status.get("containerStatuses") or []):
        yield from _container_failures(container, spec.get(container["name"], {}))


def _container_failures(container: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[str]:
    name = container["name"]
    states = [container.get("state") or {}, container.get("lastState") or {}]
    if container.get("ready") or (states[0].get("terminated") or {}).get("exitCode") == EXIT_OK:
        return
    ended = [state["terminated"] for state in states if state.get("terminated")]
    waiting = states[0].get("waiting") or {}
    if any(one.get("reason") == OUT_OF_MEMORY for one in ended):
        limit = ((spec.get("resources") or {}).get("limits") or {}).get("memory", "")
        exceeded = f"its memory limit of {limit}" if limit else "its memory limit"
        remedy = "" if name == INITIALIZER else "; set service_resources of advanced"
        yield f"{name} exceeded {exceeded} and was killed ({OUT_OF_MEMORY}{remedy})"
    elif stage_failures.IMAGE_NOT_PULLED.search(waiting.get("reason", "")):
        yield f"the container image {spec.get('image', '')} cannot be pulled ({_reason_and_message(waiting)})"
    elif failed := [one for one in ended if one.get("exitCode") != EXIT_OK]:
        why = _last_line(failed[0].get("message")) or f"exit code {failed[0].get('exitCode')}"
        yield f"{name} ended: {why}"
    elif waiting and waiting.get("reason") not in (*STARTING_REASONS, CRASH_LOOP):
        yield f"{name} does not start ({_reason_and_message(waiting)})"


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = _status(pod).get("conditions") or []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _status(resource: Mapping[str, Any]) -> Mapping[str, Any]:
    return resource.get("status") or {}


def _reason_and_message(report: Mapping[str, Any]) -> str:
    return ": ".join(" ".join(part.split()) for part in (report.get("reason"), report.get("message")) if part)


def _last_line(message: str | None) -> str:
    return next((line.strip() for line in reversed((message or "").splitlines()) if line.strip()), "")
