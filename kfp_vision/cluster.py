"""The InferenceServices in a namespace of a cluster: made, changed and waited for through Kubernetes' own API."""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException

from kfp_vision.errors import InputError, shown

GROUP, API_VERSION, PLURAL = "serving.kserve.io", "v1beta1", "inferenceservices"
MODEL = "kfp-vision/model"  # the annotation that says that a service is ours
MADE, CHANGED, SAME = "made", "changed", "as it was"
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
ADDRESS = "KUBERNETES_SERVICE_HOST"  # in the environment of every pod
CONFLICTS = 10  # with others who change a service at the same time
CONNECT_SECONDS, READ_SECONDS = 10, 60
WATCH_SECONDS = 30  # until the state as a whole is asked for again
PAUSE_SECONDS = 1.0  # before a cluster that failed to answer is asked again
SETTLE_SECONDS = 20.0  # in which KServe has begun with a change, if there is anything to do


class Cluster:
    """The cluster that this process runs in, or that KUBECONFIG or ~/.kube/config names.

    Args:
        namespace: empty for the pod's own, or the one that the configuration names.

    Raises:
        InputError: no cluster is known here.
    """

    def __init__(self, namespace: str):
        configuration, own = configured()
        self.namespace = namespace or own
        self._api = client.CustomObjectsApi(client.ApiClient(configuration))
        self._kind = {"group": GROUP, "version": API_VERSION, "namespace": self.namespace, "plural": PLURAL}

    def apply(self, wanted: Mapping[str, Any], *, dry_run: bool = False) -> tuple[dict[str, Any], str]:
        """Has a service be as is wanted: makes it, changes it, or leaves it where nothing is different.

        Args:
            wanted: the service as a merge patch: what is None is not to be there.
            dry_run: have the cluster check everything, and change nothing.

        Returns:
            The service, before the change where it was changed, and which of the three it was: MADE, CHANGED or SAME.

        Raises:
            InputError: one of that name is not ours, or what the cluster says.
        """
        asked = {"_request_timeout": (CONNECT_SECONDS, READ_SECONDS), **({"dry_run": "All"} if dry_run else {})}
        name = wanted["metadata"]["name"]
        for _ in range(CONFLICTS):
            with _answered(self.namespace), _unless_somebody_was_faster():
                there = self._find(name)
                if there is None:
                    return self._api.create_namespaced_custom_object(**self._kind, body=_without_none(wanted), **asked), MADE
                if MODEL not in (there["metadata"].get("annotations") or {}):
                    rule = "an InferenceService of the model's name must be one that kfp-vision made"
                    raise InputError(rule, f"{name} in {self.namespace}", "Choose another model_name, or delete it.")
                if _holds(there, wanted):
                    return there, SAME
                seen = {"resourceVersion": there["metadata"]["resourceVersion"]}
                change = {**wanted, "metadata": {**wanted["metadata"], **seen}}
                self._api.patch_namespaced_custom_object(**self._kind, name=name, body=change, **asked)
                return there, CHANGED
        rule, found = "an InferenceService must hold still for as long as a change takes", f"{CONFLICTS} conflicts"
        raise InputError(rule, f"{found} at {name} in {self.namespace}", "See who else changes it, and try again.")

    def annotations(self, name: str) -> dict[str, str]:
        """What a service that is ours is annotated with; nothing where there is none of that name, or somebody else's.

        Raises:
            InputError: what the cluster says.
        """
        with _answered(self.namespace):
            there = self._find(name) or {"metadata": {}}
        said = there["metadata"].get("annotations") or {}
        return said if MODEL in said else {}

    def ready(self, before: Mapping[str, Any], *, changed: bool, seconds: float) -> dict[str, Any]:
        """A service as soon as it is ready.

        KServe says in `observedGeneration` which state it has seen of what it made for the service, not of the service itself.
        So after a change another one than before is waited for; a change that left all of that as it was brings none, and then
        the state that lasts is the one.

        Args:
            before: the service before it was changed.
            changed: whether it was.
            seconds: to wait at most.

        Raises:
            InputError: it was not ready in time, is gone, or what the cluster says.
        """
        name, start, told = before["metadata"]["name"], time.monotonic(), ""
        status = before.get("status", {})
        stale = status.get("observedGeneration") if changed else None
        while (left := start + seconds - time.monotonic()) > 0:
            for service in self._states(name, min(left, WATCH_SECONDS)):
                status = service.get("status", {})
                settled = time.monotonic() > start + SETTLE_SECONDS
                if stale is not None and status.get("observedGeneration") == stale and not settled:
                    continue
                if _conditions(status).get("Ready", {}).get("status") == "True":
                    return service
                if (said := _reasons(status)) != told:
                    print(f"not ready yet: {said}", flush=True)
                    told = said
        rule = f"an InferenceService must be ready within service_wait_seconds={seconds:g}"
        remedy = f"See kubectl describe inferenceservice {name} -n {self.namespace}."
        raise InputError(rule, f"{name} in {self.namespace}: {_reasons(status)}", remedy)

    def _find(self, name: str) -> dict[str, Any] | None:
        try:
            asked = {"_request_timeout": (CONNECT_SECONDS, READ_SECONDS)}
            return self._api.get_namespaced_custom_object(**self._kind, name=name, **asked)
        except ApiException as error:
            if error.status != 404:
                raise
            return None

    def _states(self, name: str, seconds: float) -> Iterator[dict[str, Any]]:
        """The state of a service now, and each that it gets in a while; where the cluster is gone for a moment, none."""
        with _answered(self.namespace), _a_moment():
            there = self._find(name)
            if there is None:
                raise self._gone(name)
            yield there
            whole = max(1, int(seconds))
            which = {"field_selector": f"metadata.name={name}", "resource_version": there["metadata"]["resourceVersion"]}
            limits = {"timeout_seconds": whole, "_request_timeout": (CONNECT_SECONDS, whole + READ_SECONDS)}
            for event in watch.Watch().stream(self._api.list_namespaced_custom_object, **self._kind, **which, **limits):
                if event["type"] == "DELETED":
                    raise self._gone(name)
                if event["type"] in ("ADDED", "MODIFIED"):
                    yield event["object"]

    def _gone(self, name: str) -> InputError:
        found = f"{name} in {self.namespace}, which is gone"
        return InputError("an InferenceService must stay until it is ready", found, "See who deleted it, and deploy again.")


