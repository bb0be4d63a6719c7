"""An InferenceService of KServe that answers with a model: what is wanted of the cluster, and where the model is read from.

KServe reads it from a folder of a bucket that holds it as version 1. Every model has a folder of its own there, so that a
revision that was made for one never starts again with another.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from kfp_vision import __version__, parameters, publishing, rollout, storage, stores
from kfp_vision.cluster import API_VERSION, BACK_SECONDS, GROUP, MADE, MODEL, OURS, Applied, Cluster, NotReady, is_within
from kfp_vision.errors import InputError, shown
from kfp_vision.repository import SERVING_FOLDER, Version

STOCK = "tensorflow"  # of service_runtime: the runtime that comes with KServe, TensorFlow Serving
LONGEST_LABEL = 63  # characters of a part of a name in DNS, RFC 1035
LONGEST_REASON = 1500  # characters of what the cluster says
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # what KServe takes for one
FINGERPRINT = f"{OURS}fingerprint"  # the annotation that says what is served
ORIGIN = f"{OURS}trained-from"  # the one that says what it was made of, and how it is served
WANTED = f"{OURS}wanted"  # and a hash of the whole service as it is wanted, by which its pods are told from those before
# What does not change how a model is served, so that another value restarts nothing.
BESIDE_THE_SERVICE = ("versions_kept", "service_wait_seconds", "service_rollback", "service_namespace")
FOLDER = 16  # digits of a fingerprint that name the folder of a model in service_repository
LABELS = {"kfp-vision/role": "server"}  # by which a network policy knows the pods; KServe hands them on
GOOGLES, AMAZONS = "gs", "s3"  # the schemes that KServe knows
AS_AMAZONS = ("cos", "minio")  # S3 elsewhere: where, and who may read, the secret of a service account says
GPU = "nvidia.com/gpu"
PORT = 8080
OUR_IMAGE = re.compile(r"(.*/)?kfp-vision:[^/:@]+")  # as `compile --registry` names it
MOUNTED = "/mnt/models"  # where KServe lays the model
TELLING = {"terminationMessagePolicy": "FallbackToLogsOnError"}  # so that a server's last words are in its pod's state
SECCOMP = {"type": "RuntimeDefault"}  # all that KServe's stock runtime lacks for pod security `restricted`
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": SECCOMP,
}


def check(model_name: str, settings: Mapping[str, Any]) -> None:
    """Refuses what could not be deployed: has the cluster try it without doing it, and tries to write to the repository.

    Args:
        model_name: the model's.
        settings: what `parameters.of_deployment` gives.

    Raises:
        InputError: a name that is none for a service, nowhere to read the model from, or what store or cluster say.
    """
    if not NAME.fullmatch(model_name):
        rule = "model_name must be small letters, digits and -, and begin with a letter, for deploy_to=kserve"
        raise InputError(rule, model_name, "Choose a name such as flowers.")
    place = settings["service_repository"]
    if place:
        if storage.scheme(place) not in stores.BUCKETS:
            rule = "service_repository of advanced must be a folder of a bucket, which KServe can read"
            raise InputError(rule, place, "Name one as s3://bucket/models.")
        place = _as_kserve_knows_it(place, settings)
        storage.check_writable(settings["service_repository"], "service_repository of advanced")
    elif not settings["service_account"]:
        rule = "deploy_to=kserve must have a place that KServe can read the model from"
        found = "neither service_repository nor service_account"
        remedy = "Set service_repository of advanced to a folder of a bucket, or service_account to who may read the artifacts."
        raise InputError(rule, found, remedy)
    cluster = Cluster(settings["service_namespace"])
    wanted = manifest(model_name, place or "s3://bucket/model/", "", _with_image(cluster, settings))
    tried = cluster.apply(wanted, dry_run=True).service
    if rollout.is_standard(tried):
        _check_standard(model_name, cluster.namespace, settings)
        cluster.is_ready(tried)  # whether its Deployment may be read
    cluster.read_by_pods(model_name, FINGERPRINT)


def _check_standard(model_name: str, namespace: str, settings: Mapping[str, Any]) -> None:
    """Refuses what KServe takes in Standard mode and cannot do."""
    host = f"{rollout.deployment_of(model_name)}-{namespace}"
    if len(host) > LONGEST_LABEL:
        left = LONGEST_LABEL - len(host) + len(model_name)
        rule = f"NAME-predictor-NAMESPACE must have at most {LONGEST_LABEL} characters, for KServe's address of it"
        raise InputError(rule, f"{host} ({len(host)})", f"Choose a model_name of at most {left} characters in {namespace}.")
    if settings["canary_percent"] < 100:
        rule = "canary_percent of advanced must be 100 in KServe's Standard mode, which routes nothing by percentage"
        raise InputError(rule, settings["canary_percent"], "Leave it out, or have KServe run in Knative mode, which does.")


def deploy(version: Version, uri: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Makes or changes the service of a model, and waits until it answers. Done twice, it is done once.

    A change that does not come up is taken back, unless `service_rollback` is false.

    Args:
        version: the exported model.
        uri: of the model folder, as KFP knows it; KServe reads it from there where no `service_repository` is set.
        settings: what `parameters.of_deployment` gives.

    Returns:
        name, namespace, model_name, url, and address, the url within the cluster; fingerprint, the version's; and share, of the
        requests that it gets, in percent.

    Raises:
        InputError: what the store or the cluster says, or that it was not ready in time.
    """
    cluster = Cluster(settings["service_namespace"])
    place = _readable(version, uri, settings)
    wanted = manifest(version.name, place, version.fingerprint, _with_image(cluster, settings))
    if trained_from := version.about.get("trained_from"):
        wanted["metadata"]["annotations"][ORIGIN] = _origin(trained_from, settings)
    applied = cluster.apply(wanted)
    print(f"InferenceService {version.name} in {cluster.namespace}: {applied.done}", flush=True)
    try:
        status = cluster.ready(applied, settings["service_wait_seconds"])["status"]
    except NotReady as reason:
        raise _not_ready(cluster, applied, str(reason), settings) from None
    address = (status.get("address") or {}).get("url", "")
    url = status.get("url") or address
    print(f"ready at {url}{f', within the cluster {address}' if address not in ('', url) else ''}", flush=True)
    _remove_old(cluster, version, settings)
    where = {"name": version.name, "namespace": cluster.namespace, "model_name": version.name}
    what = {"fingerprint": version.fingerprint, "share": int(settings["canary_percent"])}
    return where | {"url": url, "address": address or url} | what


