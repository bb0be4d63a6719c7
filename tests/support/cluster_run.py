"""A run on a cluster: servers for the APIs of Kubernetes, with the workflow, pods and logs, and of KFP, on one port.

Objects have the form of Argo Workflows 4.0.5 with KFP 2.17.0: with KFP's `templateDefaults` every node is a `Retry` around its
attempts, `NAME(0)`, and a pod is named after workflow, template and the hash of its node. KFP lists nodes, not pods, in
`child_tasks`, and has neither pod nor error of a task. Its endpoint for logs sends status 200 before it reads the log.
"""

import base64
import contextlib
import copy
import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from kfp_vision.reports import run_state

NAMESPACE, ACCOUNT = "kubeflow", "system:serviceaccount:kubeflow:kfp-vision-stages"
RUN, WORKFLOW, NAME = "8a2f", "image-classification-x7k2p", "flowers of <Monday>"
OWN = f"{WORKFLOW}-metadata-0-2-system-container-impl-1"  # the pod of this process
IMAGE = "registry.example.org/kfp-vision-gpu:2.0"
TEMPLATES = {"executor": "metadata-0-1-system-container-impl", "driver": "system-container-driver"}
STATES = {"Succeeded": "SUCCEEDED", "Failed": "FAILED", "Error": "FAILED", "Running": "RUNNING", "Pending": "PENDING"}
LAUNCHER = (
    "I1128 09:12:01.000001       1 launcher_v2.go:201] Component started",
    "E1128 09:14:01.000001      14 launcher_v2.go:449] Component failed to execute successfully: exit status 1",
    "I1128 09:14:01.100001      14 launcher_v2.go:206] publish success.",
    "F1128 09:14:01.200001      14 main.go:57] failed to execute component: exit status 1",
    'time="2026-11-28T09:14:02.000Z" level=info msg="sub-process exited" argo=true error="<nil>"',
    "Error: exit status 1",
)


def fnv32a(text: str) -> int:
    """Computes the hash that Argo uses in the names of nodes."""
    value = 0x811C9DC5
    for byte in text.encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value


def printed(*lines: str) -> str:
    """Formats the log of a failed stage: its lines between those of KFP's launcher and Argo's executor."""
    first, *last_lines = LAUNCHER
    return "\n".join([first, *lines, *last_lines]) + "\n"


