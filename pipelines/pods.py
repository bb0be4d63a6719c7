"""What each stage's pod is given: cores, memory, room to write in, time, another try, and the credentials of the stores."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from kfp import dsl, kubernetes
from kfp.dsl.structures import ResourceSpec

from kfp_vision.stores import ENVIRONMENT

TMP = "/tmp"  # KFP writes here, and a root file system may be read-only
STORAGE_SECRET = "kfp-vision-storage"  # its keys are called as the variables of the environment that they fill
REGISTRY_SECRET = "kfp-vision-registry"  # what the images are pulled with, where their registry asks for something
ROLE = ("kfp-vision/role", "stage")  # the label by which a network policy knows the pods
RETRIES = 2
PAUSE = "60s"  # before a stage is tried again; the next one is twice as long
HOUR = 3600  # seconds
DAY = 24 * HOUR
# Of a whole run: when it is stopped, and how long its pods can be looked at once it has ended. KFP keeps what it knows of it.
RUN = dsl.PipelineConfig(active_deadline_seconds=30 * DAY, ttl_seconds_after_finished=7 * DAY)


@dataclass(frozen=True)
class Pod:
    """What a stage is given: requests are what it takes of a few thousand pictures, rounded up; limits of memory leave at
    least twice what it took of 100,000, as "What the stages take" of benchmarks/README.md has measured it.

    Attributes:
        cpu: cores that are kept for it, and the most that it gets.
        memory: the same of memory, as Kubernetes writes it; with more, it is killed.
        room: the most that it may write below /tmp, its artifacts among it.
        hours: after which it is stopped.
        retried: whether it is tried again: where a store that is gone, or a node that is taken away, may be the reason. A wrong
            field stays wrong, and what is computed of the same comes out the same.
        stores: whether it reads stores.
        cached: whether what it gave for the same inputs is taken again: where nothing outside of them counts.
    """

    cpu: tuple[str, str] = ("250m", "2")
    memory: tuple[str, str] = ("256Mi", "2Gi")
    room: str = "10Gi"
    hours: int = 1
    retried: bool = False
    stores: bool = False
    cached: bool = True


CHECK = Pod(stores=True, cached=False)
FITTING = replace(CHECK, memory=("1Gi", "4Gi"))  # builds the network that a checkpoint has to fit
DATA = Pod(("1", "8"), ("512Mi", "8Gi"), "500Gi", hours=24)
READING = replace(DATA, retried=True, stores=True)
MODEL = Pod(("1", "8"), ("2Gi", "8Gi"), "100Gi", hours=12, cached=False)
OUTSIDE = replace(MODEL, retried=True, stores=True)  # looks at what lies outside, or changes it
COPYING = replace(OUTSIDE, cpu=Pod.cpu, memory=Pod.memory)  # moves a model, and does not load it
TRAINING = Pod(("2", "16"), ("4Gi", "32Gi"), "500Gi", hours=24 * 14, retried=True, stores=True)
PODS = {
    "check_run": FITTING,
    "check_training": FITTING,
    "check_sweep": FITTING,
    "check_preparation": CHECK,
    "check_prediction": CHECK,
    "check_search": FITTING,
    "fingerprint_images": replace(CHECK, hours=12, retried=True),
    "decide_training": replace(CHECK, retried=True),
    "ingest_images": READING,
    "split_images": Pod(memory=("256Mi", "8Gi"), hours=6),
    "partition_records": Pod(),
    "write_tfrecords": READING,
    "join_records": DATA,
    "watch_training": Pod(),
    "fetch_records": replace(READING, cached=False),
    "train_classifier": TRAINING,
    "choose_trials": Pod(),
    "train_trial": TRAINING,
    "compare_trials": Pod(room="100Gi", hours=6),
    "evaluate_classifier": OUTSIDE,
    "check_serving": MODEL,
    "deploy_model": COPYING,
    "call_endpoint": OUTSIDE,
    "fetch_model": COPYING,
    "predict_images": replace(OUTSIDE, room="500Gi", hours=72),
    "fetch_embedder": OUTSIDE,
    "list_images": READING,
    "index_images": replace(OUTSIDE, room="500Gi", hours=72, cached=True),
    "join_index": replace(DATA, memory=MODEL.memory),  # regions of a million vectors are found in some gigabytes
    "search_images": OUTSIDE,
    "audit_images": replace(MODEL, cached=True),
    "deploy_index": replace(COPYING, room="500Gi"),
    "join_predictions": Pod(room="100Gi", hours=6),
    "report_outcome": Pod(cached=False),
}


def equipped(*tasks: dsl.PipelineTask) -> dsl.PipelineTask:
    """Gives tasks what `PODS` says of their stage; gives the last one back."""
    for task in tasks:
        pod = PODS[task.component_spec.name.replace("-", "_")]
        # The methods of a task that set these, one by one, look through every module in memory: seconds in all.
        task.container_spec.resources = ResourceSpec(*pod.cpu, *pod.memory)
        task.set_caching_options(pod.cached)
        if pod.retried:
            in_all = f"{(RETRIES + 1) * pod.hours}h"  # Argo tries no more after it, and counts the tries themselves
            task.set_retry(RETRIES, backoff_duration=PAUSE, backoff_factor=2, backoff_max_duration=in_all)
        kubernetes.empty_dir_mount(task, volume_name="tmp", mount_path=TMP, size_limit=pod.room)
        kubernetes.set_timeout(task, pod.hours * HOUR)
        kubernetes.set_image_pull_policy(task, "IfNotPresent")
        kubernetes.set_image_pull_secrets(task, [REGISTRY_SECRET])
        # What else pod security `restricted` asks for KFP sets itself. No number of a user: OpenShift gives one of its own.
        kubernetes.set_security_context(task, run_as_non_root=True)
        kubernetes.add_pod_label(task, *ROLE)
        if pod.stores:
            with_secret(task, STORAGE_SECRET, ENVIRONMENT)
    return task


def with_secret(task: dsl.PipelineTask, secret: str, names: Iterable[str]) -> None:
    """Gives a task variables from a secret whose keys are called as they are. One that is not there, or lacks some, will do."""
    kubernetes.use_secret_as_env(task, secret, {name: name for name in names}, optional=True)
