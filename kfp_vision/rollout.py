"""The roll-out of a model by KServe: whether those pods alone answer that have it, and why they do not come up.

In KServe's Standard mode `Ready` of an InferenceService does not say it: it stays True for as long as a pod of the model before
is available (`PropagateRawStatus` in pkg/apis/serving/v1beta1/inference_service_status.go of KServe 0.20.0). The Deployment
that KServe makes says it, and its pods say why not. KServe hands the annotations of the InferenceService on to the pods.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kfp_vision import endings

STANDARD = ("Standard", "RawDeployment")  # the mode without Knative, and what it was called before KServe 0.16
MODE = "serving.kserve.io/deploymentMode"  # the annotation that KServe's webhook writes
OF_SERVICE = "serving.kserve.io/inferenceservice"  # the label of the pods
INITIALIZER = "storage-initializer"  # KServe's container that brings the model
OUT_OF_MEMORY = "OOMKilled"
STARTING = ("ContainerCreating", "PodInitializing")  # reasons to wait that are none to tell
AGAIN = "CrashLoopBackOff"  # the reason is how the container ended before
STALLED = "ProgressDeadlineExceeded"
INVALID = "InvalidSpec"  # KServe's word for what no waiting helps against
ENDED = 0


def is_standard(service: Mapping[str, Any]) -> bool:
    """Whether KServe runs an InferenceService as a plain Deployment, without Knative."""
    said = (service["metadata"].get("annotations") or {}).get(MODE, "")
    return (_status(service).get("deploymentMode") or said) in STANDARD


def deployment_of(name: str) -> str:
    """What KServe calls the Deployment of an InferenceService in Standard mode."""
    return f"{name}-predictor"


def has(marked: Mapping[str, Any], marks: Mapping[str, str]) -> bool:
    """Whether an object, or the template of a pod, carries annotations."""
    return marks.items() <= ((marked.get("metadata") or {}).get("annotations") or {}).items()


def unfinished(deployment: Mapping[str, Any] | None, marks: Mapping[str, str]) -> str:
    """What the roll-out of a Deployment waits for, in a few words; empty where it has ended.

    Args:
        deployment: as Kubernetes has it; None where there is none.
        marks: the annotations of the pods that are wanted.
    """
    if deployment is None:
        return "KServe has not made the Deployment yet"
    if not has(deployment["spec"]["template"], marks):
        return "KServe has not changed the Deployment yet"
    status, wanted = _status(deployment), deployment["spec"].get("replicas", 1)
    if status.get("observedGeneration") != deployment["metadata"]["generation"]:
        return "Kubernetes has not begun with the change yet"
    if not wanted:
        return "it is scaled to zero, so that nobody answers"
    updated, there, available = (status.get(f"{kind}eplicas") or 0 for kind in ("updatedR", "r", "availableR"))
    if updated == there == available == wanted:
        return ""
    return f"{updated} of {wanted} pods made anew, {there} there in all, {available} available"


def obstacles(deployment: Mapping[str, Any] | None, pods: Iterable[Mapping[str, Any]], marks: Mapping[str, str]) -> list[str]:
    """Why the pods that are wanted do not come up, each reason once; none where Kubernetes has no word about it.

    Args:
        deployment: as Kubernetes has it; None where there is none.
        pods: of the InferenceService, the ones before as well.
        marks: the annotations of the pods that are wanted.
    """
    found = [reason for pod in pods if has(pod, marks) for reason in _of_pod(pod)]
    conditions = _status(deployment or {}).get("conditions") or []
    for condition in conditions:  # of pods that Kubernetes does not let in, nothing else tells
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            found.append(_joined(condition))
    if not found:
        found = [_joined(condition) for condition in conditions if condition.get("reason") == STALLED]
    return list(dict.fromkeys(found))


def answers_before(pods: Iterable[Mapping[str, Any]], marks: Mapping[str, str]) -> bool:
    """Whether a model before the one that is wanted goes on answering."""
    return any(_is_ready(pod) for pod in pods if not has(pod, marks))


def of_kserve(service: Mapping[str, Any]) -> list[str]:
    """What KServe says of an InferenceService that is not ready: its conditions, and why the model does not load."""
    status = _status(service)
    told: dict[str, str] = {}  # a reason, and the condition that gave it first
    conditions = [one for one in status.get("conditions") or [] if one["status"] != "True" and one.get("severity") != "Info"]
    for condition in sorted(conditions, key=lambda one: one["type"] == "Ready"):  # it repeats that of a part
        told.setdefault(_joined(condition), f"{condition['type']} is {condition['status']}")
    said = [f"{what} ({why})" if why else what for why, what in told.items() if why or len(told) == 1]
    failure = (status.get("modelStatus") or {}).get("lastFailureInfo") or {}
    last = {"reason": failure.get("reason"), "message": _last_line(failure.get("message"))}
    return said + [line for line in [_joined(last)] if line and not any(line in one for one in said)]


def is_invalid(service: Mapping[str, Any]) -> bool:
    """Whether KServe can make nothing of an InferenceService, however long it is waited for."""
    return (_status(service).get("modelStatus") or {}).get("transitionStatus") == INVALID


def _of_pod(pod: Mapping[str, Any]) -> Iterator[str]:
    status = _status(pod)
    if status.get("phase") == "Failed":  # evicted, say
        yield _joined(status)
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield f"no node takes its pod ({_joined(condition)})"
    spec = {one["name"]: one for one in pod["spec"].get("initContainers", []) + pod["spec"].get("containers", [])}
    for container in (status.get("initContainerStatuses") or []) + (status.get("containerStatuses") or []):
        yield from _of_container(container, spec.get(container["name"], {}))


def _of_container(container: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[str]:
    name = container["name"]
    states = [container.get("state") or {}, container.get("lastState") or {}]
    if container.get("ready") or (states[0].get("terminated") or {}).get("exitCode") == ENDED:
        return
    ended = [state["terminated"] for state in states if state.get("terminated")]
    waiting = states[0].get("waiting") or {}
    if any(one.get("reason") == OUT_OF_MEMORY for one in ended):
        limit = ((spec.get("resources") or {}).get("limits") or {}).get("memory", "")
        than = f"more memory than the {limit} that it may take" if limit else "more memory than it may take"
        remedy = "" if name == INITIALIZER else "; set service_resources of advanced"
        yield f"{name} needed {than}, and was killed ({OUT_OF_MEMORY}{remedy})"
    elif endings.NO_IMAGE.search(waiting.get("reason", "")):
        yield f"the image {spec.get('image', '')} cannot be pulled ({_joined(waiting)})"
    elif failed := [one for one in ended if one.get("exitCode") != ENDED]:
        why = _last_line(failed[0].get("message")) or f"exit code {failed[0].get('exitCode')}"
        yield f"{name} ended: {why}"
    elif waiting and waiting.get("reason") not in (*STARTING, AGAIN):
        yield f"{name} does not start ({_joined(waiting)})"


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = _status(pod).get("conditions") or []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _status(what: Mapping[str, Any]) -> Mapping[str, Any]:
    return what.get("status") or {}


def _joined(what: Mapping[str, Any]) -> str:
    """Reason and message on one line, the former where it says anything."""
    return ": ".join(" ".join(part.split()) for part in (what.get("reason"), what.get("message")) if part)


def _last_line(message: str | None) -> str:
    """The one that matters of what a container said before it ended."""
    return next((line.strip() for line in reversed((message or "").splitlines()) if line.strip()), "")
