"""An InferenceService of KServe that answers with a model: what is wanted of the cluster, and where the model is read from.

KServe reads it from a folder of a bucket that holds it as version 1. Every model has a folder of its own there, so that a
revision that was made for one never starts again with another.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from kfp_vision import __version__, publishing, storage, stores
from kfp_vision.cluster import API_VERSION, CHANGED, GROUP, MODEL, Cluster, is_within
from kfp_vision.errors import InputError
from kfp_vision.repository import SERVING_FOLDER, Version

STOCK = "tensorflow"  # of service_runtime: the runtime that comes with KServe, TensorFlow Serving
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # what KServe takes for one
FINGERPRINT = "kfp-vision/fingerprint"  # the annotation that says what is served
ORIGIN = "kfp-vision/trained-from"  # and the one that says what it was made of, and how it is served
LABELS = {"kfp-vision/role": "server"}  # by which a network policy knows the pods; KServe hands them on
GOOGLES, AMAZONS = "gs", "s3"  # the schemes that KServe knows
AS_AMAZONS = ("cos", "minio")  # S3 elsewhere: where, and who may read, the secret of a service account says
GPU = "nvidia.com/gpu"
PORT = 8080
MOUNTED = "/mnt/models"  # where KServe lays the model
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
    cluster.apply(manifest(model_name, place or "s3://bucket/model", "", settings), dry_run=True)


def deploy(version: Version, uri: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """Makes or changes the service of a model, and waits until it is ready. Done twice, it is done once.

    Args:
        version: the exported model.
        uri: of the model folder, as KFP knows it; KServe reads it from there where no `service_repository` is set.
        settings: what `parameters.of_deployment` gives.

    Returns:
        name, namespace, model_name, url, and address, the url within the cluster.

    Raises:
        InputError: what the store or the cluster says, or that it was not ready in time.
    """
    wanted = manifest(version.name, _readable(version, uri, settings), version.fingerprint, settings)
    if trained_from := version.about.get("trained_from"):
        wanted["metadata"]["annotations"][ORIGIN] = _origin(trained_from, settings)
    cluster = Cluster(settings["service_namespace"])
    found, done = cluster.apply(wanted)
    print(f"InferenceService {version.name} in {cluster.namespace}: {done}", flush=True)
    status = cluster.ready(found, changed=done == CHANGED, seconds=settings["service_wait_seconds"])["status"]
    address = (status.get("address") or {}).get("url", "")
    url = status.get("url") or address
    print(f"ready at {url}", flush=True)
    place = {"name": version.name, "namespace": cluster.namespace, "model_name": version.name}
    return place | {"url": url, "address": address or url}


def is_from(model_name: str, trained_from: str, settings: Mapping[str, Any]) -> bool:
    """Whether the service of a model answers with one that was made of the same, and is served in the same way.

    Args:
        model_name: the model's.
        trained_from: what `deployment.decide_training` gives.
        settings: what `parameters.of_deployment` gives.

    Raises:
        InputError: what the cluster says.
    """
    return Cluster(settings["service_namespace"]).annotations(model_name).get(ORIGIN) == _origin(trained_from, settings)


def asked_at(endpoint: Mapping[str, str]) -> str:
    """Where the model is asked, within the cluster or outside, that `deploy` gave."""
    return f"{endpoint['address' if is_within() else 'url'].rstrip('/')}/v1/models/{endpoint['name']}"


def manifest(name: str, uri: str, fingerprint: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The InferenceService of a model, as a merge patch: what is None is not to be there.

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
        "model": _stock_model(uri, gpus) if stock else None,
        "containers": None if stock else [_container(name, uri, gpus, settings["service_image"])],
    }
    return {
        "apiVersion": f"{GROUP}/{API_VERSION}",
        "kind": "InferenceService",
        "metadata": {"name": name, "labels": LABELS, "annotations": {MODEL: name, FINGERPRINT: fingerprint}},
        "spec": {"predictor": predictor},
    }


def _origin(trained_from: str, settings: Mapping[str, Any]) -> str:
    """A hash, in which how it is served counts as well: a canary that is to get all requests is a change."""
    return hashlib.sha256(json.dumps([trained_from, dict(settings)], sort_keys=True).encode()).hexdigest()


def _stock_model(uri: str, gpus: int) -> dict[str, Any]:
    """KServe itself takes TensorFlow Serving's image for GPUs where some are asked for."""
    limits = {GPU: str(gpus) if gpus else None}
    secured = {"securityContext": {"seccompProfile": SECCOMP}}
    return {"modelFormat": {"name": "tensorflow"}, "storageUri": uri, "resources": {"limits": limits}, **secured}


def _container(name: str, uri: str, gpus: int, image: str) -> dict[str, Any]:
    """Our server; KServe brings what STORAGE_URI names before it starts."""
    return {
        "name": "kserve-container",
        "image": image or f"kfp-vision{'-gpu' if gpus else ''}:{__version__}",
        "command": ["kfp-vision"],
        "args": ["serve", MOUNTED, "--name", name, "--host", "0.0.0.0", "--port", str(PORT)],
        "env": [{"name": "STORAGE_URI", "value": uri}],
        "ports": [{"containerPort": PORT, "protocol": "TCP"}],
        "readinessProbe": {"httpGet": {"path": "/v2/health/ready", "port": PORT}},
        "resources": {"limits": {GPU: str(gpus)}} if gpus else {},
        "securityContext": RESTRICTED,
    }


def _readable(version: Version, uri: str, settings: Mapping[str, Any]) -> str:
    """Where KServe reads the version from: a copy in the repository, or the artifact itself."""
    if not settings["service_repository"]:
        return _as_kserve_knows_it(stores.extended(uri, f"/{SERVING_FOLDER}"), settings)
    place = storage.inside(settings["service_repository"], f"{version.name}/{version.fingerprint[:16]}")
    publishing.publish(version, place)
    return _as_kserve_knows_it(place, settings)


def _as_kserve_knows_it(place: str, settings: Mapping[str, Any]) -> str:
    """The address of a folder of a bucket for KServe, which knows no store that speaks S3 but as `s3://`.

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
    return f"{GOOGLES if kind == GOOGLES else AMAZONS}://{folder}"
