"""The objects that make a cluster train with several workers, and what their states say; nothing is asked for here.

A TrainJob of Kubeflow Trainer runs on the TrainingRuntime of manifests/training; a TFJob of Kubeflow's training operator brings
its pods along. How the controllers behave was seen with Trainer 2.3.0 and JobSet 0.12.0 on Kubernetes 1.34.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kfp_vision.core.advanced import PRIORITY_LABEL, QUEUE_LABEL
from kfp_vision.core.errors import InputError, format_value
from kfp_vision.training import tf_config
from kfp_vision.training.recipe import Recipe
from kfp_vision.training.worker import INPUT_ERROR_STATUS

TRAIN_JOB, TF_JOB = "trainjob", "tfjob"  # values of training_api
TRAINER_API = "apis/trainer.kubeflow.org/v1alpha1"
JOBSET_API = "apis/jobset.x-k8s.io/v1alpha2"
TF_JOB_API = "apis/kubeflow.org/v1"
RUNTIME = "kfp-vision"  # the TrainingRuntime of manifests/training
CONTAINERS = {TRAIN_JOB: "node", TF_JOB: "tensorflow"}  # names that the controllers demand
JOB_LABELS = {TRAIN_JOB: "jobset.sigs.k8s.io/jobset-name", TF_JOB: "training.kubeflow.org/job-name"}  # of pods
RANK_LABELS = {TRAIN_JOB: "batch.kubernetes.io/job-completion-index", TF_JOB: "training.kubeflow.org/replica-index"}
ROLE = {"kfp-vision/role": "worker"}  # label of pods, for network policies
SPEC_ANNOTATION = "kfp-vision/spec"  # hash of what the stage wants, by which it knows a job as its own
STORAGE_SECRET = "kfp-vision-storage"
DEADLINE_SECONDS = 14 * 24 * 3600  # as long as the stage may take; restarts for lost nodes are not counted
MAX_RESTARTS = 3
# JobSet names pod i of the job NAME `NAME-node-0-i-xxxxx`, a label value of 63 characters at most.
MAX_NAME, MAX_LABEL = 48, 63
SUCCEEDED, FAILED = ("Complete", "Succeeded"), "Failed"  # types of conditions, of a TrainJob and of a TFJob
DEADLINE_REASON = "DeadlineExceeded"  # Trainer deletes the JobSet before it says so
QUOTA = "exceeded quota"


@dataclass(frozen=True)
class Stage:
    """The pod of the stage that starts a job.

    Attributes:
        namespace: its namespace.
        image: its container image, which the workers get.
        key: what is the same for every try of this stage in this run, and for no other.
        owner: owner reference to the run, with which the job goes; empty if there is none.
    """

    namespace: str
    image: str
    key: str
    owner: Mapping[str, Any]


def job_name(model_name: str, key: str, attempt: int, workers: int) -> str:
    """Returns the name of a job, which a later try of the stage finds again.

    Args:
        model_name: name of the model, with which it begins.
        key: see `Stage`.
        attempt: number of the job within the stage, from 1: a name is never used twice, since Trainer would take the JobSet of
            the one before for the new job's.
        workers: how many.
    """
    ending = f"-{hashlib.sha256(key.encode()).hexdigest()[:10]}-{attempt}"
    longest = MAX_NAME - len(str(workers - 1)) + 1 - len(ending)
    readable = re.sub("[^a-z0-9]+", "-", model_name.lower()).strip("-")
    return (readable if readable[:1].isalpha() else f"m-{readable}")[:longest].rstrip("-") + ending


def manifest(name: str, job_uri: str, recipe: Recipe, nodes: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
    """Builds the TrainJob, or the TFJob, of a training.

    Args:
        name: from `job_name`.
        job_uri: of the `WorkerJob`.
        recipe: how to train; `advanced` says which API, runtime, queue and priority to use.
        nodes: the fields gpu_type, node_selector and tolerations of the form.
        stage: the pod of the stage.

    Returns:
        The object.
    """
    advanced, labels = recipe.advanced, {}
    if advanced.training_queue:
        labels[QUEUE_LABEL] = advanced.training_queue
        if advanced.training_priority:
            labels[PRIORITY_LABEL] = advanced.training_priority
    build = _train_job if advanced.training_api == TRAIN_JOB else _tf_job
    built = build(job_uri, recipe, nodes, stage)
    text = json.dumps([built, labels], sort_keys=True)
    metadata = {
        "name": name,
        "namespace": stage.namespace,
        "labels": {"app.kubernetes.io/managed-by": RUNTIME, **labels},
        "annotations": {SPEC_ANNOTATION: hashlib.sha256(text.encode()).hexdigest()},
    }
    return {**built, "metadata": metadata | ({"ownerReferences": [dict(stage.owner)]} if stage.owner else {})}


def _train_job(job_uri: str, recipe: Recipe, nodes: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
    pod = {name: value for name, value in _placement(nodes).items() if value}
    patch = {"name": tf_config.REPLICATED_JOB, "template": {"spec": {"template": {"spec": pod}}}}
    template = {"spec": {"replicatedJobs": [patch]}}
    patches = [{"manager": "kfp-vision/stage", "trainingRuntimeSpec": {"template": template}}]
    return {
        "apiVersion": TRAINER_API.removeprefix("apis/"),
        "kind": "TrainJob",
        "spec": {
            "runtimeRef": {
                "apiGroup": "trainer.kubeflow.org",
                "kind": "TrainingRuntime",
                "name": recipe.advanced.training_runtime,
            },
            "activeDeadlineSeconds": DEADLINE_SECONDS,
            "trainer": {
                "numNodes": recipe.workers,
                "image": stage.image,
                "command": COMMAND,
                "args": [job_uri],
                "env": [{"name": tf_config.WORKERS_VARIABLE, "value": str(recipe.workers)}],
                "resourcesPerNode": resources(recipe.gpu_count, nodes["gpu_type"]),
            },
            **({"runtimePatches": patches} if pod else {}),
        },
    }


def _tf_job(job_uri: str, recipe: Recipe, nodes: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
    own = {"image": stage.image, "args": [job_uri], "resources": resources(recipe.gpu_count, nodes["gpu_type"])}
    pod = pod_spec(CONTAINERS[TF_JOB], own | {"ports": [{"name": "tfjob-port", "containerPort": tf_config.PORT}]})
    del pod["restartPolicy"]  # the operator sets it, by that of the replicas
    pod |= {name: value for name, value in _placement(nodes).items() if value}
    if recipe.advanced.training_priority and not recipe.advanced.training_queue:
        pod["priorityClassName"] = recipe.advanced.training_priority
    # ExitCode: a status above 127, as of a lost worker or a killed one, is tried again; one below, as of wrong fields, is not.
    worker = {"replicas": recipe.workers, "restartPolicy": "ExitCode"}
    return {
        "apiVersion": TF_JOB_API.removeprefix("apis/"),
        "kind": "TFJob",
        "spec": {
            "runPolicy": {
                "cleanPodPolicy": "Running",
                "backoffLimit": MAX_RESTARTS,
                "activeDeadlineSeconds": DEADLINE_SECONDS,
            },
            "tfReplicaSpecs": {
                "Worker": worker | {"template": {"metadata": {"labels": ROLE}, "spec": pod}},
            },
        },
    }


COMMAND = ["python3", "-m", "kfp_vision.training.worker"]


def pod_spec(container: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the spec of a worker's pod, for pod security `restricted`.

    Args:
        container: its name.
        own: further fields of the container.
    """
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "imagePullSecrets": [{"name": "kfp-vision-registry"}],
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": container,
                "command": COMMAND,
                "envFrom": [{"secretRef": {"name": STORAGE_SECRET, "optional": True}}],
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "memory", "mountPath": "/dev/shm"}],
                **own,
            }
        ],
        "volumes": [
            {"name": "tmp", "emptyDir": {"sizeLimit": "500Gi"}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}},  # through which NCCL talks among GPUs
        ],
    }


