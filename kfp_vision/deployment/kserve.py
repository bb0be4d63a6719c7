"""Deploys a model to KServe: builds its InferenceService, and provides the model where KServe can read it.

KServe reads the model, as version 1, from a folder in a bucket. Every model has its own folder, so that a revision created
for one model never restarts with another.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from kfp_vision import REGISTRY, __version__
from kfp_vision.collection.settings import NOWHERE
from kfp_vision.collection.settings import VARIABLE as COLLECT_VARIABLE
from kfp_vision.core import advanced
from kfp_vision.core.errors import InputError, format_value
from kfp_vision.core.kube_config import is_in_cluster
from kfp_vision.deployment import rollout
from kfp_vision.deployment.cluster import (
    ANNOTATION_PREFIX,
    API_VERSION,
    BACK_SECONDS,
    CREATED,
    GROUP,
    MODEL_ANNOTATION,
    ApplyResult,
    Cluster,
    ServiceNotReady,
)
from kfp_vision.engines.engine import OPENVINO_FILE, TENSORFLOW
from kfp_vision.repository import publish
from kfp_vision.repository.version import SERVING_FOLDER, Version
from kfp_vision.storage import base, uris, writing

MAX_DNS_LABEL = 63  # characters of a DNS label, RFC 1035
MAX_REASON_LENGTH = 1500  # characters of a reason reported by the cluster
SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # as KServe accepts it
FINGERPRINT_ANNOTATION = f"{ANNOTATION_PREFIX}fingerprint"  # annotation: the version served
TRAINED_FROM_ANNOTATION = (
    f"{ANNOTATION_PREFIX}trained-from"  # annotation: hash of what it was trained from and how it is served
)
SPEC_ANNOTATION = f"{ANNOTATION_PREFIX}wanted"  # annotation: hash of the whole spec, which tells new pods from previous ones
# Settings that do not change how a model is served: another value restarts nothing.
SETTINGS_NOT_SERVED = ("versions_kept", "service_wait_seconds", "service_rollback", "service_namespace")
FOLDER_DIGITS = 16  # digits of the fingerprint in the name of a model's folder in service_repository
SERVICE_LABELS = {"kfp-vision/role": "server"}  # for network policies; KServe copies them to the pods
GCS_SCHEME, S3_SCHEME = "gs", "s3"  # the schemes that KServe supports
S3_COMPATIBLE_SCHEMES = ("cos", "minio")  # S3-compatible: endpoint and key are in the service account's secret
COLLECT_SECRET = "kfp-vision-collect"  # each key has the name of the environment variable that it sets
COLLECTING = ("service_collect", "collected_uri")  # settings that are younger than the hashes of deployed models
GPU_RESOURCE = "nvidia.com/gpu"
PORT = 8080
SERVER_IMAGE = re.compile(r"(.*/)?kfp-vision:[^/:@]+")  # as `compile --registry` names it
MODEL_MOUNT = "/mnt/models"  # where KServe mounts the model
TERMINATION_POLICY = {
    "terminationMessagePolicy": "FallbackToLogsOnError"
}  # puts a server's last log lines into its pod's status
SECCOMP_PROFILE = {"type": "RuntimeDefault"}  # all that KServe's stock runtime lacks for the pod security standard `restricted`
RESTRICTED_SECURITY_CONTEXT = {
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": SECCOMP_PROFILE,
}


def check_kserve(model_name: str, settings: Mapping[str, Any]) -> None:
    """Checks that a model can be deployed, with a dry run on the cluster and a small object in the repository.

    Args:
        model_name: the model's name.
        settings: what `advanced.deployment_settings` returns.

    Raises:
        InputError: a name that KServe rejects, no place to read the model from, or an error of the store or the cluster.
    """
    if not SERVICE_NAME.fullmatch(model_name):
        rule = "model_name must be lower-case letters, digits and -, and begin with a letter, for deploy_to=kserve"
        raise InputError(rule, model_name, "Choose a name such as flowers.")
    place = settings["service_repository"]
    if place:
        if uris.scheme_of(place) not in base.BUCKETS:
            rule = "service_repository of advanced must be a folder in a bucket, which KServe can read"
            raise InputError(rule, place, "Name one as s3://bucket/models.")
        place = _storage_uri(place, settings)
        writing.check_writable(settings["service_repository"], "service_repository of advanced")
    elif not settings["service_account"]:
        rule = "deploy_to=kserve must have a location that KServe can read the model from"
        found = "neither service_repository nor service_account"
        remedy = (
            "Set service_repository of advanced to a folder in a bucket, or service_account to one that can read artifacts."
        )
        raise InputError(rule, found, remedy)
    cluster = Cluster(settings["service_namespace"])
    wanted = manifest(model_name, place or "s3://bucket/model/", "", _with_image(cluster, settings))
    planned = cluster.apply(wanted, dry_run=True).service
    if rollout.is_standard(planned):
        _check_standard(model_name, cluster.namespace, settings)
        cluster.is_ready(planned)  # raises if its Deployment may not be read
    cluster.pod_annotations(model_name, FINGERPRINT_ANNOTATION)  # raises if its pods may not be read


def _check_standard(model_name: str, namespace: str, settings: Mapping[str, Any]) -> None:
    """Checks settings that KServe accepts in Standard mode but cannot fulfil."""
    host = f"{rollout.deployment_name(model_name)}-{namespace}"
    if len(host) > MAX_DNS_LABEL:
        left = MAX_DNS_LABEL - len(host) + len(model_name)
        rule = f"NAME-predictor-NAMESPACE must have at most {MAX_DNS_LABEL} characters, since it is part of the host name"
        raise InputError(rule, f"{host} ({len(host)})", f"Choose a model_name of at most {left} characters in {namespace}.")
    if settings["canary_percent"] < 100:
        rule = "canary_percent of advanced must be 100 in KServe's Standard mode, which cannot split traffic"
        raise InputError(rule, settings["canary_percent"], "Leave it out, or run KServe in Knative mode.")


def deploy(version: Version, uri: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Creates or updates a model's InferenceService, and waits until it answers; does nothing if it already matches.

    An update that does not become ready is rolled back, unless `service_rollback` is false.

    Args:
        version: the exported model.
        uri: the model folder's, as an artifact's; KServe reads the model from there if `service_repository` is not set.
        settings: what `advanced.deployment_settings` returns.

    Returns:
        name, namespace, model_name, url, and address, the URL within the cluster; the version's fingerprint; and share, the
        percentage of requests that it gets.

    Raises:
        InputError: it was not ready in time, or an error of the store or the cluster.
    """
    cluster = Cluster(settings["service_namespace"])
    source = _provide(version, uri, settings)
    wanted = manifest(version.name, source, version.fingerprint, _with_image(cluster, settings, version))
    if trained_from := version.about.get("trained_from"):
        wanted["metadata"]["annotations"][TRAINED_FROM_ANNOTATION] = _origin(trained_from, settings)
    applied = cluster.apply(wanted)
    print(f"InferenceService {version.name} in {cluster.namespace}: {applied.done}", flush=True)
    try:
        status = cluster.wait_until_ready(applied, settings["service_wait_seconds"])["status"]
    except ServiceNotReady as error:
        raise _not_ready(cluster, applied, str(error), settings) from None
    address = (status.get("address") or {}).get("url", "")
    url = status.get("url") or address
    print(f"ready at {url}{f', within the cluster {address}' if address not in ('', url) else ''}", flush=True)
    _remove_old(cluster, version, settings)
    return {
        "name": version.name,
        "namespace": cluster.namespace,
        "model_name": version.name,
        "url": url,
        "address": address or url,
        "fingerprint": version.fingerprint,
        "share": int(settings["canary_percent"]),
    }


