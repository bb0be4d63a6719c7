"""The InferenceServices in a namespace of a cluster: made, changed, waited for and taken back through Kubernetes' own API.

Lists are merged here. KServe's definition names no key of the containers of a predictor (config/crd of KServe 0.20.0), so that
Kubernetes' own ways to merge, a server-side apply included, take the list as one value: what a person wrote into our container
would be lost.
"""

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import urllib3
from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException

from kfp_vision import rollout
from kfp_vision.errors import InputError, shown

GROUP, API_VERSION, PLURAL = "serving.kserve.io", "v1beta1", "inferenceservices"
OURS = "kfp-vision/"  # begins the annotations that are ours
MODEL = f"{OURS}model"  # the one that says that a service is ours
MANAGER = "kfp-vision"  # who Kubernetes notes as having set what is set
KEYS = ("name", "containerPort")  # of what lies in lists: that of containers and variables, and that of ports
MADE, CHANGED, SAME = "made", "changed", "as it was"
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
ADDRESS = "KUBERNETES_SERVICE_HOST"  # in the environment of every pod
CONFLICTS = 10  # with others who change a service at the same time
CONNECT_SECONDS, READ_SECONDS = 10, 60
WATCH_SECONDS = 30  # until the state as a whole is asked for again
PAUSE_SECONDS = 1.0  # before a cluster that failed to answer is asked again
SETTLE_SECONDS = 20.0  # in which Knative has begun with a change, if there is anything to do
POLL_SECONDS = 1.0  # between two looks at a roll-out
BACK_SECONDS = 60.0  # in which the model before answers again, whose pods are still there
ACCOUNT = re.compile(r"system:serviceaccount:([-a-z0-9]+:[-a-z0-9.]+)")
OWN_POD = "KFP_POD_NAME"  # in the environment of a stage
STAGE_CONTAINER = "main"


class Applied(NamedTuple):
    """What came of `Cluster.apply`.

    Attributes:
        service: as the cluster has it now, or would have it.
        before: as it was; None where there was none.
        done: MADE, CHANGED or SAME.
    """

    service: dict[str, Any]
    before: dict[str, Any] | None
    done: str

    @property
    def name(self) -> str:
        return self.service["metadata"]["name"]

    @property
    def marks(self) -> dict[str, str]:
        """The annotations by which its pods are known."""
        return marks_of(self.service)


class NotReady(Exception):
    """A service that does not come up; says why in a few words."""


def marks_of(service: Mapping[str, Any]) -> dict[str, str]:
    """Those annotations of a service that are ours."""
    said = service["metadata"].get("annotations") or {}
    return {name: value for name, value in said.items() if name.startswith(OURS)}