@dataclass
class ClusterRun:
    """A run, and simulated faults of the APIs.

    Attributes:
        denied: kinds, such as pods/log, that the account must not read.
        gone: names of deleted pods.
        archived: whether Argo has archived the logs.
        agent: whether the persistence agent has reported the workflow to KFP.
        slow: names of pods whose log stalls after its beginning.
        offloaded: whether Argo has moved the nodes to its database.
        asked: the number of requests of each kind.
    """

    denied: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    archived: bool = True
    agent: bool = True
    slow: set[str] = field(default_factory=set)
    offloaded: bool = False
    asked: Counter[str] = field(default_factory=Counter)
    url: str = ""

    def __post_init__(self) -> None:
        self.nodes: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, dict[str, Any]] = {OWN: pod(OWN, f"{WORKFLOW}.onExit", "Running", {})}
        self.logs: dict[str, str] = {}
        self.over = threading.Event()  # set when the server stops

    def group(self, *path: str, phase: str = "Succeeded", at: int = 0) -> None:
        """Adds a condition, a loop or another group at a path."""
        self._node(self._name(path), "Retry", phase, "", at)
        self._node(f"{self._name(path)}(0)", "DAG", phase, "", at)

    def pod(
        self,
        *path: str,
        phase: str = "Succeeded",
        at: int = 0,
        message: str = "",
        log: str = "",
        tries: int = 1,
        status: dict[str, Any] | None = None,
        outputs: dict[str, str] | None = None,
    ) -> str:
        """Adds a pod at a path, with the given number of attempts, of which only the last counts; returns its name."""
        kind = "driver" if path[-1].endswith("-driver") else "executor"
        self._node(self._name(path), "Retry", phase, message, at)
        name = ""
        for number in range(tries):
            last = number == tries - 1
            outcome = (phase, message, at) if last else ("Error", "pod deleted", at)
            node = self._node(f"{self._name(path)}({number})", "Pod", *outcome, template=TEMPLATES[kind])
            node["outputs"] = {"parameters": [{"name": key, "value": value} for key, value in (outputs or {}).items()]}
            name = f"{WORKFLOW}-{TEMPLATES[kind]}-{node['id'].rpartition('-')[2]}"
            self.pods[name] = pod(name, node["name"], outcome[0], (status if last else None) or {})
            self.logs[name] = log if last else ""
        return name

    def stage(self, *path: str, phase: str = "Succeeded", at: int = 0, **more: Any) -> str:
        """Adds a stage with its driver; returns the name of its pod."""
        self.pod(*path[:-1], f"{path[-1]}-driver", at=at)
        self.group(*path, phase=phase, at=at + 10)
        return self.pod(*path, "executor", phase=phase, at=at + 11, **more)

    @property
    def workflow(self) -> dict[str, Any]:
        manifest = {"name": WORKFLOW, "namespace": NAMESPACE, "labels": {"pipeline/runid": RUN}}
        nodes = {"offloadNodeStatusVersion": "fnv:784127654"} if self.offloaded else {"nodes": copy.deepcopy(self.nodes)}
        status = {"phase": "Running"} | nodes
        return {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": manifest, "spec": {}, "status": status}

    @property
    def tasks(self) -> list[dict[str, Any]]:
        """Returns KFP's view of the nodes, in arbitrary order."""
        return [
            {
                "run_id": RUN,
                "task_id": f"{fnv32a(node['id']):08x}-0000-4000-8000-000000000000",
                "display_name": node["displayName"],
                "create_time": "2026-11-28T09:00:00Z",
                "start_time": node["startedAt"],
                "end_time": node["startedAt"],
                "state": STATES[node["phase"]],
                "child_tasks": [{"pod_name": child} for child in node["children"]],
            }
            for node in sorted(self.nodes.values(), key=lambda node: node["id"])
        ]

    def answer(self, path: str, query: dict[str, list[str]]) -> tuple[int, object]:
        """Returns status and JSON or text of the answer to a request."""
        parts = path.strip("/").split("/")
        beginning = f"/api/v1/namespaces/{NAMESPACE}/pods/"
        if path == f"/apis/argoproj.io/v1alpha1/namespaces/{NAMESPACE}/workflows/{WORKFLOW}":
            return self._allowed("workflows") or (200, self.workflow)
        if path.startswith(beginning):
            name, _, log = path.removeprefix(beginning).partition("/")
            if refused := self._allowed(f"pods/{log}" if log else "pods"):
                return refused
            if name in self.gone or name not in self.pods:
                return 404, refusal(404, "NotFound", f'pods "{name}" not found')
            return (200, self._end_of_log(name, **query)) if log else (200, self.pods[name])
        if path == f"/apis/v2beta1/runs/{RUN}":
            details = {"run_details": {"task_details": self.tasks}} if self.nodes else {}
            return self._allowed("run") or (200, {"run_id": RUN, "display_name": NAME, "state": "RUNNING"} | details)
        if path == f"/apis/v1beta1/runs/{RUN}":
            runtime = {"pipeline_manifest": "..."} | ({"workflow_manifest": json.dumps(self.workflow)} if self.agent else {})
            return self._allowed("run") or (200, {"run": {"id": RUN, "name": NAME}, "pipeline_runtime": runtime})
        if parts[:2] == ["apis", "v1alpha1"] and parts[-1] == "log":
            self.asked["log of KFP"] += 1
            name = parts[-2]
            if name in self.gone or name not in self.pods:
                content = f"Failed to read logs for run {RUN}"
                return 200, json.dumps({"error_message": content, "error_details": f"{content}: pods not found"})
            return 200, self.logs[name]
        if parts[-1] == "main-logs:read":
            name = parts[-3]
            if refused := self._allowed("archived log"):
                return refused
            if not self.archived or name not in self.logs:
                return 404, {"error_message": "artifact not found: <nil>"}
            return 200, {"data": base64.b64encode(self.logs[name].encode()).decode()}
        return 404, refusal(404, "NotFound", "the server could not find the requested resource")

    @contextlib.contextmanager
    def running(self, configuration: Path) -> Iterator["ClusterRun"]:
        """Runs the server during the context, with a kubeconfig file."""
        run = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client has disconnected
                    self._say(*run.answer(urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)))

            def _is_slow(self) -> bool:
                return self.path.partition("?")[0].endswith("/log") and any(f"/{name}/" in self.path for name in run.slow)

            def _say(self, status: int, answer: object) -> None:
                content = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
                if isinstance(answer, str):  # a log is sent in chunks of arbitrary size
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    for at in range(0, len(content), 100):
                        piece = content[at : at + 100]
                        self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                        if self._is_slow():
                            run.over.wait()
                    self.wfile.write(b"0\r\n\r\n")
                else:
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            self.url = f"http://127.0.0.1:{server.server_port}"
            content = {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "tests",
                "clusters": [{"name": "tests", "cluster": {"server": self.url}}],
                "users": [{"name": "tests", "user": {"token": "the-token-of-the-tests"}}],
                "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests", "namespace": NAMESPACE}}],
            }
            configuration.write_text(yaml.safe_dump(content))
            try:
                yield self
            finally:
                self.over.set()
                server.shutdown()
                thread.join()

    def _end_of_log(self, name: str, container: list[str], tailLines: list[str], limitBytes: list[str]) -> str:  # noqa: N803
        """Returns the end of a log as Kubernetes does: the first bytes of the last lines."""
        assert container == ["main"]
        lines = self.logs[name].splitlines(keepends=True)[-int(tailLines[0]) :]
        return "".join(lines).encode()[: int(limitBytes[0])].decode()

    def _name(self, path: tuple[str, ...]) -> str:
        """Returns Argo's name of a node, in which each group of the path is an attempt."""
        return ".".join([f"{WORKFLOW}(0)", "root(0)", *(f"{part}(0)" for part in path[:-1]), path[-1]])

    def _node(self, name: str, kind: str, phase: str, message: str, at: int, template: str = "dag") -> dict[str, Any]:
        own = f"{WORKFLOW}-{fnv32a(name)}"
        minutes, seconds = divmod(at, 60)
        self.nodes[own] = {
            "id": own,
            "name": name,
            "displayName": name.rpartition(".")[2],
            "type": kind,
            "templateName": template,
            "phase": phase,
            "startedAt": f"2026-11-28T09:{minutes:02}:{seconds:02}Z",
            "children": [],
            **({"message": message} if message else {}),
        }
        above = name.removesuffix("(0)") if name.endswith("(0)") else name.rpartition(".")[0]
        if (parent := self.nodes.get(f"{WORKFLOW}-{fnv32a(above)}")) is not None:
            parent["children"].append(own)
        return self.nodes[own]

    def _allowed(self, kind: str) -> tuple[int, object] | None:
        self.asked[kind] += 1
        if kind in self.denied:
            return 403, refusal(403, "Forbidden", f'{kind} is forbidden: User "{ACCOUNT}" cannot get resource "{kind}"')
        return None


