"""Configures each stage's pod: cores, memory, disk, timeout, retries, and the credentials of the stores."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from kfp import dsl, kubernetes
from kfp.dsl.structures import ResourceSpec

from kfp_vision.repository import registries
from kfp_vision.storage.base import ENVIRONMENT_VARIABLES

TMP = "/tmp"  # KFP writes here, also if the root file system is read-only
REGISTRIES_SECRET = "kfp-vision-registries"  # as STORAGE_SECRET
STORAGE_SECRET = "kfp-vision-storage"  # each key has the name of the environment variable it sets
REGISTRY_SECRET = "kfp-vision-registry"  # image pull secret, if the registry needs one
ROLE = ("kfp-vision/role", "stage")  # label that the network policies select
RETRIES = 2
PAUSE = "60s"  # before the first retry; doubles with each
MINUTE = 60  # seconds
HOUR = 60 * MINUTE
DAY = 24 * HOUR
LOOKED_AT = 7 * DAY  # how long pods and logs are kept after a run; KFP keeps its own records of the run
# All three lifetimes are set: KFP sets each unset one to an hour, and the shortest applies.
RUN = dsl.PipelineConfig(
    active_deadline_seconds=30 * DAY,
    ttl_seconds_after_finished=LOOKED_AT,
    ttl_seconds_after_success=LOOKED_AT,
    ttl_seconds_after_failure=LOOKED_AT,
)


@dataclass(frozen=True)
class Pod:
    """Resources of a stage's pod.

    Requests are the measured needs for a few thousand images, rounded up. Memory limits are at least twice the measured need
    for 100,000 images; see "What the stages take" in benchmarks/README.md.

    Attributes:
        cpu: cores, request and limit.
        memory: memory, request and limit, in Kubernetes' notation; the stage is killed above the limit.
        room: limit of what the stage writes below /tmp, artifacts included.
        seconds: timeout, image pull included.
        retried: whether to retry if the pod is lost, with its node for example. A failed stage is not retried unless the
            cluster's owner configures it (Argo's `retryPolicy`); the stage itself waits for an unavailable store.
        stores: whether the stage needs the stores' credentials.
        registries: whether it needs the addresses and credentials of model registries.
        cached: whether KFP may reuse outputs for the same inputs; only for stages that depend on nothing else.
    """

    cpu: tuple[str, str] = ("250m", "2")
    memory: tuple[str, str] = ("256Mi", "2Gi")
    room: str = "10Gi"
    seconds: int = HOUR
    retried: bool = True
    stores: bool = False
    registries: bool = False
    cached: bool = True


CHECK = Pod(seconds=10 * MINUTE, retried=False, stores=True, cached=False)  # fails soon if its image cannot be pulled
FINDING = replace(CHECK, registries=True)  # looks for a model, which may be one in a registry
FITTING = replace(FINDING, memory=("1Gi", "4Gi"))  # builds the network to check the checkpoint against
LISTING = Pod(seconds=12 * HOUR, stores=True, cached=False)
DATA = Pod(("1", "8"), ("512Mi", "8Gi"), "500Gi", seconds=DAY)
READING = replace(DATA, stores=True)
MODEL = Pod(("1", "8"), ("2Gi", "8Gi"), "100Gi", seconds=12 * HOUR, cached=False)
OUTSIDE = replace(MODEL, stores=True)  # reads or changes something outside the run
COPYING = replace(OUTSIDE, cpu=Pod.cpu, memory=Pod.memory)  # copies a model without loading it
TRAINING = Pod(("2", "16"), ("4Gi", "32Gi"), "500Gi", seconds=14 * DAY, stores=True, registries=True)
PODS = {
    "check_run": FITTING,
    "check_training": FITTING,
    "check_sweep": FITTING,
    "check_preparation": CHECK,
    "check_prediction": FINDING,
    "check_search": FITTING,
    "check_review": FINDING,
    "fingerprint_images": LISTING,
    "decide_training": LISTING,
    "ingest_images": READING,
    "split_images": Pod(memory=("256Mi", "8Gi"), seconds=6 * HOUR),
    "partition_records": Pod(),
    "write_tfrecords": READING,
    "write_partition": READING,
    "join_records": DATA,
    "fetch_records": replace(READING, cached=False),
    "train_classifier": TRAINING,
    "choose_trials": Pod(),
    "train_trial": TRAINING,
    "compare_trials": Pod(room="100Gi", seconds=6 * HOUR),
    "evaluate_classifier": OUTSIDE,
    "check_serving": MODEL,
    "deploy_model": COPYING,
    "call_endpoint": OUTSIDE,
    "register_model": replace(COPYING, seconds=HOUR, registries=True),
    "export_model": replace(OUTSIDE, room="500Gi", seconds=DAY),
    "fetch_model": replace(COPYING, registries=True),
    "predict_images": replace(OUTSIDE, room="500Gi", seconds=3 * DAY),
    "check_collected": FINDING,
    "collect_logged": OUTSIDE,
    "check_drift": COPYING,
    "fetch_embedder": replace(OUTSIDE, registries=True),
    "list_images": READING,
    "index_images": replace(OUTSIDE, room="500Gi", seconds=3 * DAY, cached=True),
    "join_index": replace(DATA, memory=MODEL.memory),  # clustering a million vectors takes gigabytes
    "search_images": OUTSIDE,
    "audit_images": replace(MODEL, cached=True),
    "deploy_index": replace(COPYING, room="500Gi"),
    "review_images": replace(OUTSIDE, room="500Gi", seconds=3 * DAY),
    "join_predictions": Pod(room="100Gi", seconds=6 * HOUR),
    "report_outcome": Pod(seconds=10 * MINUTE, cached=False),
}


def equipped(*tasks: dsl.PipelineTask) -> dsl.PipelineTask:
    """Configures the pods of tasks as `PODS` says.

    Args:
        *tasks: tasks of this project's stages.

    Returns:
        The last task.
    """
    for task in tasks:
        pod = PODS[task.component_spec.name.replace("-", "_")]
        # The task's own setters each inspect every loaded module, which would take seconds in total.
        task.container_spec.resources = ResourceSpec(*pod.cpu, *pod.memory)
        task.set_caching_options(pod.cached)
        if pod.retried:
            longest = f"{(RETRIES + 1) * pod.seconds}s"  # Argo counts the attempts themselves, and stops retrying after it
            task.set_retry(RETRIES, backoff_duration=PAUSE, backoff_factor=2, backoff_max_duration=longest)
        kubernetes.empty_dir_mount(task, volume_name="tmp", mount_path=TMP, size_limit=pod.room)
        kubernetes.set_timeout(task, pod.seconds)
        kubernetes.set_image_pull_policy(task, "IfNotPresent")
        kubernetes.set_image_pull_secrets(task, [REGISTRY_SECRET])
        # KFP sets the rest of pod security `restricted`. No user ID: OpenShift assigns one.
        kubernetes.set_security_context(task, run_as_non_root=True)
        kubernetes.add_pod_label(task, *ROLE)
        if pod.stores:
            with_secret(task, STORAGE_SECRET, ENVIRONMENT_VARIABLES)
        if pod.registries:
            with_secret(task, REGISTRIES_SECRET, registries.ENVIRONMENT)
    return task


def with_secret(task: dsl.PipelineTask, secret: str, names: Iterable[str]) -> None:
    """Sets a task's environment variables from a secret whose keys have their names. The secret and each key are optional.

    Args:
        task: the task.
        secret: name of the secret.
        names: names of the variables.
    """
    kubernetes.use_secret_as_env(task, secret, {name: name for name in names}, optional=True)
