"""Creates, updates, watches and rolls back InferenceServices through the Kubernetes API.

Lists are merged here. KServe's resource definition names no key for the containers of a predictor (config/crd of KServe
0.20.0), so that Kubernetes' own merges, server-side apply included, replace the whole list, and with it what a person has added
to our container.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import urllib3
from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException

from kfp_vision.core import json_text, kube_config
from kfp_vision.core.errors import InputError, format_value
from kfp_vision.deployment import rollout

GROUP, API_VERSION, PLURAL = "serving.kserve.io", "v1beta1", "inferenceservices"
ANNOTATION_PREFIX = "kfp-vision/"  # prefix of our annotations
MODEL_ANNOTATION = f"{ANNOTATION_PREFIX}model"  # annotation that marks an InferenceService as ours
FIELD_MANAGER = "kfp-vision"  # the owner of the fields we set, in managedFields
LIST_MERGE_KEYS = ("name", "containerPort")  # by which list elements are merged: containers and variables, and ports
CREATED, UPDATED, UNCHANGED = "created", "updated", "unchanged"
MAX_CONFLICTS = 10  # attempts when others update the InferenceService at the same time
WATCH_SECONDS = 30  # until the whole state is fetched again
PAUSE_SECONDS = 1.0  # before a failed request is repeated
SETTLE_SECONDS = 20.0  # in which Knative starts to act on an update, if it has to
POLL_SECONDS = 1.0  # between two checks of a rollout
BACK_SECONDS = 60.0  # for the previous model to answer after a rollback; its pods are still running
SERVICE_ACCOUNT = re.compile(r"system:serviceaccount:([-a-z0-9]+:[-a-z0-9.]+)")
POD_NAME_VARIABLE = "KFP_POD_NAME"  # environment variable of a stage's pod
STAGE_CONTAINER = "main"
T = TypeVar("T")


class ApplyResult(NamedTuple):
    """The result of `Cluster.apply`.

    Attributes:
        service: the InferenceService as it is now, or after a dry run would be.
        before: as it was; None if there was none.
        done: MADE, CHANGED or SAME.
    """

    service: dict[str, Any]
    before: dict[str, Any] | None
    done: str

    @property
    def name(self) -> str:
        """The InferenceService's name."""
        name: str = self.service["metadata"]["name"]
        return name

    @property
    def annotations(self) -> dict[str, str]:
        """Our annotations, which identify its pods."""
        return own_annotations(self.service)


class ServiceNotReady(Exception):
    """An InferenceService did not become ready; the message says why in a few words."""


def own_annotations(service: Mapping[str, Any]) -> dict[str, str]:
    """Returns our annotations of an InferenceService."""
    annotations = service["metadata"].get("annotations") or {}
    return {name: value for name, value in annotations.items() if name.startswith(ANNOTATION_PREFIX)}