def resources(gpu_count: int, gpu_type: str) -> dict[str, Any]:
    """Returns the resources of a worker, those of the training stage's own pod, and its GPUs.

    Args:
        gpu_count: GPUs per worker.
        gpu_type: name of their resource.
    """
    gpus = {gpu_type: str(gpu_count)} if gpu_count else {}
    return {"requests": {"cpu": "2", "memory": "4Gi", **gpus}, "limits": {"cpu": "16", "memory": "32Gi", **gpus}}


def _placement(nodes: Mapping[str, Any]) -> dict[str, Any]:
    return {"nodeSelector": dict(nodes["node_selector"]), "tolerations": list(nodes["tolerations"])}


def conditions(job: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Returns the conditions of an object that hold, by type."""
    return {one["type"]: one for one in (job.get("status") or {}).get("conditions") or () if one.get("status") == "True"}


def ending(job: Mapping[str, Any], jobset: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Returns the condition with which a job has ended; None while it has not.

    A TrainJob that was created right after another of its name was deleted has the conditions of that one's JobSet, so they
    count only if its JobSet is its own.

    Args:
        job: the TrainJob or TFJob.
        jobset: the JobSet of the TrainJob's name; None if there is none, or for a TFJob.
    """
    held = conditions(job)
    last = next((held[kind] for kind in (*SUCCEEDED, FAILED) if kind in held), None)
    if last is None or job["kind"] == "TFJob" or last.get("reason") == DEADLINE_REASON:
        return last
    return last if jobset and owns(job, jobset) else None


def owns(job: Mapping[str, Any], jobset: Mapping[str, Any]) -> bool:
    """Returns whether a JobSet is that of a TrainJob, and not of an earlier one with its name."""
    return any(owner.get("uid") == job["metadata"]["uid"] for owner in jobset["metadata"].get("ownerReferences") or ())


def waits(pods: Iterable[Mapping[str, Any]], api: str) -> list[str]:
    """Says what each worker waits for that does not run yet.

    Args:
        pods: those of the job.
        api: value of `training_api`.
    """
    found = []
    for pod in pods:
        status = pod.get("status") or {}
        if status.get("phase", "Pending") != "Pending":
            continue
        waiting = [one["state"]["waiting"] for one in status.get("containerStatuses") or () if one["state"].get("waiting")]
        unmet = [one for one in status.get("conditions") or () if one.get("status") == "False" and one.get("message")]
        reasons = [": ".join(filter(None, (one.get("reason"), one.get("message")))) for one in (*waiting, *unmet)]
        found.append(f"waits for worker {rank(pod, api)}: {format_value(reasons[0] if reasons else 'Pending', 300)}")
    return found


def rank(pod: Mapping[str, Any], api: str) -> int:
    """Returns the rank of a pod.

    Args:
        pod: of the job.
        api: value of `training_api`.
    """
    return int((pod["metadata"].get("labels") or {}).get(RANK_LABELS[api], 0))


@dataclass(frozen=True)
class PodFailure:
    """How a worker's pod failed.

    Attributes:
        rank: of the worker.
        status: exit status of its container.
        reason: such as OOMKilled.
        message: the end of its log.
        at: when it ended, as Kubernetes writes times.
    """

    rank: int
    status: int
    reason: str
    message: str
    at: str

    def describe(self) -> str:
        """Says in one line which worker failed, and why."""
        lines = [line.strip() for line in self.message.splitlines() if line.strip()]
        last = next((line for line in reversed(lines) if line.startswith(InputError.PREFIX)), lines[-1] if lines else "")
        why = f"{self.reason}, exit status {self.status}" if self.reason not in ("", "Error") else f"exit status {self.status}"
        return f"worker {self.rank}: {why}{f': {format_value(last.removeprefix(InputError.PREFIX))}' if last else ''}"

    def input_error(self) -> str:
        """Returns the line of the InputError that the worker ended with; empty if it ended otherwise."""
        lines = [line for line in self.message.splitlines() if line.startswith(InputError.PREFIX)]
        return lines[-1] if lines and self.status == INPUT_ERROR_STATUS else ""


def failures(pods: Iterable[Mapping[str, Any]], api: str) -> list[PodFailure]:
    """Returns how the pods failed.

    Args:
        pods: those of the job.
        api: value of `training_api`.
    """
    found = []
    for pod in pods:
        for one in (pod.get("status") or {}).get("containerStatuses") or ():
            ended = one["state"].get("terminated") or (one.get("lastState") or {}).get("terminated") or {}
            if ended.get("exitCode"):
                reason, message = ended.get("reason") or "", ended.get("message") or ""
                found.append(PodFailure(rank(pod, api), ended["exitCode"], reason, message, ended.get("finishedAt") or ""))
    return found


def newest_warning(events: Iterable[Mapping[str, Any]], name: str) -> str:
    """Returns the newest warning about a job or what was made of it, wherever it was written; empty if there is none.

    Where the API refuses what lies below a TrainJob, its own status says nothing.

    Args:
        events: of the namespace.
        name: of the job.
    """
    ours = [
        event
        for event in events
        if event.get("type") == "Warning"
        and re.match(rf"{re.escape(name)}($|-{tf_config.REPLICATED_JOB}-0|-worker-\d)", _about(event)["name"])
    ]
    if not ours:
        return ""
    last = max(ours, key=_time)
    return f"{_about(last).get('kind', '')} {_about(last)['name']}: {last.get('reason', '')}: {last.get('message', '')}"


def _about(event: Mapping[str, Any]) -> Mapping[str, Any]:
    about: Mapping[str, Any] = event.get("involvedObject") or event.get("regarding") or {"name": ""}
    return about


def _time(event: Mapping[str, Any]) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")
