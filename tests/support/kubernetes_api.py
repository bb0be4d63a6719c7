"""An API server of Kubernetes for InferenceServices and the objects that KServe creates, with a controller that takes steps.

In Standard mode it behaves as KServe 0.20.0 was observed to on Kubernetes 1.34: `Ready` of the InferenceService is what
`PropagateRawStatus` derives from the Deployment, and so stays True as long as any pod is available.
"""

import contextlib
import copy
import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from support import published_schemas

NAMESPACE = "models"
BEGIN = f"/apis/serving.kserve.io/v1beta1/namespaces/{NAMESPACE}/inferenceservices"
DEPLOYMENTS, PODS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments", f"/api/v1/namespaces/{NAMESPACE}/pods"
VERBS = {"POST": "create", "PATCH": "patch", "GET": "get"}
MODE = "serving.kserve.io/deploymentMode"
NUMBERS = count(1)  # of pods
TICK = 0.02  # seconds between two states of a watched service


class Refusal(Exception):
    """An error answer with a Status object."""

    def __init__(self, code: int, reason: str, message: str):
        super().__init__(message)
        self.code = code
        self.status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason}
        self.status["message"] = message


def condition(kind: str, status: str, **more: str) -> dict[str, str]:
    return {"type": kind, "status": status, **more}