def _not_ready(cluster: Cluster, applied: ApplyResult, reason: str, settings: Mapping[str, Any]) -> InputError:
    """Rolls back if asked to, and builds the error, which says whether the previous model answers."""
    name = applied.name
    outcome = "the previous model still answers" if cluster.previous_answers(applied.service) else "no model answers"
    if settings["service_rollback"] and cluster.roll_back(applied):
        answers = "answers" if _answers_again(cluster, name) else "does not answer yet"
        outcome = f"rolled back to the previous model, which {answers}"
    elif applied.done == CREATED:
        outcome += ", and the new InferenceService is kept for inspection"
    rule = f"an InferenceService must be ready within service_wait_seconds={settings['service_wait_seconds']:g}"
    remedy = f"See kubectl -n {cluster.namespace} describe pod -l {rollout.SERVICE_LABEL}={name}."
    return InputError.from_line(
        f"{InputError.PREFIX}{rule}; got {name} in {cluster.namespace}: "
        f"{format_value(reason, MAX_REASON_LENGTH)}; {outcome}. {remedy}"
    )


def _answers_again(cluster: Cluster, name: str) -> bool:
    """Waits until the previous model answers, for BACK_SECONDS at most."""
    service = cluster.find(name)
    try:
        return service is not None and bool(cluster.wait_until_ready(ApplyResult(service, None, CREATED), BACK_SECONDS))
    except ServiceNotReady:
        return False