class Cluster:
    """The cluster that this process runs in, or that KUBECONFIG or ~/.kube/config names.

    Args:
        namespace: empty for the pod's own, or the one that the configuration names.

    Raises:
        InputError: no cluster is known here.
    """

    def __init__(self, namespace: str):
        try:
            configuration, self._own = configured()
        except (config.ConfigException, OSError) as error:
            rule = "deploy_to=kserve must run in a cluster, or find the configuration of one"
            remedy = "Set KUBECONFIG, or run the pipeline on the cluster."
            raise InputError(rule, str(error), remedy) from None
        self.namespace = namespace or self._own
        api = client.ApiClient(configuration)
        self._api, self._apps, self._core = client.CustomObjectsApi(api), client.AppsV1Api(api), client.CoreV1Api(api)
        self._kind = {"group": GROUP, "version": API_VERSION, "namespace": self.namespace, "plural": PLURAL}

    def apply(self, wanted: Mapping[str, Any], *, dry_run: bool = False) -> Applied:
        """Has a service be as is wanted: makes it, changes it, or leaves it where nothing is different.

        What somebody else has set stays, also within a list of things that have names.

        Args:
            wanted: the service as a merge patch: what is None is not to be there.
            dry_run: have the cluster check everything, and change nothing.

        Raises:
            InputError: one of that name is not ours, or what the cluster says.
        """
        asked = {"_request_timeout": (CONNECT_SECONDS, READ_SECONDS), "field_manager": MANAGER}
        asked |= {"dry_run": "All"} if dry_run else {}
        name = wanted["metadata"]["name"]

        def once() -> Applied:
            there = self._find(name)
            if there is None:
                made = self._api.create_namespaced_custom_object(**self._kind, body=_onto(None, wanted), **asked)
                return Applied(made, None, MADE)
            if MODEL not in (there["metadata"].get("annotations") or {}):
                rule = "an InferenceService of the model's name must be one that kfp-vision made"
                raise InputError(rule, f"{name} in {self.namespace}", "Choose another model_name, or delete it.")
            if _holds(there, wanted):
                return Applied(there, there, SAME)
            change = _seen(_with_whole_lists(there, wanted), there)
            changed = self._api.patch_namespaced_custom_object(**self._kind, name=name, body=change, **asked)
            return Applied(changed, there, CHANGED)

        return self._until_nobody_is_faster(name, once)

    def take_back(self, applied: Applied) -> bool:
        """Has a service be as it was before it was changed, if it was, and nobody has changed it since.

        Returns:
            Whether there was something to take back.

        Raises:
            InputError: what the cluster says.
        """
        asked = {"_request_timeout": (CONNECT_SECONDS, READ_SECONDS), "field_manager": MANAGER}
        before = applied.before
        if applied.done != CHANGED or before is None:
            return False

        def once() -> bool:
            there = self._find(applied.name)
            if there is None or marks_of(there) != applied.marks:
                return False
            back = {"spec": _difference(there["spec"], before["spec"])}
            back["metadata"] = {"annotations": _difference(marks_of(there), marks_of(before))}
            self._api.patch_namespaced_custom_object(**self._kind, name=applied.name, body=_seen(back, there), **asked)
            return True

        return self._until_nobody_is_faster(applied.name, once)

    def find(self, name: str) -> dict[str, Any] | None:
        """A service that is ours; None where there is none of that name, or somebody else's.

        Raises:
            InputError: what the cluster says.
        """
        with self._answered():
            there = self._find(name)
        return there if there and MODEL in marks_of(there) else None

    def is_ready(self, service: Mapping[str, Any]) -> bool:
        """Whether a service answers as it is now written, and nothing else does in its place.

        Raises:
            InputError: what the cluster says.
        """
        return not self._lacks(service, marks_of(service))[0]

    def ready(self, applied: Applied, seconds: float) -> dict[str, Any]:
        """A service as soon as it is ready: the pods that are wanted answer, and no others.

        In Standard mode its Deployment says so, see `rollout`. Knative's `Ready` says it, but `observedGeneration` tells which
        state KServe has seen of what it made for the service, not of the service itself. So after a change another one than
        before is waited for; a change that left all of that as it was brings none, and then the state that lasts is the one.

        Args:
            applied: what came of `apply`.
            seconds: to wait at most.

        Raises:
            NotReady: it was not ready in time, or KServe can make nothing of it.
            InputError: it is gone, or what the cluster says.
        """
        service, start, told, why = applied.service, time.monotonic(), set[str](), ""
        stale = ((applied.before or {}).get("status") or {}).get("observedGeneration") if applied.done == CHANGED else None
        was_invalid = applied.done == CHANGED and rollout.is_invalid(applied.before or {})
        states = self._looks if rollout.is_standard(service) else self._states
        while (left := start + seconds - time.monotonic()) > 0:
            for service in states(applied.name, min(left, WATCH_SECONDS)):
                settled = time.monotonic() > start + SETTLE_SECONDS
                unseen = stale is not None and (service.get("status") or {}).get("observedGeneration") == stale
                if unseen and not settled and not rollout.is_standard(service):
                    continue
                lacks, deployment = self._lacks(service, applied.marks)
                if not lacks:
                    return service
                if rollout.is_invalid(service) and (settled or not was_invalid):
                    raise NotReady("; ".join(rollout.of_kserve(service)))
                why = self._reasons(service, deployment, applied.marks) or lacks
                if why not in told:
                    print(f"not ready yet: {why}", flush=True)
                    told.add(why)
        raise NotReady(why or "no word of the cluster about it")

    def _reasons(self, service: Mapping[str, Any], deployment: Mapping[str, Any] | None, marks: Mapping[str, str]) -> str:
        """Why a service is not ready: by its pods, and where these say nothing by KServe; empty where nobody does."""
        try:
            pods = self._pods(service["metadata"]["name"])
        except ApiException as error:
            return "; ".join([*rollout.of_kserve(service), f"its pods could not be read (HTTP {error.status})"])
        except (urllib3.exceptions.HTTPError, OSError):
            return ""
        return "; ".join(rollout.obstacles(deployment, pods, marks) or rollout.of_kserve(service))

    def answers_before(self, service: Mapping[str, Any]) -> bool:
        """Whether a model before the one that a service is to have goes on answering; false where nobody may look."""
        try:
            pods = self._pods(service["metadata"]["name"])
        except (ApiException, urllib3.exceptions.HTTPError, OSError):
            return False
        return rollout.answers_before(pods, marks_of(service))

    def others(self, name: str, marks: Mapping[str, str]) -> bool:
        """Whether a service has pods without some annotations, even such as are ending, in Standard mode.

        Knative sends requests to a revision by its name, whatever other pods there are.

        Raises:
            InputError: what the cluster says.
        """
        with self._answered():
            service = self._find(name)
            standard = service is not None and rollout.is_standard(service)
            return standard and any(not rollout.has(pod, marks) for pod in self._pods(name))

    def read_by_pods(self, name: str, annotation: str) -> set[str]:
        """The values that the pods of a service have of an annotation.

        Raises:
            InputError: what the cluster says.
        """
        with self._answered():
            found = [pod["metadata"].get("annotations") or {} for pod in self._pods(name)]
        return {annotations[annotation] for annotations in found if annotation in annotations}

    def image_of_this_stage(self) -> str:
        """The image of the container that this process runs in; empty outside of a stage's pod, or where nobody may look."""
        pod = os.environ.get(OWN_POD, "")
        if not (pod and is_within()):
            return ""
        try:
            answer = self._core.read_namespaced_pod(pod, self._own, **_raw())
        except (ApiException, urllib3.exceptions.HTTPError, OSError):
            return ""
        containers = json.loads(answer.data)["spec"]["containers"]
        return next((one["image"] for one in containers if one["name"] == STAGE_CONTAINER), "")

    def _until_nobody_is_faster(self, name: str, once: Callable[[], Any]) -> Any:
        """What a change gives, which is tried again where somebody else was faster.

        Raises:
            InputError: somebody always was, or what the cluster says.
        """
        for _ in range(CONFLICTS):
            with self._answered(), _unless_somebody_was_faster():
                return once()
        rule, found = "an InferenceService must hold still for as long as a change takes", f"{CONFLICTS} conflicts"
        raise InputError(rule, f"{found} at {name} in {self.namespace}", "See who else changes it, and try again.")

    def _find(self, name: str) -> dict[str, Any] | None:
        asked = {"_request_timeout": (CONNECT_SECONDS, READ_SECONDS)}
        return _found(lambda: self._api.get_namespaced_custom_object(**self._kind, name=name, **asked))

    def _deployment(self, service: Mapping[str, Any]) -> dict[str, Any] | None:
        """What KServe has made in Standard mode; None where there is none."""
        if not rollout.is_standard(service):
            return None
        name = rollout.deployment_of(service["metadata"]["name"])
        found = _found(lambda: self._apps.read_namespaced_deployment(name, self.namespace, **_raw()))
        return found and json.loads(found.data)

    def _pods(self, name: str) -> list[dict[str, Any]]:
        labelled = f"{rollout.OF_SERVICE}={name}"
        answer = self._core.list_namespaced_pod(self.namespace, label_selector=labelled, **_raw())
        return json.loads(answer.data)["items"]

    def _lacks(self, service: Mapping[str, Any], marks: Mapping[str, str]) -> tuple[str, dict[str, Any] | None]:
        """What a service waits for to be ready, empty where it waits for nothing; and its Deployment, if it has one."""
        if not rollout.is_standard(service):
            return ("" if _is_ready(service) else "no word of KServe about it"), None
        with self._answered(), _a_moment():
            deployment = self._deployment(service)
            unsaid = "" if _is_ready(service) else "KServe has not said yet that it is ready"
            return rollout.unfinished(deployment, marks) or unsaid, deployment
        return "Kubernetes did not answer for a moment", None

    def _looks(self, name: str, seconds: float) -> Iterator[dict[str, Any]]:
        """The state of a service now and again, in a while; where the cluster is gone for a moment, none.

        A Deployment moves while its InferenceService stays as it is, so that there is nothing to watch the latter for.
        """
        until = time.monotonic() + seconds
        with self._answered(), _a_moment():
            while True:
                there = self._find(name)
                if there is None:
                    raise self._gone(name)
                yield there
                if (left := until - time.monotonic()) <= 0:
                    return
                time.sleep(min(POLL_SECONDS, left))

    def _states(self, name: str, seconds: float) -> Iterator[dict[str, Any]]:
        """The state of a service now, and each that it gets in a while; where the cluster is gone for a moment, none."""
        with self._answered(), _a_moment():
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

    @contextlib.contextmanager
    def _answered(self) -> Iterator[None]:
        """Turns what the client raises into one line."""
        try:
            yield
        except ApiException as error:
            said = _message(error)
            if error.status == 401 or (error.status == 403 and " cannot " in said):  # and no webhook or quota that says no
                rule, remedy = "deploy_to=kserve must be allowed to the service account that runs the stages", self._right(said)
            elif error.status == 404:
                rule = "the cluster must have KServe, and the namespace"
                remedy = "Install it, or set service_namespace of advanced."
            else:
                rule = "the cluster must take the InferenceService"
                remedy = "Change what it names, or ask who runs the cluster."
            raise InputError(rule, f"HTTP {error.status} in {self.namespace} ({said})", remedy) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            reason = type(getattr(error, "reason", None) or error).__name__
            raise InputError("the cluster must answer", reason, "Check the way to it, and its configuration.") from None

    def _right(self, said: str) -> str:
        """What gives an account the right that it lacks: a role in its own namespace, and in another one a binding besides."""
        if self.namespace == self._own:
            return "Apply the roles in manifests/: kubectl apply -k manifests."
        account = (found[1] if (found := ACCOUNT.search(said)) else f"{self._own}:pipeline-runner").rstrip(".")
        binding = "create rolebinding kfp-vision-deployers --role=kfp-vision-stages"
        apply = f"kubectl apply -n {self.namespace} -k manifests/base"
        return f"Give it the role there: {apply}; kubectl -n {self.namespace} {binding} --serviceaccount={account}."