def _not_ready(cluster: Cluster, applied: Applied, reason: str, settings: Mapping[str, Any]) -> InputError:
    """What is said of a service that does not come up, once it has been taken back where it is to be."""
    name = applied.name
    before = "the model before answers on" if cluster.answers_before(applied.service) else "nobody answers"
    if settings["service_rollback"] and cluster.take_back(applied):
        before = f"taken back to the model before, which {'answers' if _is_back(cluster, name) else 'does not answer yet'}"
    elif applied.done == MADE:
        before += ", and what was made stays, to be looked at"
    rule = f"an InferenceService must be ready within service_wait_seconds={settings['service_wait_seconds']:g}"
    remedy = f"See kubectl -n {cluster.namespace} describe pod -l {rollout.OF_SERVICE}={name}."
    return InputError.from_line(
        f"{InputError.PREFIX}{rule}; got {name} in {cluster.namespace}: {shown(reason, LONGEST_REASON)}; {before}. {remedy}"
    )


def _is_back(cluster: Cluster, name: str) -> bool:
    """Whether the model that a service was taken back to answers, soon."""
    there = cluster.find(name)
    try:
        return there is not None and bool(cluster.ready(Applied(there, None, MADE), BACK_SECONDS))
    except NotReady:
        return False


def is_from(model_name: str, trained_from: str, settings: Mapping[str, Any]) -> bool:
    """Whether the service of a model answers with one that was made of the same, and is served in the same way.

    Args:
        model_name: the model's.
        trained_from: what `deployment.decide_training` gives.
        settings: what `parameters.of_deployment` gives.

    Raises:
        InputError: what the cluster says.
    """
    cluster = Cluster(settings["service_namespace"])
    there = cluster.find(model_name)
    wanted = {ORIGIN: _origin(trained_from, settings)}
    return there is not None and rollout.has(there, wanted) and cluster.is_ready(there)


def asked_at(endpoint: Mapping[str, Any]) -> str:
    """Where the model is asked, within the cluster or outside, that `deploy` gave."""
    return f"{endpoint['address' if is_within() else 'url'].rstrip('/')}/v1/models/{endpoint['name']}"


def answers_alone(endpoint: Mapping[str, Any]) -> bool:
    """Whether no pod of another model is left, not even one that is ending, so that every answer is of the one deployed.

    Args:
        endpoint: what `deploy` gave.

    Raises:
        InputError: what the cluster says.
    """
    return not Cluster(endpoint["namespace"]).others(endpoint["name"], {FINGERPRINT: endpoint["fingerprint"]})