def becomes_ready(service: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the statuses of a service that KServe writes in turn in Knative mode, with their own observed generation."""
    generation = service["metadata"]["generation"]
    address = {"address": {"url": f"http://{service['metadata']['name']}.{NAMESPACE}.svc.cluster.local"}}
    waiting = condition("Ready", "Unknown", reason="PredictorNotReady")
    ready = {"conditions": [condition("PredictorReady", "True"), condition("Ready", "True")]}
    url = f"http://{service['metadata']['name']}.example.org/{generation}"
    return [
        {"observedGeneration": generation + 3, "conditions": [waiting]},
        {"observedGeneration": generation + 3, **ready, "url": url, **address},
    ]


@dataclass
class Cluster:
    """The objects of the server, and its simulated faults.

    Attributes:
        mode: the deployment mode of KServe, Standard or Knative.
        controller: in Knative mode, returns the successive statuses of a changed service.
        trouble: in Standard mode, changes the Deployment and its new pod, which then never becomes ready.
        lingers: in Standard mode, how often a terminating pod is still listed.
        more: in Standard mode, the status that KServe writes for a service that it rejects.
        stages: the container images of the pods of a run, by pod name.
        deployments, pods: by the name of their service.
        beside: number of uses of each (resource, verb) other than InferenceServices.
        defaults: changes a new service, as the webhooks of KServe do.
        denied: verbs that the caller must not use.
        rivals: how many times another client changes a service between a read and a patch.
        broken: failures of watches before they work: a status code, or 0 for a dropped connection.
        loses: services that are deleted while being watched.
        missing: whether KServe is not installed.
        services: by name.
        asked: number of uses of each verb, without dry runs.
        tried: number of dry runs.
        looks: the InferenceService, the Deployment and the names of the pods at each read of the Deployment.
    """

    mode: str = "Standard"
    controller: Callable[[Mapping[str, Any]], list[dict[str, Any]]] = becomes_ready
    trouble: Callable[[dict[str, Any], dict[str, Any]], None] | None = None
    lingers: int = 1
    more: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)
    defaults: Callable[[dict[str, Any]], None] = lambda service: None
    denied: set[str] = field(default_factory=set)
    rivals: int = 0
    broken: list[int] = field(default_factory=list)
    loses: set[str] = field(default_factory=set)
    missing: bool = False
    services: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    tried: int = 0
    deployments: dict[str, dict[str, Any]] = field(default_factory=dict)
    pods: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    beside: Counter[tuple[str, str]] = field(default_factory=Counter)
    looks: list[tuple[dict[str, Any], dict[str, Any] | None, list[str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._version = 1000
        self._events: list[tuple[int, str, dict[str, Any]]] = []
        self._coming: dict[str, deque[dict[str, Any]]] = {}
        self._steps: dict[str, deque[Callable[[], None]]] = {}
        self._listed: Counter[str] = Counter()
        self._lock = threading.RLock()
        self.closing = threading.Event()

    def allow(self, verb: str, dry: bool) -> None:
        with self._lock:
            self.asked[verb] += not dry
            self.tried += dry
            if self.missing:
                raise Refusal(404, "NotFound", "the server could not find the requested resource")
            if verb in self.denied:
                who = f'User "system:serviceaccount:{NAMESPACE}:pipeline-runner" cannot {verb} resource "inferenceservices"'
                raise Refusal(403, "Forbidden", f"inferenceservices.serving.kserve.io is forbidden: {who}")

    def allow_beside(self, resource: str, verb: str) -> None:
        with self._lock:
            self.beside[resource, verb] += 1
            if f"{verb} {resource}" in self.denied:
                who = f'User "system:serviceaccount:{NAMESPACE}:pipeline-runner" cannot {verb} resource "{resource}"'
                raise Refusal(403, "Forbidden", f"{resource} is forbidden: {who}")

    def deployment(self, name: str) -> dict[str, Any]:
        """Returns a Deployment, after advancing its rollout by one step."""
        with self._lock:
            service = name.removesuffix("-predictor")
            if self._steps.get(service):
                self._steps[service].popleft()()
            found = copy.deepcopy(self.deployments.get(service))
            pods = [pod["metadata"]["name"] for pod in self.pods.get(service, [])]
            self.looks.append((copy.deepcopy(self.services.get(service, {})), found, pods))
            if found is None:
                raise Refusal(404, "NotFound", f'deployments.apps "{name}" not found')
            return found

    def pod_list(self, selector: str) -> dict[str, Any]:
        with self._lock:
            label, _, name = selector.partition("=")
            assert label == "serving.kserve.io/inferenceservice"
            listed = copy.deepcopy(self.pods.get(name, []))
            for pod in self.pods.get(name, []):
                self._listed[pod["metadata"]["name"]] += "deletionTimestamp" in pod["metadata"]
            there = self.pods.get(name, [])
            self.pods[name] = [pod for pod in there if self._listed[pod["metadata"]["name"]] < self.lingers]
            return {"kind": "PodList", "apiVersion": "v1", "items": listed}

    def get(self, name: str) -> dict[str, Any]:
        with self._lock:
            if name not in self.services:
                raise Refusal(404, "NotFound", f'inferenceservices.serving.kserve.io "{name}" not found')
            return copy.deepcopy(self.services[name])

    def create(self, service: dict[str, Any], dry: bool) -> dict[str, Any]:
        with self._lock:
            name = service["metadata"]["name"]
            if name in self.services:
                raise Refusal(409, "AlreadyExists", f'inferenceservices.serving.kserve.io "{name}" already exists')
            self._admit(service)
            service["metadata"] |= {"namespace": NAMESPACE, "generation": 1}
            return service if dry else self._store("ADDED", service, reconcile=True)

    def patch(self, name: str, change: dict[str, Any], dry: bool) -> dict[str, Any]:
        with self._lock:
            before = self.get(name)
            if self.rivals and not dry:
                self.rivals -= 1
                before["metadata"].setdefault("labels", {})["rivals"] = str(self.rivals)
                self._store("MODIFIED", before)
            expected_version = change["metadata"].get("resourceVersion", before["metadata"]["resourceVersion"])
            if expected_version != self.get(name)["metadata"]["resourceVersion"]:
                raise Refusal(409, "Conflict", "the object has been modified; please apply your changes to the latest version")
            after = merged(before, change)
            self._admit(after)
            if dry or after == before:
                return after
            changed = after["spec"] != before["spec"]
            after["metadata"]["generation"] += changed
            annotated = after["metadata"].get("annotations") != before["metadata"].get("annotations")
            return self._store("MODIFIED", after, reconcile=changed or annotated)

    def delete(self, name: str) -> None:
        with self._lock:
            self._store("DELETED", self.services[name])
            del self.services[name]

    def watch(self, name: str, since: int, seconds: float) -> Iterator[dict[str, Any]]:
        """Yields the events of a service after a version; the controller advances when there are none."""
        if self.broken:
            code = self.broken.pop()
            if not code:
                raise ConnectionAbortedError
            yield {"type": "ERROR", "object": Refusal(code, "Expired", "too old resource version").status}
            return
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.closing.is_set():
            with self._lock:
                new = [event for event in self._events if event[0] > since and event[2]["metadata"]["name"] == name]
                if not new and name in self.loses:
                    self.loses.remove(name)
                    self.delete(name)
                elif not new and self._coming.get(name):
                    service = self.get(name)
                    service["status"] = self._coming[name].popleft()
                    self._store("MODIFIED", service)
            for version, kind, service in new:
                since = version
                yield {"type": kind, "object": service}
            self.closing.wait(TICK)

    def _admit(self, service: dict[str, Any]) -> None:
        if self.mode == "Standard":
            service["metadata"].setdefault("annotations", {})[MODE] = self.mode
        self.defaults(service)
        if faults := published_schemas.faults({key: value for key, value in service.items() if key != "status"}):
            raise Refusal(400, "BadRequest", f"strict decoding error: {'; '.join(faults)}")

    def _store(self, kind: str, service: dict[str, Any], reconcile: bool = False) -> dict[str, Any]:
        self._version += 1
        service["metadata"]["resourceVersion"] = str(self._version)
        name = service["metadata"]["name"]
        self.services[name] = copy.deepcopy(service)
        self._events.append((self._version, kind, copy.deepcopy(service)))
        if reconcile and self.mode == "Standard":
            self._steps[name] = deque(self._rollout(name))
        elif reconcile:
            self._coming[name] = deque(self.controller(service))
        return service

    def _rollout(self, name: str) -> list[Callable[[], None]]:
        """Returns the steps of the rollout of a Deployment and its pods."""
        before = self.deployments.get(name)
        old = self.pods.get(name, [])[:1] if before else []
        service = self.services[name]
        marks = {key: value for key, value in service["metadata"]["annotations"].items() if key.startswith("kfp-vision/")}
        pod = new_pod(name, service, marks)
        back = next(
            (item for item in self.pods.get(name, []) if item["metadata"]["annotations"] == marks and is_ready(item)), None
        )
        deployment = copy.deepcopy(before) or {
            "metadata": {"name": f"{name}-predictor", "generation": 0},
            "spec": {"replicas": 1},
            "status": {"conditions": []},
        }

        def made() -> None:
            deployment["spec"]["template"] = {"metadata": {"annotations": marks}}
            deployment["metadata"]["generation"] += 1
            self.deployments[name] = deployment

        def observe(**counts: int) -> Callable[[], None]:
            def update_status() -> None:
                status = deployment["status"]
                status["observedGeneration"] = deployment["metadata"]["generation"]
                kept = [
                    item for item in status["conditions"] if item["type"] not in ("Available", "Progressing", "ReplicaFailure")
                ]
                enough = counts["availableReplicas"] >= 1
                available = ("True", "MinimumReplicasAvailable") if enough else ("False", "MinimumReplicasUnavailable")
                done = set(counts.values()) == {1}
                progress = "NewReplicaSetAvailable" if done else "ReplicaSetUpdated"
                kept += [
                    condition("Available", available[0], reason=available[1], message="Deployment minimum availability"),
                    condition("Progressing", "True", reason=progress, message="a ReplicaSet"),
                ]
                deployment["status"] = {**status, **counts, "conditions": kept}
                self._propagate(name)

            return update_status

        def starts() -> None:
            self.pods[name] = [*old, pod]
            observe(replicas=1 + len(old), updatedReplicas=1, availableReplicas=len(old))()

        def goes_wrong() -> None:
            assert self.trouble
            self.trouble(deployment, pod)
            self.pods[name] = [*old, *([pod] if pod["status"] else [])]
            self._propagate(name)

        def gets_ready() -> None:
            pod["status"] = {"phase": "Running", "conditions": [condition("Ready", "True")]}
            observe(replicas=1 + len(old), updatedReplicas=1, availableReplicas=1 + len(old))()

        def ends() -> None:
            for item in old:
                item["metadata"]["deletionTimestamp"] = "2026-11-28T06:00:00Z"
            observe(replicas=1, updatedReplicas=1, availableReplicas=1)()

        def goes_back() -> None:
            self.pods[name] = [back]
            observe(replicas=1, updatedReplicas=1, availableReplicas=1)()

        def nothing() -> None:
            """KServe has not reacted yet."""

        def says_no() -> None:
            self._store(
                "MODIFIED", {**copy.deepcopy(self.services[name]), "status": {**(service.get("status") or {}), **self.more}}
            )

        if self.more:
            return [nothing, says_no]
        if back is not None:  # its pod still exists
            return [nothing, made, observe(replicas=2, updatedReplicas=1, availableReplicas=1), goes_back]
        if self.trouble:
            return [nothing, made, starts, goes_wrong]
        return [nothing, made, starts, gets_ready, ends]

    def _propagate(self, name: str) -> None:
        """Updates the status like `PropagateRawStatus` of KServe 0.20.0, as far as relevant here."""
        service, deployment = copy.deepcopy(self.services[name]), self.deployments[name]
        found = {item["type"]: item for item in deployment["status"]["conditions"]}
        available, progress, failure = (found.get(kind) for kind in ("Available", "Progressing", "ReplicaFailure"))
        source_condition = {"status": "False"}
        if available and available["status"] == "True":
            source_condition = available
        if progress and progress["status"] == "False":
            source_condition = {**progress, "status": "False"}
        elif progress and progress["reason"] == "NewReplicaSetAvailable":
            source_condition = progress
        if available and available["status"] == "False":
            source_condition = available
        if failure and failure["status"] == "True":
            source_condition = {**failure, "status": "False"}
        details = {key: source_condition[key] for key in ("status", "reason", "message") if key in source_condition}
        service["status"] = {
            "deploymentMode": "Standard",
            "observedGeneration": deployment["status"]["observedGeneration"],
            "conditions": [
                {"type": "IngressReady", "status": "True"},
                {"type": "PredictorReady", **details},
                {"type": "Ready", **details},
                {"type": "Stopped", "status": "False", "severity": "Info"},
            ],
            "url": f"http://{name}-{NAMESPACE}.example.com",
            "address": {"url": f"http://{name}-predictor.{NAMESPACE}.svc.cluster.local"},
        }
        self._store("MODIFIED", service)


def new_pod(name: str, service: Mapping[str, Any], marks: dict[str, str]) -> dict[str, Any]:
    predictor = service["spec"]["predictor"]
    container = {**(predictor.get("containers") or [predictor.get("model")])[0], "name": "kserve-container"}
    container.setdefault("image", "tensorflow/serving:2.6.2")
    container["resources"] = {"limits": {"cpu": "1", "memory": "2Gi", **(container.get("resources") or {}).get("limits", {})}}
    return {
        "metadata": {"name": f"{name}-predictor-{next(NUMBERS)}", "annotations": marks},
        "spec": {"initContainers": [{"name": "storage-initializer"}], "containers": [container]},
        "status": {"phase": "Pending", "conditions": [condition("PodScheduled", "True"), condition("Ready", "False")]},
    }


def is_ready(pod: Mapping[str, Any]) -> bool:
    return condition("Ready", "True") in pod["status"].get("conditions", [])


def merged(there: Any, change: Any) -> Any:
    """Applies a JSON merge patch (RFC 7386)."""
    if not isinstance(change, dict):
        return change
    found = dict(there) if isinstance(there, dict) else {}
    for key, value in change.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = merged(found.get(key), value)
    return found


def is_watch(asked: Mapping[str, str]) -> bool:
    """Returns whether a query asks for a watch; Kubernetes also accepts `True`, as Python writes it."""
    return asked.get("watch", "").lower() == "true"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Logs nothing."""

    def do_GET(self) -> None:
        asked = self._asked()
        if is_watch(asked):
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._answering(lambda cluster, path: self._stream(cluster, asked))
        else:
            self._answering(self._read)

    def _read(self, cluster: Cluster, path: str) -> dict[str, Any]:
        name = path.rpartition("/")[2]
        if path == PODS:
            return cluster.pod_list(self._asked()["labelSelector"])
        if path.startswith(f"{PODS}/"):
            return {"metadata": {"name": name}, "spec": {"containers": [{"name": "main", "image": cluster.stages[name]}]}}
        return cluster.deployment(name) if path.startswith(DEPLOYMENTS) else cluster.get(name)

    def do_POST(self) -> None:
        self._answering(lambda cluster, path: cluster.create(self._body(), "dryRun" in self._asked()))

    def do_PATCH(self) -> None:
        def patch(cluster: Cluster, path: str) -> dict[str, Any]:
            body = self._body()
            if self.headers["Content-Type"] != "application/merge-patch+json":
                raise Refusal(415, "UnsupportedMediaType", "send a merge patch")
            return cluster.patch(path.rpartition("/")[2], body, "dryRun" in self._asked())

        self._answering(patch)

    def _asked(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}

    def _body(self) -> dict[str, Any]:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def _answering(self, answer: Callable[[Cluster, str], dict[str, Any] | None]) -> None:
        cluster, path = self.server.cluster, urlsplit(self.path).path
        asked = self._asked()
        try:
            if path.startswith((DEPLOYMENTS, PODS)):
                verb = "list" if path == PODS else "get"
                cluster.allow_beside("deployments" if path.startswith(DEPLOYMENTS) else "pods", verb)
            elif f"/namespaces/{NAMESPACE}/" not in path:
                who = f'User "system:serviceaccount:{NAMESPACE}:pipeline-runner" cannot get resource "inferenceservices"'
                raise Refusal(403, "Forbidden", f"inferenceservices.serving.kserve.io is forbidden: {who}")
            elif not path.startswith(BEGIN):
                raise Refusal(404, "NotFound", f"nothing at {path}")
            else:
                cluster.allow("watch" if is_watch(asked) else VERBS[self.command], "dryRun" in asked)
            content, code = answer(cluster, path), 201 if self.command == "POST" else 200
        except Refusal as refusal:
            content, code = refusal.status, refusal.code
        if content is not None:
            self._say(code, content)

    def _say(self, code: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def _stream(self, cluster: Cluster, asked: Mapping[str, str]) -> None:
        """Sends lines in chunks: the client returns an answer of known length only when complete."""
        self.close_connection = True
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")
        self.end_headers()
        name = asked["fieldSelector"].removeprefix("metadata.name=")
        try:
            for event in cluster.watch(name, int(asked["resourceVersion"]), float(asked["timeoutSeconds"])):
                line = json.dumps(event).encode() + b"\n"
                self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
                self.wfile.flush()
        except ConnectionAbortedError:
            return  # no final chunk
        self.wfile.write(b"0\r\n\r\n")


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, cluster: Cluster):
        self.cluster = cluster
        super().__init__(("127.0.0.1", 0), Handler)


@contextlib.contextmanager
def running(cluster: Cluster, configuration: Path) -> Iterator[Cluster]:
    """Runs the server during the context, with a kubeconfig file."""
    with Server(cluster) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        context = {"cluster": "tests", "user": "tests", "namespace": NAMESPACE}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "tests",
            "clusters": [{"name": "tests", "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"}}],
            "users": [{"name": "tests", "user": {"token": "the-token-of-the-tests"}}],
            "contexts": [{"name": "tests", "context": context}],
        }
        configuration.write_text(yaml.safe_dump(content))
        try:
            yield cluster
        finally:
            cluster.closing.set()
            server.shutdown()
            thread.join()
