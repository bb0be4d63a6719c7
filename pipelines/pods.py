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
MINUTE = 60  # seconds
HOUR = 60 * MINUTE
DAY = 24 * HOUR
LOOKED_AT = 7 * DAY  # how long pods and logs can be looked at once a run has ended; KFP keeps what it knows of the run
# Of the three lifetimes KFP's own configuration sets each one that a pipeline leaves open, to an hour, and the shortest counts.
RUN = dsl.PipelineConfig(
    active_deadline_seconds=30 * DAY,
    ttl_seconds_after_finished=LOOKED_AT,
    ttl_seconds_after_success=LOOKED_AT,
    ttl_seconds_after_failure=LOOKED_AT,
)


@dataclass(frozen=True)
class Pod:
    """What a stage is given: requests are what it takes of a few thousand pictures, rounded up; limits of memory leave at
    least twice what it took of 100,000, as "What the stages take" of benchmarks/README.md has measured it.

    Attributes:
        cpu: cores that are kept for it, and the most that it gets.
        memory: the same of memory, as Kubernetes writes it; with more, it is killed.
        room: the most that it may write below /tmp, its artifacts among it.
        seconds: after which it is stopped, those of pulling its image among them.
        retried: whether it is tried again where its pod is lost, with its node say. A stage that fails is not, unless the
            cluster's owner says so (Argo's `retryPolicy`): a store that is gone the stage itself waits for.
        stores: whether it reads stores.
        cached: whether what it gave for the same inputs is taken again: where nothing outside of them counts.
    """

    cpu: tuple[str, str] = ("250m", "2")
    memory: tuple[str, str] = ("256Mi", "2Gi")
    room: str = "10Gi"
    seconds: int = HOUR
    retried: bool = True
    stores: bool = False
    cached: bool = True


CHECK = Pod(seconds=10 * MINUTE, retried=False, stores=True, cached=False)  # soon, where its image cannot be pulled
FITTING = replace(CHECK, memory=("1Gi", "4Gi"))  # builds the network that a checkpoint has to fit
LISTING = Pod(seconds=12 * HOUR, stores=True, cached=False)
DATA = Pod(("1", "8"), ("512Mi", "8Gi"), "500Gi", seconds=DAY)
READING = replace(DATA, stores=True)
MODEL = Pod(("1", "8"), ("2Gi", "8Gi"), "100Gi", seconds=12 * HOUR, cached=False)
OUTSIDE = replace(MODEL, stores=True)  # looks at what lies outside, or changes it
COPYING = replace(OUTSIDE, cpu=Pod.cpu, memory=Pod.memory)  # moves a model, and does not load it
TRAINING = Pod(("2", "16"), ("4Gi", "32Gi"), "500Gi", seconds=14 * DAY, stores=True)
PODS = {
    "check_run": FITTING,
    "check_training": FITTING,
    "check_sweep": FITTING,
    "check_preparation": CHECK,
    "check_prediction": CHECK,
    "check_search": FITTING,
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
    "fetch_model": COPYING,
    "predict_images": replace(OUTSIDE, room="500Gi", seconds=3 * DAY),
    "fetch_embedder": OUTSIDE,
    "list_images": READING,
    "index_images": replace(OUTSIDE, room="500Gi", seconds=3 * DAY, cached=True),
    "join_index": replace(DATA, memory=MODEL.memory),  # regions of a million vectors are found in some gigabytes
    "search_images": OUTSIDE,
    "audit_images": replace(MODEL, cached=True),
    "deploy_index": replace(COPYING, room="500Gi"),
    "join_predictions": Pod(room="100Gi", seconds=6 * HOUR),
    "report_outcome": Pod(seconds=10 * MINUTE, cached=False),
}


def equipped(*tasks: dsl.PipelineTask) -> dsl.PipelineTask:
    """Gives tasks what `PODS` says of their stage; gives the last one back."""
    for task in tasks:
        pod = PODS[task.component_spec.name.replace("-", "_")]
        # The methods of a task that set these, one by one, look through every module in memory: seconds in all.
        task.container_spec.resources = ResourceSpec(*pod.cpu, *pod.memory)
        task.set_caching_options(pod.cached)
        if pod.retried:
            in_all = f"{(RETRIES + 1) * pod.seconds}s"  # Argo tries no more after it, and counts the tries themselves
            task.set_retry(RETRIES, backoff_duration=PAUSE, backoff_factor=2, backoff_max_duration=in_all)
        kubernetes.empty_dir_mount(task, volume_name="tmp", mount_path=TMP, size_limit=pod.room)
        kubernetes.set_timeout(task, pod.seconds)
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
