"""An API server of Kubernetes for the jobs of a training with several workers, with controllers that take scripted steps.

It behaves as Kubeflow Trainer 2.3.0 and JobSet 0.12.0 were seen to on Kubernetes 1.34: conditions stay empty while a job runs
or starts again; a restart replaces the pods, and takes their logs along; what the API refuses below a TrainJob is an event
only; a TrainJob that is created right after another of its name was deleted gets the conditions of that one's JobSet.
"""

import contextlib
import copy
import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from support import published_schemas
from support.kubernetes_api import Refusal, condition

NAMESPACE = "team-a"
STAGE_POD = "run-1-train-pod"
GROUPS = {"trainjobs": "trainer.kubeflow.org/v1alpha1", "tfjobs": "kubeflow.org/v1"}
Step = Callable[["TrainingCluster", dict[str, Any]], None]


@dataclass
class TrainingCluster:
    """The objects of the server.

    Attributes:
        steps: what the controllers do to a new job, one step at each look at it.
        kinds: plural names of the jobs that the cluster knows.
        denied: `VERB RESOURCE` that the caller must not use.
        runtimes: names of the TrainingRuntimes.
        jobs, jobsets: by name.
        pods: of all jobs.
        events: of the namespace.
        batch_jobs: Jobs by name.
        logs: lines by pod.
        deletions: (name, body) of each deletion of a job.
        queries: of each creation.
        broken: status and body of the next answers, of whatever is between the caller and the API.
    """

    steps: list[Step] = field(default_factory=list)
    kinds: set[str] = field(default_factory=lambda: set(GROUPS))
    denied: set[str] = field(default_factory=set)
    runtimes: set[str] = field(default_factory=lambda: {"kfp-vision"})
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    jobsets: dict[str, dict[str, Any]] = field(default_factory=dict)
    pods: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    batch_jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    logs: dict[str, list[str]] = field(default_factory=dict)
    deletions: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    queries: list[dict[str, list[str]]] = field(default_factory=list)
    broken: list[tuple[int, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._numbers, self._lock = count(1), threading.RLock()
        self._coming: dict[str, deque[Step]] = {}
        owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "run-1", "uid": "w", "controller": True}
        self.stage = {
            "metadata": {
                "name": STAGE_POD,
                "labels": {"pipeline/runid": "run-id-1"},
                "annotations": {"workflows.argoproj.io/node-name": "run-1.root.train.executor(0)"},
                "ownerReferences": [owner],
            },
            "spec": {
                "containers": [{"name": "wait", "image": "argo"}, {"name": "main", "image": "registry/kfp-vision-gpu:0.1.0"}]
            },
        }

    def create(self, job: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            name = job["metadata"]["name"]
            if name in self.jobs:
                raise Refusal(409, "AlreadyExists", f'"{name}" already exists')
            if faults := published_schemas.faults(job):
                raise Refusal(400, "BadRequest", f"strict decoding error: {'; '.join(faults)}")
            job["metadata"]["uid"] = f"uid-{next(self._numbers)}"
            self.jobs[name] = copy.deepcopy(job)
            self._coming[name] = deque(self.steps)
            return job

    def look(self, name: str) -> dict[str, Any]:
        """Returns a job, after the controllers' next step."""
        with self._lock:
            if name not in self.jobs:
                raise Refusal(404, "NotFound", f'"{name}" not found')
            if self._coming.get(name):
                self._coming[name].popleft()(self, self.jobs[name])
            if name not in self.jobs:
                raise Refusal(404, "NotFound", f'"{name}" not found')
            return copy.deepcopy(self.jobs[name])

    def repeat(self, job: dict[str, Any], step: Step) -> None:
        """Takes a step again at the next look."""
        self._coming[job["metadata"]["name"]].appendleft(step)

    def delete(self, name: str, body: dict[str, Any]) -> None:
        with self._lock:
            self.deletions.append((name, body))
            if self.jobs.pop(name, None) is None:
                raise Refusal(404, "NotFound", f'"{name}" not found')

    def add_pod(self, job: dict[str, Any], rank: int, phase: str = "Pending", **status: Any) -> dict[str, Any]:
        name = job["metadata"]["name"]
        labels = {"jobset.sigs.k8s.io/jobset-name": name, "batch.kubernetes.io/job-completion-index": str(rank)}
        if job["kind"] == "TFJob":
            labels = {"training.kubeflow.org/job-name": name, "training.kubeflow.org/replica-index": str(rank)}
        pod = {
            "metadata": {"name": f"{name}-node-0-{rank}-{next(self._numbers):05}", "labels": labels},
            "status": {"phase": phase, **status},
        }
        self.pods.append(pod)
        return pod

    def pods_of(self, job: dict[str, Any]) -> list[dict[str, Any]]:
        return [pod for pod in self.pods if job["metadata"]["name"] in pod["metadata"]["labels"].values()]

    def warn(self, kind: str, name: str, reason: str, message: str) -> None:
        at = f"2026-11-29T12:00:{next(self._numbers):02}Z"
        about = {"kind": kind, "name": name}
        self.events.append(
            {
                "metadata": {},
                "type": "Warning",
                "involvedObject": about,
                "reason": reason,
                "message": message,
                "lastTimestamp": at,
            }
        )


def starts(cluster: TrainingCluster, job: dict[str, Any]) -> None:
    """Creates the JobSet and the pods of two workers."""
    name = job["metadata"]["name"]
    cluster.jobsets[name] = {"metadata": {"name": name, "ownerReferences": [{"uid": job["metadata"]["uid"]}]}, "status": {}}
    for rank in range(2):
        cluster.add_pod(job, rank)


def runs(cluster: TrainingCluster, job: dict[str, Any]) -> None:
    for pod in cluster.pods_of(job):
        pod["status"] = {"phase": "Running"}


def says(*lines: str) -> Step:
    """Lets the first worker print."""

    def step(cluster: TrainingCluster, job: dict[str, Any]) -> None:
        first = next(
            pod for pod in cluster.pods_of(job) if pod["metadata"]["name"].startswith(f"{job['metadata']['name']}-node-0-0")
        )
        kept = cluster.logs.setdefault(first["metadata"]["name"], [])
        kept += [f"2026-11-29T12:00:00.{len(kept) + number:09}Z {line}" for number, line in enumerate(lines)]

    return step


def fails(rank: int, status: int, reason: str = "Error", message: str = "") -> Step:
    """Ends a worker's container with an exit status; the other one says a second later that a worker was lost."""

    def step(cluster: TrainingCluster, job: dict[str, Any]) -> None:
        ends = {rank: (status, reason, message, 1), 1 - rank: (138, "Error", "error: all workers must stay", 2)}
        for at, pod in enumerate(cluster.pods_of(job)):
            code, why, text, second = ends[at]
            ended = {"exitCode": code, "reason": why, "message": text, "finishedAt": f"2026-11-29T12:00:0{second}Z"}
            pod["status"] = {"phase": "Failed", "containerStatuses": [{"state": {"terminated": ended}}]}

    return step


def restarts(cluster: TrainingCluster, job: dict[str, Any]) -> None:
    """Replaces all pods, as JobSet's BlockingRecreate does; the TrainJob shows nothing of it."""
    jobset = cluster.jobsets[job["metadata"]["name"]]
    jobset["status"]["restarts"] = jobset["status"].get("restarts", 0) + 1
    cluster.pods = [pod for pod in cluster.pods if pod not in cluster.pods_of(job)]
    for rank in range(2):
        cluster.add_pod(job, rank, "Running")


def ends(kind: str, reason: str, message: str = "") -> Step:
    """Sets the last condition."""

    def step(cluster: TrainingCluster, job: dict[str, Any]) -> None:
        job["status"] = {"conditions": [condition(kind, "True", reason=reason, message=message)]}

    return step


completes = ends("Complete", "AllJobsCompleted", "jobset completed successfully")


def waits(cluster: TrainingCluster, job: dict[str, Any]) -> None:
    """Does nothing."""


@contextlib.contextmanager
def serving(cluster: TrainingCluster, folder: Path) -> Iterator[Path]:
    """Serves the cluster; yields the configuration file for its clients."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer("get")

        def do_POST(self) -> None:
            self._answer("create")

        def do_DELETE(self) -> None:
            self._answer("delete")

        def log_message(self, *_: object) -> None:
            """Prints nothing."""

        def _answer(self, verb: str) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
            parts = urlsplit(self.path)
            if cluster.broken:
                self._send(*cluster.broken.pop(0))
                return
            try:
                answer = self._route(verb, parts.path.strip("/").split("/"), parse_qs(parts.query), body)
                code, content = 200, answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            except Refusal as refusal:
                code, content = refusal.code, json.dumps(refusal.status).encode()
            self._send(code, content)

        def _send(self, code: int, content: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _route(self, verb: str, path: list[str], query: dict[str, list[str]], body: dict[str, Any]) -> Any:
            match path:
                case ["apis", "authorization.k8s.io", "v1", "selfsubjectaccessreviews"]:
                    asked = body["spec"]["resourceAttributes"]
                    resource = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
                    return {"status": {"allowed": f"{asked['verb']} {resource}" not in cluster.denied}}
                case ["apis", group, version]:
                    names = [plural for plural in cluster.kinds if GROUPS[plural] == f"{group}/{version}"]
                    if not names:
                        raise Refusal(404, "NotFound", "the server could not find the requested resource")
                    return {"resources": [{"name": name} for name in names]}
            namespace, plural, *rest = path[path.index("namespaces") + 1 :]
            name, verb = rest[0] if rest else "", "list" if verb == "get" and not rest else verb
            resource = "/".join([plural, *rest[1:]])
            if namespace != NAMESPACE or f"{verb} {resource}" in cluster.denied:
                who = f'User "system:serviceaccount:{NAMESPACE}:pipeline-runner" cannot {verb} resource "{resource}"'
                raise Refusal(403, "Forbidden", f"{resource} is forbidden: {who}")
            match verb, resource:
                case "create", "trainjobs" | "tfjobs":
                    cluster.queries.append(query)
                    return cluster.create(body)
                case "get", "trainjobs" | "tfjobs":
                    return cluster.look(name)
                case "delete", "trainjobs" | "tfjobs":
                    cluster.delete(name, body)
                    return {}
                case "get", "jobsets" if name in cluster.jobsets:
                    return cluster.jobsets[name]
                case "get", "jobs" if name in cluster.batch_jobs:
                    return cluster.batch_jobs[name]
                case "get", "trainingruntimes" if name in cluster.runtimes:
                    return {"metadata": {"name": name}}
                case "list", "pods":
                    label, _, value = query["labelSelector"][0].partition("=")
                    return {"items": [pod for pod in cluster.pods if pod["metadata"]["labels"].get(label) == value]}
                case "get", "pods" if name == STAGE_POD:
                    return cluster.stage
                case "get", "pods/log":
                    assert query["follow"] == query["timestamps"] == ["true"]
                    return "".join(f"{line}\n" for line in cluster.logs.get(name, ())).encode(errors="surrogateescape")
                case "list", "events":
                    return {"items": cluster.events}
            raise Refusal(404, "NotFound", f'{resource} "{name}" not found')

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    named = {"name": "it", "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"}}
    context = {"name": "it", "context": {"cluster": "it", "user": "it", "namespace": NAMESPACE}}
    users = [{"name": "it", "user": {"token": "t"}}]
    file = folder / "kubeconfig"
    file.write_text(yaml.safe_dump({"current-context": "it", "clusters": [named], "contexts": [context], "users": users}))
    try:
        yield file
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