def is_within() -> bool:
    """Whether this process runs in a cluster."""
    return bool(os.environ.get(ADDRESS))


def configured() -> tuple[Any, str]:
    """How the cluster is reached, and the namespace that is meant where none is named.

    Raises:
        ConfigException, OSError: no cluster is known here.
    """
    configuration, file = client.Configuration(), os.environ.get("KUBECONFIG") or None
    if file is None and is_within():
        config.load_incluster_config(client_configuration=configuration)
        return configuration, NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    config.load_kube_config(config_file=file, client_configuration=configuration)
    _, context = config.list_kube_config_contexts(config_file=file)
    return configuration, context["context"].get("namespace", "default")


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


def _found(ask: Callable[[], Any]) -> Any:
    """What is asked for; None where it is not there."""
    try:
        return ask()
    except ApiException as error:
        if error.status != 404:
            raise
        return None


def _raw() -> dict[str, Any]:
    """How Kubernetes' own objects are asked for: as they come, since a class of the client refuses what it does not know."""
    return {"_preload_content": False, "_request_timeout": (CONNECT_SECONDS, READ_SECONDS)}


def _seen(change: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, Any]:
    """A change that is refused where somebody else has changed a service since it was looked at."""
    return {**change, "metadata": {**change["metadata"], "resourceVersion": there["metadata"]["resourceVersion"]}}