def is_deployed_from(model_name: str, trained_from: str, settings: Mapping[str, Any]) -> bool:
    """Checks whether the deployed model was trained from the same images and fields, and is served with the same settings.

    Args:
        model_name: the model's name.
        trained_from: what `decide_training.decide_training` returns.
        settings: what `advanced.deployment_settings` returns.

    Returns:
        Whether it is, and answers.

    Raises:
        InputError: an error of the cluster.
    """
    cluster = Cluster(settings["service_namespace"])
    service = cluster.find(model_name)
    wanted = {TRAINED_FROM_ANNOTATION: _origin(trained_from, settings)}
    return service is not None and rollout.has_annotations(service, wanted) and cluster.is_ready(service)


def serves(model_name: str, fingerprint: str, settings: Mapping[str, Any]) -> bool:
    """Checks whether the InferenceService is of a certain version of the model.

    Args:
        model_name: the model's name.
        fingerprint: the version's.
        settings: what `advanced.deployment_settings` returns.

    Returns:
        Whether it is.

    Raises:
        InputError: an error of the cluster.
    """
    service = Cluster(settings["service_namespace"]).find(model_name)
    return service is not None and rollout.has_annotations(service, {FINGERPRINT_ANNOTATION: fingerprint})


def request_url(endpoint: Mapping[str, Any]) -> str:
    """Returns the model's URL, as reachable from this process, of the endpoint that `deploy` returned."""
    return f"{endpoint['address' if is_in_cluster() else 'url'].rstrip('/')}/v1/models/{endpoint['name']}"


def has_only_its_pods(endpoint: Mapping[str, Any]) -> bool:
    """Returns whether every answer comes from the deployed model: no pod of another is left, terminating ones included.

    Args:
        endpoint: what `deploy` returned.

    Returns:
        Whether only its pods are left.

    Raises:
        InputError: an error of the cluster.
    """
    return not Cluster(endpoint["namespace"]).has_other_pods(
        endpoint["name"], {FINGERPRINT_ANNOTATION: endpoint["fingerprint"]}
    )