def is_within() -> bool:
    """Whether this process runs in a cluster."""
    return bool(os.environ.get(ADDRESS))


def configured() -> tuple[Any, str]:
    """How the cluster is reached, and the namespace that is meant where none is named."""
    configuration, file = client.Configuration(), os.environ.get("KUBECONFIG") or None
    try:
        if file is None and is_within():
            config.load_incluster_config(client_configuration=configuration)
            return configuration, NAMESPACE_FILE.read_text(encoding="utf-8").strip()
        config.load_kube_config(config_file=file, client_configuration=configuration)
        _, context = config.list_kube_config_contexts(config_file=file)
        return configuration, context["context"].get("namespace", "default")
    except (config.ConfigException, OSError) as error:
        rule = "deploy_to=kserve must run in a cluster, or find the configuration of one"
        remedy = "Set KUBECONFIG, or run the pipeline on the cluster."
        raise InputError(rule, str(error), remedy) from None


@contextlib.contextmanager
def _answered(namespace: str) -> Iterator[None]:
    """Turns what the client raises into one line."""
    try:
        yield
    except ApiException as error:
        said = _message(error)
        if error.status == 401 or (error.status == 403 and " cannot " in said):  # and no webhook or quota that says no
            rule = "deploy_to=kserve must be allowed to the service account that runs the stages"
            remedy = "Apply the roles in manifests/: kubectl apply -k manifests."
        elif error.status == 404:
            rule = "the cluster must have KServe, and the namespace"
            remedy = "Install it, or set service_namespace of advanced."
        else:
            rule, remedy = "the cluster must take the InferenceService", "Change what it names, or ask who runs the cluster."
        raise InputError(rule, f"HTTP {error.status} in {namespace} ({said})", remedy) from None
    except (urllib3.exceptions.HTTPError, OSError) as error:
        reason = type(getattr(error, "reason", None) or error).__name__
        raise InputError("the cluster must answer", reason, "Check the way to it, and its configuration.") from None


@contextlib.contextmanager
def _unless_somebody_was_faster() -> Iterator[None]:
    """Lets a conflict pass, and a change of what was deleted meanwhile."""
    try:
        yield
    except ApiException as error:
        is_deleted = error.status == 404 and f"{PLURAL}.{GROUP} " in _message(error)
        if error.status != 409 and not is_deleted:
            raise


@contextlib.contextmanager
def _a_moment() -> Iterator[None]:
    """Lets a watch that broke off, or that is too old, pass, after a pause; who asks again sees whether it was for good."""
    try:
        yield
    except (ApiException, urllib3.exceptions.HTTPError, OSError) as error:
        if isinstance(error, ApiException) and error.status != 410 and int(error.status or 0) < 500:
            raise
        time.sleep(PAUSE_SECONDS)


def _message(error: ApiException) -> str:
    """What the cluster said, without the rest of its answer."""
    try:
        said = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        said = error.body or error.reason or "no reason"
    return shown(said, 400)


def _holds(there: Any, wanted: Any) -> bool:
    """Whether all that is wanted is there; what the cluster has added besides does not matter."""
    if wanted is None:
        return there is None
    if isinstance(wanted, Mapping):
        found = {} if there is None else there
        return isinstance(found, Mapping) and all(_holds(found.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(there, list) and len(there) == len(wanted) and all(map(_holds, there, wanted))
    return there == wanted


def _without_none(wanted: Any) -> Any:
    if isinstance(wanted, Mapping):
        return {key: _without_none(value) for key, value in wanted.items() if value is not None}
    return wanted


def _conditions(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {condition["type"]: condition for condition in status.get("conditions") or []}


def _reasons(status: Mapping[str, Any]) -> str:
    """What KServe says of a service that is not ready: its conditions, and why the model does not load."""
    said = []
    for name, condition in _conditions(status).items():
        if condition["status"] != "True":
            why = ": ".join(filter(None, [condition.get("reason"), condition.get("message")]))
            said.append(f"{name} is {condition['status']}" + (f" ({why})" if why else ""))
    failure = (status.get("modelStatus") or {}).get("lastFailureInfo") or {}
    said += filter(None, [": ".join(filter(None, [failure.get("reason"), failure.get("message")]))])
    return "; ".join(said) or "no word of KServe about it"