def _holds(there: Any, wanted: Any) -> bool:
    """Whether all that is wanted is there; what others have added besides does not matter."""
    if wanted is None:
        return there is None
    if isinstance(wanted, Mapping):
        found = {} if there is None else there
        return isinstance(found, Mapping) and all(_holds(found.get(key), value) for key, value in wanted.items())
    if key := _key_of(wanted):
        by_key = {one.get(key): one for one in there or []}
        return all(one[key] in by_key and _holds(by_key[one[key]], one) for one in wanted)
    return there == wanted


def _onto(there: Any, wanted: Any) -> Any:
    """What is there, changed so that all that is wanted is there, and what is None is not."""
    if isinstance(wanted, Mapping):
        found = dict(there) if isinstance(there, Mapping) else {}
        found |= {key: _onto(found.get(key), value) for key, value in wanted.items()}
        return {key: value for key, value in found.items() if key not in wanted or wanted[key] is not None}
    if key := _key_of(wanted):
        changed = {one.get(key): one for one in there or []}
        changed |= {one[key]: _onto(changed.get(one[key]), one) for one in wanted}
        return list(changed.values())
    return wanted


def _with_whole_lists(there: Any, wanted: Any) -> Any:
    """A merge patch whose lists hold what others have put there as well: the patch replaces a list."""
    if isinstance(wanted, Mapping):
        found = there if isinstance(there, Mapping) else {}
        return {key: _with_whole_lists(found.get(key), value) for key, value in wanted.items()}
    return _onto(there, wanted) if _key_of(wanted) else wanted


def _difference(now: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    """The merge patch that makes what was of what is."""
    change: dict[str, Any] = dict.fromkeys(now.keys() - then.keys())
    for key, value in then.items():
        if isinstance(value, Mapping) and isinstance(now.get(key), Mapping):
            change[key] = _difference(now[key], value)
        elif key not in now or now[key] != value:
            change[key] = value
    return change


def _key_of(wanted: Any) -> str:
    """By what the things in a list are told apart; empty where it is no list, or one of plain values."""
    if not isinstance(wanted, list) or not all(isinstance(one, Mapping) for one in wanted):
        return ""
    return next((key for key in KEYS if wanted and all(key in one for one in wanted)), "")


def _is_ready(service: Mapping[str, Any]) -> bool:
    conditions = (service.get("status") or {}).get("conditions") or []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