def manifest(name: str, uri: str, fingerprint: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The InferenceService of a model, as a merge patch: what is None is not to be there, what is not named stays as it is.

    Args:
        name: of the model and of the service.
        uri: of a folder that holds the model as a version.
        fingerprint: the version's.
        settings: what `parameters.of_deployment` gives.
    """
    gpus, percent = int(settings["service_gpus"]), int(settings["canary_percent"])
    stock = settings["service_runtime"] == STOCK
    predictor = {
        "serviceAccountName": settings["service_account"] or None,
        "canaryTrafficPercent": percent if percent < 100 else None,
        "model": _stock_model(uri, gpus, settings) if stock else None,
        "containers": None if stock else [_container(name, uri, gpus, settings)],
    }
    if replicas := parameters.replicas(settings["service_replicas"]):
        predictor["minReplicas"], predictor["maxReplicas"] = replicas
    if settings["service_timeout"]:
        predictor["timeout"] = int(settings["service_timeout"])
    annotations = {MODEL: name, FINGERPRINT: fingerprint, WANTED: _hash([fingerprint, predictor])}
    return {
        "apiVersion": f"{GROUP}/{API_VERSION}",
        "kind": "InferenceService",
        "metadata": {"name": name, "labels": LABELS, "annotations": annotations},
        "spec": {"predictor": predictor},
    }


def _origin(trained_from: str, settings: Mapping[str, Any]) -> str:
    """A hash, in which how it is served counts as well: a canary that is to get all requests is a change."""
    served = {name: value for name, value in settings.items() if name not in BESIDE_THE_SERVICE}
    return _hash([trained_from, served])


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _with_image(cluster: Cluster, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with the image of our server: the one named, or the one beside that this stage runs in.

    So a pipeline that was compiled for a registry takes the server from there as well.
    """
    own = cluster.image_of_this_stage() if settings["service_runtime"] != STOCK and not settings["service_image"] else ""
    gpus = "-gpu" if settings["service_gpus"] else ""
    beside = re.sub(r"kfp-vision:(?=[^/]+$)", f"kfp-vision{gpus}:", own) if OUR_IMAGE.fullmatch(own) else ""
    return {**settings, "service_image": settings["service_image"] or beside or f"kfp-vision{gpus}:{__version__}"}


def _resources(gpus: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a pod may take, and the GPUs, which KServe itself takes TensorFlow Serving's image for GPUs for."""
    asked = parameters.resources(settings["service_resources"])
    return {**asked, "limits": {**asked.get("limits", {}), GPU: str(gpus) if gpus else None}}


def _stock_model(uri: str, gpus: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    version = {"runtimeVersion": settings["runtime_version"]} if settings["runtime_version"] else {}
    secured = {"securityContext": {"seccompProfile": SECCOMP}, **TELLING}
    what = {"modelFormat": {"name": "tensorflow"}, "storageUri": uri}
    return {**what, "resources": _resources(gpus, settings), **version, **secured}


def _container(name: str, uri: str, gpus: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Our server; KServe brings what STORAGE_URI names before it starts."""
    return {
        "name": "kserve-container",
        "image": settings["service_image"],
        "command": ["kfp-vision"],
        "args": ["serve", MOUNTED, "--name", name, "--host", "0.0.0.0", "--port", str(PORT)],
        "env": [{"name": "STORAGE_URI", "value": uri}],
        "ports": [{"containerPort": PORT, "protocol": "TCP"}],
        "readinessProbe": {"httpGet": {"path": "/v2/health/ready", "port": PORT}},
        "resources": _resources(gpus, settings),
        "securityContext": RESTRICTED,
        **TELLING,
    }


def _readable(version: Version, uri: str, settings: Mapping[str, Any]) -> str:
    """Where KServe reads the version from: a copy in the repository, or the artifact itself."""
    if not settings["service_repository"]:
        return _as_kserve_knows_it(stores.extended(uri, f"/{SERVING_FOLDER}"), settings)
    place = storage.inside(settings["service_repository"], f"{version.name}/{version.fingerprint[:FOLDER]}")
    publishing.publish(version, place)
    return _as_kserve_knows_it(place, settings)


def _remove_old(cluster: Cluster, version: Version, settings: Mapping[str, Any]) -> None:
    """Keeps of the models in the repository those that a pod reads, and of the others the newest `versions_kept`."""
    if not settings["service_repository"] or not settings["versions_kept"] or settings["canary_percent"] < 100:
        return
    place = storage.inside(settings["service_repository"], version.name)
    read = {fingerprint[:FOLDER] for fingerprint in cluster.read_by_pods(version.name, FINGERPRINT)}
    read.add(version.fingerprint[:FOLDER])
    publishing.remove_unread(place, read, int(settings["versions_kept"]))


def _as_kserve_knows_it(place: str, settings: Mapping[str, Any]) -> str:
    """The address of a folder of a bucket for KServe, which knows no store that speaks S3 but as `s3://`.

    It ends in a slash: of S3 KServe brings all that begins with it, neighbours as well (`_download_s3` of kserve-storage).

    Raises:
        InputError: it cannot be read from there, or not without a service account.
    """
    kind, remedy = storage.scheme(place), "Set service_repository of advanced to a folder of a bucket, as s3://bucket/models."
    if kind not in (GOOGLES, AMAZONS, *AS_AMAZONS):
        raise InputError("KServe must be able to read the model", place, remedy)
    if kind in AS_AMAZONS and not settings["service_account"]:
        rule = f"KServe must have a service account to read {kind}:// addresses with"
        remedy = "Set service_account of advanced to one whose secret holds a key, and says serving.kserve.io/s3-endpoint."
        raise InputError(rule, place, remedy)
    folder = stores.parted(place)[0].partition("://")[2]
    return f"{GOOGLES if kind == GOOGLES else AMAZONS}://{folder.rstrip('/')}/"