class Cluster:
    """The InferenceServices in one namespace of the cluster this process runs in, or that KUBECONFIG or ~/.kube/config names.

    Args:
        namespace: empty for the pod's own, or the configuration's.

    Raises:
        InputError: there is no cluster configuration.

    Example:
        cluster = Cluster("models")
        applied = cluster.apply(manifest)
        service = cluster.wait_until_ready(applied, seconds=600)
    """

    def __init__(self, namespace: str):
        try:
            configuration, self._own_namespace = kube_config.load_configuration()
        except (config.ConfigException, OSError) as error:
            rule = "deploy_to=kserve must run in a cluster, or find the configuration of one"
            remedy = "Set KUBECONFIG, or run the pipeline on the cluster."
            raise InputError(rule, str(error), remedy) from None
        self.namespace = namespace or self._own_namespace
        api = client.ApiClient(configuration)
        self._api, self._apps, self._core = client.CustomObjectsApi(api), client.AppsV1Api(api), client.CoreV1Api(api)
        self._kind = {"group": GROUP, "version": API_VERSION, "namespace": self.namespace, "plural": PLURAL}

    def apply(self, wanted: Mapping[str, Any], *, dry_run: bool = False) -> ApplyResult:
        """Creates or updates the InferenceService; does nothing if it already matches.

        Fields set by others are kept, also those in list elements that have a name.

        Args:
            wanted: the InferenceService as a merge patch, in which None removes a field.
            dry_run: let the cluster validate everything, and change nothing.

        Returns:
            The InferenceService now and before, and what was done.

        Raises:
            InputError: an InferenceService of that name is not ours, or an error of the cluster.
        """
        options: dict[str, Any] = {
            "_request_timeout": (kube_config.CONNECT_SECONDS, kube_config.READ_SECONDS),
            "field_manager": FIELD_MANAGER,
        }
        options |= {"dry_run": "All"} if dry_run else {}
        name = wanted["metadata"]["name"]

        def attempt() -> ApplyResult:
            current = self._get(name)
            if current is None:
                created = self._api.create_namespaced_custom_object(**self._kind, body=_merge(None, wanted), **options)
                return ApplyResult(created, None, CREATED)
            if MODEL_ANNOTATION not in (current["metadata"].get("annotations") or {}):
                rule = "an InferenceService with the model's name must be one that kfp-vision created"
                raise InputError(rule, f"{name} in {self.namespace}", "Choose another model_name, or delete it.")
            if _matches(current, wanted):
                return ApplyResult(current, current, UNCHANGED)
            patch = _if_unmodified(_with_merged_lists(current, wanted), current)
            updated = self._api.patch_namespaced_custom_object(**self._kind, name=name, body=patch, **options)
            return ApplyResult(updated, current, UPDATED)

        return self._retry_conflicts(name, attempt)

    def roll_back(self, applied: ApplyResult) -> bool:
        """Restores an InferenceService that was updated, unless it has been updated again since.

        Args:
            applied: the result of `apply`.

        Returns:
            Whether it was restored.

        Raises:
            InputError: an error of the cluster.
        """
        options = {"_request_timeout": (kube_config.CONNECT_SECONDS, kube_config.READ_SECONDS), "field_manager": FIELD_MANAGER}
        before = applied.before
        if applied.done != UPDATED or before is None:
            return False

        def attempt() -> bool:
            current = self._get(applied.name)
            if current is None or own_annotations(current) != applied.annotations:
                return False
            patch = {"spec": _difference(current["spec"], before["spec"])}
            patch["metadata"] = {"annotations": _difference(own_annotations(current), own_annotations(before))}
            body = _if_unmodified(patch, current)
            self._api.patch_namespaced_custom_object(**self._kind, name=applied.name, body=body, **options)
            return True

        return self._retry_conflicts(applied.name, attempt)

    def find(self, name: str) -> dict[str, Any] | None:
        """Returns one of our InferenceServices; None if there is none of that name, or it is not ours.

        Args:
            name: the InferenceService's name.

        Returns:
            The resource.

        Raises:
            InputError: an error of the cluster.
        """
        with self._readable_errors():
            service = self._get(name)
        return service if service and MODEL_ANNOTATION in own_annotations(service) else None

    def is_ready(self, service: Mapping[str, Any]) -> bool:
        """Returns whether an InferenceService answers with its current spec, and only with that.

        Args:
            service: the resource.

        Returns:
            Whether it is ready.

        Raises:
            InputError: an error of the cluster.
        """
        return not self._unmet(service, own_annotations(service))[0]

    def wait_until_ready(self, applied: ApplyResult, seconds: float) -> dict[str, Any]:
        """Waits until the InferenceService is ready: the new pods answer, and no others.

        In Standard mode its Deployment tells, see `rollout`. In Knative mode `Ready` tells, but `observedGeneration` refers to
        the resources that KServe creates, not to the InferenceService. So after an update its status is ignored until
        `observedGeneration` changes; an update that leaves those resources as they are never changes it, and then the status
        counts after SETTLE_SECONDS.

        Args:
            applied: the result of `apply`.
            seconds: maximum time to wait.

        Returns:
            The InferenceService.

        Raises:
            NotReady: it was not ready in time, or KServe rejects its spec.
            InputError: it was deleted, or an error of the cluster.
        """
        service, start, reported, reason = applied.service, time.monotonic(), set[str](), ""
        stale = ((applied.before or {}).get("status") or {}).get("observedGeneration") if applied.done == UPDATED else None
        was_invalid = applied.done == UPDATED and rollout.is_invalid(applied.before or {})
        states = self._poll if rollout.is_standard(service) else self._watch
        while (left := start + seconds - time.monotonic()) > 0:
            for service in states(applied.name, min(left, WATCH_SECONDS)):
                has_settled = time.monotonic() > start + SETTLE_SECONDS
                is_stale = stale is not None and (service.get("status") or {}).get("observedGeneration") == stale
                if is_stale and not has_settled and not rollout.is_standard(service):
                    continue
                unmet, deployment = self._unmet(service, applied.annotations)
                if not unmet:
                    return service
                if rollout.is_invalid(service) and (has_settled or not was_invalid):
                    raise ServiceNotReady("; ".join(rollout.kserve_reasons(service)))
                reason = self._reasons(service, deployment, applied.annotations) or unmet
                if reason not in reported:
                    print(f"not ready yet: {reason}", flush=True)
                    reported.add(reason)
        raise ServiceNotReady(reason or "the cluster reports no reason")

    def _reasons(self, service: Mapping[str, Any], deployment: Mapping[str, Any] | None, annotations: Mapping[str, str]) -> str:
        """Says why a service is not ready: what its pods report, else what KServe does; empty if neither reports anything."""
        try:
            pods = self._pods(service["metadata"]["name"])
        except ApiException as error:
            return "; ".join([*rollout.kserve_reasons(service), f"its pods could not be read (HTTP {error.status})"])
        except (urllib3.exceptions.HTTPError, OSError):
            return ""
        return "; ".join(rollout.start_failures(deployment, pods, annotations) or rollout.kserve_reasons(service))

    def previous_answers(self, service: Mapping[str, Any]) -> bool:
        """Returns whether a pod of a previous model still answers.

        Args:
            service: the InferenceService with the new model.

        Returns:
            Whether one does; false if the pods cannot be read.
        """
        try:
            pods = self._pods(service["metadata"]["name"])
        except (ApiException, urllib3.exceptions.HTTPError, OSError):
            return False
        return rollout.previous_answers(pods, own_annotations(service))

    def has_other_pods(self, name: str, annotations: Mapping[str, str]) -> bool:
        """Returns whether an InferenceService in Standard mode has pods without some annotations, terminating ones included.

        Always false in Knative mode, which routes requests by revision, whatever other pods there are.

        Args:
            name: the InferenceService's name.
            annotations: those to look for, by name.

        Returns:
            Whether there are other pods.

        Raises:
            InputError: an error of the cluster.
        """
        with self._readable_errors():
            service = self._get(name)
            is_standard = service is not None and rollout.is_standard(service)
            return is_standard and any(not rollout.has_annotations(pod, annotations) for pod in self._pods(name))

    def pod_annotations(self, name: str, annotation: str) -> set[str]:
        """Returns the values of an annotation on the pods of an InferenceService.

        Args:
            name: the InferenceService's name.
            annotation: the annotation's name.

        Returns:
            The values.

        Raises:
            InputError: an error of the cluster.
        """
        with self._readable_errors():
            found = [pod["metadata"].get("annotations") or {} for pod in self._pods(name)]
        return {annotations[annotation] for annotations in found if annotation in annotations}

    def stage_image(self) -> str:
        """Returns this stage's container image; empty if this process is not a stage's pod, or the pod cannot be read."""
        pod = os.environ.get(POD_NAME_VARIABLE, "")
        if not (pod and kube_config.is_in_cluster()):
            return ""
        try:
            answer = self._core.read_namespaced_pod(pod, self._own_namespace, **_raw())
        except (ApiException, urllib3.exceptions.HTTPError, OSError):
            return ""
        containers = json_text.parse(answer.data)["spec"]["containers"]
        return next((one["image"] for one in containers if one["name"] == STAGE_CONTAINER), "")

    def _retry_conflicts(self, name: str, attempt: Callable[[], T]) -> T:
        """Repeats an update for as long as others update the same InferenceService first.

        Raises:
            InputError: too many conflicts, or an error of the cluster.
        """
        for _ in range(MAX_CONFLICTS):
            with self._readable_errors(), _ignoring_conflicts():
                return attempt()
        rule, found = "an InferenceService must not be changed by others during an update", f"{MAX_CONFLICTS} conflicts"
        raise InputError(rule, f"{found} at {name} in {self.namespace}", "See who else changes it, and try again.")

    def _get(self, name: str) -> dict[str, Any] | None:
        options = {"_request_timeout": (kube_config.CONNECT_SECONDS, kube_config.READ_SECONDS)}
        service: dict[str, Any] | None = _or_none(
            lambda: self._api.get_namespaced_custom_object(**self._kind, name=name, **options)
        )
        return service

    def _deployment(self, service: Mapping[str, Any]) -> dict[str, Any] | None:
        if not rollout.is_standard(service):
            return None
        name = rollout.deployment_name(service["metadata"]["name"])
        answer = _or_none(lambda: self._apps.read_namespaced_deployment(name, self.namespace, **_raw()))
        deployment: dict[str, Any] | None = answer and json_text.parse(answer.data)
        return deployment

    def _pods(self, name: str) -> list[dict[str, Any]]:
        selector = f"{rollout.SERVICE_LABEL}={name}"
        answer = self._core.list_namespaced_pod(self.namespace, label_selector=selector, **_raw())
        pods: list[dict[str, Any]] = json_text.parse(answer.data)["items"]
        return pods

    def _unmet(self, service: Mapping[str, Any], annotations: Mapping[str, str]) -> tuple[str, dict[str, Any] | None]:
        """Returns what a service waits for, empty if it is ready; and its Deployment, if it has one."""
        if not rollout.is_standard(service):
            return ("" if _is_ready(service) else "KServe has not reported anything yet"), None
        with self._readable_errors(), _ignoring_interruptions():
            deployment = self._deployment(service)
            unreported = "" if _is_ready(service) else "KServe has not reported it as ready yet"
            return rollout.rollout_progress(deployment, annotations) or unreported, deployment
        return "Kubernetes did not answer for a moment", None

    def _poll(self, name: str, seconds: float) -> Iterator[dict[str, Any]]:
        """Yields the state of a service at intervals, and stops early if the cluster does not answer.

        Watching would miss the progress of the Deployment, which does not change the InferenceService.
        """
        deadline = time.monotonic() + seconds
        with self._readable_errors(), _ignoring_interruptions():
            while True:
                service = self._get(name)
                if service is None:
                    raise self._deleted(name)
                yield service
                if (left := deadline - time.monotonic()) <= 0:
                    return
                time.sleep(min(POLL_SECONDS, left))

    def _watch(self, name: str, seconds: float) -> Iterator[dict[str, Any]]:
        """Yields the state of a service now and after each change, and stops early if the cluster does not answer."""
        with self._readable_errors(), _ignoring_interruptions():
            service = self._get(name)
            if service is None:
                raise self._deleted(name)
            yield service
            whole = max(1, int(seconds))
            which = {"field_selector": f"metadata.name={name}", "resource_version": service["metadata"]["resourceVersion"]}
            limits = {
                "timeout_seconds": whole,
                "_request_timeout": (kube_config.CONNECT_SECONDS, whole + kube_config.READ_SECONDS),
            }
            for event in watch.Watch().stream(self._api.list_namespaced_custom_object, **self._kind, **which, **limits):
                if event["type"] == "DELETED":
                    raise self._deleted(name)
                if event["type"] in ("ADDED", "MODIFIED"):
                    yield event["object"]

    def _deleted(self, name: str) -> InputError:
        found = f"{name} in {self.namespace}, which was deleted"
        return InputError("an InferenceService must exist until it is ready", found, "See who deleted it, and deploy again.")

    @contextlib.contextmanager
    def _readable_errors(self) -> Iterator[None]:
        """Turns the client's exceptions into an InputError of one line."""
        try:
            yield
        except ApiException as error:
            message = _message(error)
            # Webhooks and quotas answer 403 as well, without these words.
            if error.status == 401 or (error.status == 403 and " cannot " in message):
                rule = "deploy_to=kserve must be allowed to the service account that runs the stages"
                remedy = self._grant_remedy(message)
            elif error.status == 404:
                rule = "the cluster must have KServe, and the namespace"
                remedy = "Install it, or set service_namespace of advanced."
            else:
                rule = "the cluster must accept the InferenceService"
                remedy = "Change the setting it names, or ask the cluster's administrator."
            raise InputError(rule, f"HTTP {error.status} in {self.namespace} ({message})", remedy) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            reason = type(getattr(error, "reason", None) or error).__name__
            raise InputError("the cluster must answer", reason, "Check the network, and the cluster's configuration.") from None

    def _grant_remedy(self, message: str) -> str:
        """Says how to grant the account what it lacks: a role in its own namespace, and in another one also a binding."""
        if self.namespace == self._own_namespace:
            return "Apply the roles in manifests/: kubectl apply -k manifests."
        account = (found[1] if (found := SERVICE_ACCOUNT.search(message)) else f"{self._own_namespace}:pipeline-runner").rstrip(
            "."
        )
        binding = "create rolebinding kfp-vision-deployers --role=kfp-vision-stages"
        apply = f"kubectl apply -n {self.namespace} -k manifests/base"
        return f"Give it the role there: {apply}; kubectl -n {self.namespace} {binding} --serviceaccount={account}."