def manifest(name: str, uri: str, fingerprint: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Builds a model's InferenceService as a merge patch: None removes a field, and fields not named stay as they are.

    Args:
        name: the name of the model and the InferenceService.
        uri: a folder that holds the model as a version.
        fingerprint: the version's.
        settings: what `advanced.deployment_settings` returns.

    Returns:
        The manifest.
    """
    gpus, percent = int(settings["service_gpus"]), int(settings["canary_percent"])
    stock = settings["service_runtime"] == advanced.STOCK_RUNTIME
    predictor = {
        "serviceAccountName": settings["service_account"] or None,
        "canaryTrafficPercent": percent if percent < 100 else None,
        "model": _stock_model(uri, gpus, settings) if stock else None,
        "containers": None if stock else [_container(name, uri, gpus, settings)],
    }
    if replicas := advanced.replica_range(settings["service_replicas"]):
        predictor["minReplicas"], predictor["maxReplicas"] = replicas
    if settings["service_timeout"]:
        predictor["timeout"] = int(settings["service_timeout"])
    annotations = {
        MODEL_ANNOTATION: name,
        FINGERPRINT_ANNOTATION: fingerprint,
        SPEC_ANNOTATION: _hash([fingerprint, predictor]),
    }
    return {
        "apiVersion": f"{GROUP}/{API_VERSION}",
        "kind": "InferenceService",
        "metadata": {"name": name, "labels": SERVICE_LABELS, "annotations": annotations},
        "spec": {"predictor": predictor},
    }


def _origin(trained_from: str, settings: Mapping[str, Any]) -> str:
    """Hashes the serving settings too, since giving a canary all requests is a change."""
    left_out = SETTINGS_NOT_SERVED if settings["service_collect"] else (*SETTINGS_NOT_SERVED, *COLLECTING)
    served = {name: value for name, value in settings.items() if name not in left_out}
    return _hash([trained_from, served])


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _with_image(cluster: Cluster, settings: Mapping[str, Any], version: Version | None = None) -> dict[str, Any]:
    """Completes the settings with the server's container image: by default from the registry of this stage's image.

    It is that of the server alone, unless the server needs TensorFlow: for GPUs, for a version without a file for OpenVINO, or
    because its settings say so.
    """
    is_ours = settings["service_runtime"] != advanced.STOCK_RUNTIME
    own = cluster.stage_image() if is_ours and not settings["service_image"] else ""
    kind = "-gpu" if settings["service_gpus"] else "" if version and _needs_tensorflow(version) else "-serve"
    sibling = re.sub(r"kfp-vision:(?=[^/]+$)", f"kfp-vision{kind}:", own) if SERVER_IMAGE.fullmatch(own) else ""
    return {**settings, "service_image": settings["service_image"] or sibling or f"{REGISTRY}/kfp-vision{kind}:{__version__}"}


def _needs_tensorflow(version: Version) -> bool:
    """Returns whether only TensorFlow computes a version, by its files and its settings."""
    wished = version.about.get("advanced", {}).get("engine")
    return wished == TENSORFLOW or not (version.folder / OPENVINO_FILE).is_file()


def _resources(gpus: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a pod's resources; from a GPU limit KServe chooses TensorFlow Serving's container image for GPUs."""
    resources = advanced.container_resources(settings["service_resources"])
    return {**resources, "limits": {**resources.get("limits", {}), GPU_RESOURCE: str(gpus) if gpus else None}}


def _stock_model(uri: str, gpus: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    version = {"runtimeVersion": settings["runtime_version"]} if settings["runtime_version"] else {}
    return {
        "modelFormat": {"name": "tensorflow"},
        "storageUri": uri,
        "resources": _resources(gpus, settings),
        **version,
        "securityContext": {"seccompProfile": SECCOMP_PROFILE},
        **TERMINATION_POLICY,
    }


def _container(name: str, uri: str, gpus: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns our server's container; KServe downloads STORAGE_URI before it starts."""
    return {
        "name": "kserve-container",
        "image": settings["service_image"],
        "command": ["kfp-vision"],
        "args": ["serve", MODEL_MOUNT, "--name", name, "--host", "0.0.0.0", "--port", str(PORT)],
        "env": [{"name": "STORAGE_URI", "value": uri}, *_collecting(settings)],
        "ports": [{"containerPort": PORT, "protocol": "TCP"}],
        "readinessProbe": {"httpGet": {"path": "/v2/health/ready", "port": PORT}},
        "resources": _resources(gpus, settings),
        "securityContext": RESTRICTED_SECURITY_CONTEXT,
        **TERMINATION_POLICY,
    }


def _collecting(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the variables by which our server collects or does not; none where it shall be left as it is."""
    share = settings["service_collect"]
    if not share:
        return []
    if not float(share):
        return [{"name": COLLECT_VARIABLE, "value": NOWHERE}]
    keys = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": COLLECT_SECRET, "key": name, "optional": True}}}
        for name in base.ENVIRONMENT_VARIABLES
    ]
    place = {"name": COLLECT_VARIABLE, "value": settings["collected_uri"].strip()}
    return [place, {"name": f"{COLLECT_VARIABLE}_SHARE", "value": share}, *keys]


def _provide(version: Version, uri: str, settings: Mapping[str, Any]) -> str:
    """Returns the URI that KServe reads the version from: a copy in the repository, or the artifact itself."""
    if not settings["service_repository"]:
        return _storage_uri(base.append_to_path(uri, f"/{SERVING_FOLDER}"), settings)
    place = uris.join_uri(settings["service_repository"], f"{version.name}/{version.fingerprint[:FOLDER_DIGITS]}")
    publish.publish(version, place)
    return _storage_uri(place, settings)


def _remove_old(cluster: Cluster, version: Version, settings: Mapping[str, Any]) -> None:
    """Removes models from the repository, except those that a pod uses, and the newest `versions_kept` of the others."""
    if not settings["service_repository"] or not settings["versions_kept"] or settings["canary_percent"] < 100:
        return
    place = uris.join_uri(settings["service_repository"], version.name)
    used = {fingerprint[:FOLDER_DIGITS] for fingerprint in cluster.pod_annotations(version.name, FINGERPRINT_ANNOTATION)}
    used.add(version.fingerprint[:FOLDER_DIGITS])
    publish.remove_unused_models(place, used, int(settings["versions_kept"]))


def _storage_uri(place: str, settings: Mapping[str, Any]) -> str:
    """Translates the URI of a folder for KServe, which supports S3-compatible stores only as `s3://`.

    It ends in a slash: from S3 KServe downloads every object with that prefix (`_download_s3` of kserve-storage), which
    would include folders whose names begin with this one's.

    Raises:
        InputError: KServe cannot read it, or not without a service account.
    """
    scheme, remedy = uris.scheme_of(place), "Set service_repository of advanced to a folder in a bucket, as s3://bucket/models."
    if scheme not in (GCS_SCHEME, S3_SCHEME, *S3_COMPATIBLE_SCHEMES):
        raise InputError("KServe must be able to read the model", place, remedy)
    if scheme in S3_COMPATIBLE_SCHEMES and not settings["service_account"]:
        rule = f"KServe must have a service account to read {scheme}:// URIs"
        remedy = "Set service_account of advanced to one whose secret holds a key and states serving.kserve.io/s3-endpoint."
        raise InputError(rule, place, remedy)
    folder = base.split_settings(place)[0].partition("://")[2]
    return f"{GCS_SCHEME if scheme == GCS_SCHEME else S3_SCHEME}://{folder.rstrip('/')}/"