def refusal(code: int, reason: str, message: str) -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message}


def pod(name: str, node: str, phase: str, status: dict[str, Any]) -> dict[str, Any]:
    """Makes a pod with the containers that Argo and KFP add."""
    annotations = {"workflows.argoproj.io/node-name": node, "kubectl.kubernetes.io/default-container": "main"}
    labels = {"pipeline/runid": RUN, "workflows.argoproj.io/workflow": WORKFLOW, "workflows.argoproj.io/completed": "true"}
    main = {"name": "main", "image": IMAGE, "resources": {"limits": {"cpu": "16", "memory": "32Gi"}}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels, "annotations": annotations},
        "spec": {
            "activeDeadlineSeconds": 1209600,
            "initContainers": [{"name": "init", "image": "argoexec"}, {"name": "kfp-launcher", "image": "kfp-launcher"}],
            "containers": [{"name": "wait", "image": "argoexec"}, main],
        },
        "status": {"phase": phase} | status,
    }


def ended(container: str, reason: str, code: int, image_id: str = "sha256:1") -> dict[str, Any]:
    """Makes the status of a terminated container."""
    state = {"terminated": {"reason": reason, "exitCode": code}}
    return {"name": container, "image": IMAGE, "imageID": image_id, "state": state, "lastState": {}}


def waiting(container: str, reason: str, message: str) -> dict[str, Any]:
    """Makes the status of a container that has not started."""
    state = {"waiting": {"reason": reason, "message": message}}
    return {"name": container, "image": IMAGE, "imageID": "", "state": state, "lastState": {}}


@contextlib.contextmanager
def around_a_stage(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[ClusterRun]:
    """Creates an empty run, and sets up this process as the pod of one of its stages, with its configuration in a folder."""
    monkeypatch.setenv(run_state.CLUSTER_VARIABLE, "10.0.0.1")
    monkeypatch.setenv(run_state.POD_NAME_VARIABLE, OWN)
    monkeypatch.setenv("KUBECONFIG", str(folder / "kubeconfig"))
    with ClusterRun().running(folder / "kubeconfig") as running:
        monkeypatch.setenv(run_state.API_VARIABLE, running.url)
        yield running