@contextlib.contextmanager
def _ignoring_conflicts() -> Iterator[None]:
    """Suppresses a conflict with another update, and the deletion of what is being updated."""
    try:
        yield
    except ApiException as error:
        is_deleted = error.status == 404 and f"{PLURAL}.{GROUP} " in _message(error)
        if error.status != 409 and not is_deleted:
            raise


@contextlib.contextmanager
def _ignoring_interruptions() -> Iterator[None]:
    """Suppresses, after a pause, a broken connection, an expired watch, and errors of the server; the caller tries again."""
    try:
        yield
    except (ApiException, urllib3.exceptions.HTTPError, OSError) as error:
        if isinstance(error, ApiException) and error.status != 410 and int(error.status or 0) < 500:
            raise
        time.sleep(PAUSE_SECONDS)


def _message(error: ApiException) -> str:
    try:
        message = json_text.parse(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        message = error.body or error.reason or "no reason"
    return format_value(message, 400)


def _or_none(request: Callable[[], Any]) -> Any:
    """Returns the response, or None after a 404."""
    try:
        return request()
    except ApiException as error:
        if error.status != 404:
            raise
        return None


def _raw() -> dict[str, Any]:
    """Returns the options to get plain JSON: the client's classes reject values that they do not know."""
    return {"_preload_content": False, "_request_timeout": (kube_config.CONNECT_SECONDS, kube_config.READ_SECONDS)}


def _if_unmodified(patch: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, Any]:
    """Makes the cluster reject a patch if the resource has been updated since it was read."""
    return {**patch, "metadata": {**patch["metadata"], "resourceVersion": current["metadata"]["resourceVersion"]}}


def _matches(current: Any, wanted: Any) -> bool:
    """Returns whether everything wanted is there; additions by others are ignored."""
    if wanted is None:
        return current is None
    if isinstance(wanted, Mapping):
        found = {} if current is None else current
        return isinstance(found, Mapping) and all(_matches(found.get(key), value) for key, value in wanted.items())
    if key := _merge_key(wanted):
        by_key = {one.get(key): one for one in current or []}
        return all(one[key] in by_key and _matches(by_key[one[key]], one) for one in wanted)
    return bool(current == wanted)


def _merge(current: Any, wanted: Any) -> Any:
    """Merges what is wanted into the current value; None removes."""
    if isinstance(wanted, Mapping):
        found = dict(current) if isinstance(current, Mapping) else {}
        found |= {key: _merge(found.get(key), value) for key, value in wanted.items()}
        return {key: value for key, value in found.items() if key not in wanted or wanted[key] is not None}
    if key := _merge_key(wanted):
        merged = {one.get(key): one for one in current or []}
        merged |= {one[key]: _merge(merged.get(one[key]), one) for one in wanted}
        return list(merged.values())
    return wanted


def _with_merged_lists(current: Any, wanted: Any) -> Any:
    """Completes the lists of a merge patch with the elements added by others, since the patch replaces whole lists."""
    if isinstance(wanted, Mapping):
        found = current if isinstance(current, Mapping) else {}
        return {key: _with_merged_lists(found.get(key), value) for key, value in wanted.items()}
    return _merge(current, wanted) if _merge_key(wanted) else wanted


def _difference(now: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the merge patch that turns `now` into `then`."""
    patch: dict[str, Any] = dict.fromkeys(now.keys() - then.keys())
    for key, value in then.items():
        if isinstance(value, Mapping) and isinstance(now.get(key), Mapping):
            patch[key] = _difference(now[key], value)
        elif key not in now or now[key] != value:
            patch[key] = value
    return patch


def _merge_key(wanted: Any) -> str:
    """Returns the key that identifies the elements of a list; empty if it is no list, or its elements have none."""
    if not isinstance(wanted, list) or not all(isinstance(one, Mapping) for one in wanted):
        return ""
    return next((key for key in LIST_MERGE_KEYS if wanted and all(key in one for one in wanted)), "")


def _is_ready(service: Mapping[str, Any]) -> bool:
    conditions = (service.get("status") or {}).get("conditions") or []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
