"""What became of a run on a cluster: the stages that failed, why, and what the others say came of them.

A run is a workflow of Argo, whose nodes tell of all pods there were, and when each began. Kubernetes' API is asked for it, in
the namespace of the run, and KFP's API where that gives nothing; KFP's list of tasks is the last resort, since it names neither
pods nor errors. So it is with a log: Kubernetes has it, KFP fetches it from there, and finds what Argo archived of pods that
are gone.

Sources, of KFP 2.17: backend/src/common/util/workflow.go (the name of a node's pod); api_converter.go (tasks, the workflow of a
run), run_log_server.go and run_artifact_server.go (logs) of backend/src/apiserver/server; and Argo Workflows' NodeStatus.
"""

import base64
import gzip
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kfp_vision import endings
from kfp_vision.endings import Log

LAST = "report_outcome"
STAGES = (  # of all pipelines, as they follow each other
    *("check_run", "check_training", "check_sweep", "check_preparation", "check_prediction", "check_search"),
    *("fingerprint_images", "decide_training", "ingest_images", "split_images", "partition_records", "write_tfrecords"),
    *("write_partition", "join_records", "fetch_records", "choose_trials", "train_classifier", "train_trial", "compare_trials"),
    *("evaluate_classifier", "check_serving", "deploy_model", "call_endpoint", "fetch_model", "predict_images"),
    *("join_predictions", "fetch_embedder", "list_images", "index_images", "join_index", "search_images", "audit_images"),
    *("deploy_index", LAST),
)

API = "KFP_VISION_PIPELINES_API"  # where KFP's API is not at its usual place
IN_A_CLUSTER = "KUBERNETES_SERVICE_HOST"  # in the environment of every pod
API_HOST, API_PORT = "ML_PIPELINE_SERVICE_HOST", 8888  # in the environment of pods in KFP's own namespace
API_ELSEWHERE = "ml-pipeline.kubeflow"
TOKEN_FILE = Path("/var/run/secrets/kubeflow/pipelines/token")  # where Kubeflow puts it in pods that may ask KFP
SECONDS, SECONDS_IN_ALL = 10.0, 60.0  # for one answer, and for all
CHUNK = 1 << 16
# Of a log the end is read, which says why. Kubernetes counts lines first, pieces of 16 KiB as containerd writes them, and
# takes the first bytes of those: so many that nothing of the end is lost.
LOG_LINES, LOG_BYTES = 1000, 1000 << 14
LOGS_OF_A_STAGE = 3  # that are looked at where many iterations of a loop have failed

TRY = re.compile(r"\(\d+\)$")  # ends the name of one of several tries
ITERATION = re.compile(r"\(\d+:.*\)$")  # and that of one iteration of a loop
NUMBER = re.compile(r"-\d+$")  # KFP numbers the tasks of a component that is used more than once
DRIVER = "-driver"  # ends the name of KFP's own pod before a task
LOOP_DRIVER, LOOP_COUNT = "iteration-driver", "iteration-count"
BROKEN = ("Failed", "Error")
POD_NAME = 242  # characters that Argo leaves to what comes before the hash
ARGO = ("argoproj.io", "v1alpha1")
OWN_POD = "KFP_POD_NAME"  # in the environment of every pod that KFP starts
WORKFLOW_LABEL = "workflows.argoproj.io/workflow"
V1_NAMES = "workflows.argoproj.io/pod-name-format"

Heard = TypeVar("Heard")


@dataclass(frozen=True)
class Stage:
    """A stage that failed.

    Attributes:
        name: the component's; where none failed and KFP itself did, what KFP did then.
        error: why, in one line; empty where nothing says.
        failed: of a loop, how many of its iterations failed; 0 outside of loops.
        iterations: how many there are.
    """

    name: str
    error: str = ""
    failed: int = 0
    iterations: int = 0

    @property
    def title(self) -> str:
        """Such as `train_classifier`, or `write_tfrecords (2 of 50)`."""
        return f"{self.name} ({self.failed} of {self.iterations})" if self.iterations > 1 else self.name


@dataclass(frozen=True)
class Pod:
    """The last try of a pod, as Argo tells of it.

    Attributes:
        path: the names of the groups that it stands in, the outermost first, and its own, all without the number of the try.
        name: the pod's.
        phase, message: as Argo has them.
        started: as Argo writes times: they sort as texts.
    """

    path: tuple[str, ...]
    name: str
    phase: str
    message: str
    started: str

    @property
    def stage(self) -> str:
        """Which of `STAGES` it belongs to; empty for none."""
        return next((stage for name in reversed(self.path) if (stage := stage_of(name))), "")

    @property
    def is_driver(self) -> bool:
        return self.path[-1].endswith(DRIVER)

    @property
    def iteration(self) -> tuple[str, ...]:
        """The way to the innermost iteration of a loop that it stands in; empty outside of loops."""
        at = next((at for at in range(len(self.path), 0, -1) if ITERATION.search(self.path[at - 1])), 0)
        return self.path[:at]


@dataclass(frozen=True)
class Found:
    """What could be found out of a run.

    Attributes:
        name: as KFP shows it, else that of its workflow; empty where neither can be had.
        failed: the stages that failed, as they ran; None where nobody could be asked.
        results: what the others say came of them.
    """

    name: str = ""
    failed: tuple[Stage, ...] | None = None
    results: tuple[str, ...] = ()


def find(run_id: str, *, named: bool) -> Found:
    """Asks what became of a run, no longer than `SECONDS_IN_ALL`; where nobody answers, a warning is printed.

    Args:
        run_id: as KFP knows the run.
        named: its name is known.
    """
    asking = _Asking(run_id)
    told = {} if named else asking.run()
    name = str(told.get("display_name") or "")
    if workflow := asking.workflow():
        pods = of_workflow(workflow)
        name = name or str(workflow["metadata"].get("name") or "")
        return Found(name, _failed(pods, iterations(workflow), asking), _results(pods, asking))
    told = told or asking.run()
    return Found(name, failed_tasks(told) if told else None)


def stage_of(name: str) -> str:
    """Which of `STAGES` a task of KFP is of, or its driver; empty for another's, and for a group."""
    task = TRY.sub("", name).removesuffix(DRIVER).replace("-", "_")
    return next((stage for stage in (task, NUMBER.sub("", task.replace("_", "-")).replace("-", "_")) if stage in STAGES), "")


def of_workflow(workflow: Mapping[str, Any]) -> list[Pod]:
    """The pods of a workflow but those of the last stage, each once with its last try, as they began."""
    name = workflow["metadata"]["name"]
    by_node = (workflow["metadata"].get("annotations") or {}).get(V1_NAMES) == "v1"
    pods: dict[tuple[str, ...], Pod] = {}
    for node in sorted(_nodes(workflow).values(), key=_began):
        if node.get("type") == "Pod":
            path = tuple(TRY.sub("", part) for part in node["name"].split(".")[1:])
            pod = node["id"] if by_node else _pod_name(name, node)
            pods.pop(path, None)
            pods[path] = Pod(path, pod, node.get("phase", ""), node.get("message", ""), node.get("startedAt") or "")
    order = {stage: at for at, stage in enumerate(STAGES)}
    found = [pod for pod in pods.values() if pod.stage != LAST]
    return sorted(found, key=lambda pod: (pod.started, order.get(pod.stage, len(order)), pod.path))


def iterations(workflow: Mapping[str, Any]) -> dict[tuple[str, ...], int]:
    """How many iterations each loop of a workflow has, by the way to it, as KFP's driver counted them."""
    counts = {}
    for node in _nodes(workflow).values():
        *loop, own = (TRY.sub("", part) for part in node["name"].split(".")[1:] or [""])
        said = {one["name"]: one.get("value") for one in (node.get("outputs") or {}).get("parameters") or []}
        if own == LOOP_DRIVER and str(said.get(LOOP_COUNT) or "").isdigit():
            counts[tuple(loop)] = int(said[LOOP_COUNT])
    return counts


def failed_tasks(run: Mapping[str, Any]) -> tuple[Stage, ...]:
    """The stages of a run that failed, by KFP's list of tasks, in which each node of the workflow stands by its name alone.

    Args:
        run: as KFP's API v2beta1 describes it.
    """
    tasks = (run.get("run_details") or {}).get("task_details") or []
    states: dict[str, list[tuple[str, str]]] = {}
    for task in sorted(tasks, key=lambda task: task.get("start_time") or ""):
        name = str(task.get("display_name") or "")
        if (stage := stage_of(name)) and stage != LAST and not TRY.search(name):
            states.setdefault(stage, []).append((name, task.get("state", "")))
    stages = []
    for stage, of_stage in states.items():
        own = [state for name, state in of_stage if not name.endswith(DRIVER)]
        failed = [state for name, state in of_stage if state == "FAILED"]
        if failed:
            stages.append(Stage(stage, "", len(failed), len(own)) if len(own) > 1 else Stage(stage))
    return tuple(stages)


def _failed(pods: list[Pod], counts: Mapping[tuple[str, ...], int], asking: "_Asking") -> tuple[Stage, ...]:
    broken = [pod for pod in pods if pod.phase in BROKEN]
    ours = [pod for pod in broken if pod.stage]
    names = {pod: pod.stage or _of_kfp(pod) for pod in ours or broken}
    stages = []
    for name in dict.fromkeys(names.values()):
        of_stage = [pod for pod, named in names.items() if named == name]
        reasons = (asking.reason(pod) for pod in of_stage[:LOGS_OF_A_STAGE])
        error = next(filter(None, reasons), "")
        turns = {pod.iteration for pod in of_stage if pod.iteration}
        loops = {turn[:-1] for turn in turns}
        seen = {pod.iteration for pod in pods if pod.iteration and pod.iteration[:-1] in loops}
        known = sum(max(counts.get(loop, 0), sum(turn[:-1] == loop for turn in seen)) for loop in loops)
        stages.append(Stage(name, error, len(turns), known))
    return tuple(stages)


def _results(pods: list[Pod], asking: "_Asking") -> tuple[str, ...]:
    """What the stages outside of loops announced that ended well."""
    done = [pod for pod in pods if pod.phase == "Succeeded" and pod.stage and not pod.is_driver and not pod.iteration]
    return tuple(dict.fromkeys(line for pod in done for line in asking.log(pod).results))


def _of_kfp(pod: Pod) -> str:
    """What to call a pod that is of no stage: KFP's own, before a group of stages."""
    own = pod.path[-1]
    return f"KFP's driver of {own.removesuffix(DRIVER)}" if pod.is_driver else f"KFP's {own}"


def _nodes(workflow: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """The nodes of a workflow; of a large one Argo writes them compressed, of a larger one elsewhere.

    Raises:
        NodesOffloaded: they stand in a database of Argo's.
    """
    status = workflow.get("status") or {}
    if status.get("offloadNodeStatusVersion") and not (status.get("nodes") or status.get("compressedNodes")):
        raise NodesOffloaded
    if packed := status.get("compressedNodes"):
        nodes: Mapping[str, Mapping[str, Any]] = json.loads(gzip.decompress(base64.b64decode(packed)))
        return nodes
    return status.get("nodes") or {}


def _began(node: Mapping[str, Any]) -> tuple[str, int]:
    """When a node began; of tries in the same second, which it was."""
    tries = re.findall(r"\((\d+)\)", node["name"])
    return node.get("startedAt") or "", int(tries[-1]) if tries else 0


def _pod_name(workflow: str, node: Mapping[str, Any]) -> str:
    before = workflow if ".inline" in node["name"] else f"{workflow}-{node.get('templateName', '')}"
    return f"{before[:POD_NAME]}-{node['id'].rpartition('-')[2]}"


class NodesOffloaded(Exception):
    """Argo has put the nodes of a workflow into its database: offloadNodeStatus of persistence in its settings."""


class _Gone(Exception):
    """KFP has no log of a pod."""

    status = 404


class _Asking:
    """Asks Kubernetes and KFP, each as long as it answers, and both together no longer than `SECONDS_IN_ALL`."""

    def __init__(self, run_id: str):
        self._run_id = run_id
        self._end = time.monotonic() + SECONDS_IN_ALL
        self._silent: set[str] = set()
        self._warned: set[str] = set()
        self._logs: dict[str, Log] = {}
        within = IN_A_CLUSTER in os.environ
        self._kubernetes = self._heard("Kubernetes", "its API", lambda: _Kubernetes(self._seconds)) if within else None
        address = os.environ.get(API, "").rstrip("/")
        if within and not address:
            address = f"http://{os.environ.get(API_HOST, API_ELSEWHERE)}:{API_PORT}"
        self._pipelines = _Pipelines(address, run_id, self._seconds) if address else None

    def run(self) -> Mapping[str, Any]:
        """The run as KFP describes it; empty where it does not."""
        found = self._of_pipelines("which stage failed", lambda kfp: kfp.json(f"/apis/v2beta1/runs/{self._run_id}"))
        return found if isinstance(found, Mapping) else {}

    def workflow(self) -> Mapping[str, Any]:
        """The workflow of the run; empty where nobody has it."""
        found = self._of_kubernetes("the run", lambda kubernetes: _whole(kubernetes.workflow()))
        return found or self._of_pipelines("the run", lambda kfp: _whole(kfp.workflow())) or {}

    def log(self, pod: Pod) -> Log:
        """The log of a pod, from wherever it can still be had; an empty one where it cannot."""
        if pod.name not in self._logs:
            found = self._of_kubernetes("logs", lambda kubernetes: endings.read(kubernetes.log(pod.name)))
            found = found or self._of_pipelines("logs", lambda kfp: endings.read(kfp.log(pod.name)))
            found = found or self._of_pipelines("logs", lambda kfp: endings.read(kfp.archived_log(pod.name)))
            self._logs[pod.name] = found or Log()
        return self._logs[pod.name]

    def reason(self, pod: Pod) -> str:
        """Why a pod failed; empty where nothing says."""
        state = self._of_kubernetes("pods", lambda kubernetes: kubernetes.pod(pod.name)) or {}
        log = self.log(pod)
        if pod.is_driver or not pod.stage:
            log = Log(log.error or log.fatal, killed=log.killed)
        return endings.reason(pod.stage or pod.path[-1], pod.message, state, log)

    def _of_kubernetes(self, what: str, ask: Callable[["_Kubernetes"], Heard]) -> Heard | None:
        kubernetes = self._kubernetes
        return None if kubernetes is None else self._heard("Kubernetes", what, lambda: ask(kubernetes))

    def _of_pipelines(self, what: str, ask: Callable[["_Pipelines"], Heard]) -> Heard | None:
        kfp = self._pipelines
        return None if kfp is None else self._heard("KFP", what, lambda: ask(kfp), f" at {kfp.address}")

    def _heard(self, whom: str, what: str, ask: Callable[[], Heard], where: str = "") -> Heard | None:
        """What somebody answers; nothing where that fails, whatever the reason.

        Who cannot be reached is not asked again; who is slow with one answer, a long log say, may have the next one.
        """
        if whom in self._silent:
            return None
        try:
            return ask()
        except (Exception, SystemExit) as error:
            status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
            if not status and _is_unreachable(error):
                self._silent.add(whom)
            warning = f"warning: {whom} could not be asked for {what} ({status or type(error).__name__}{where})"
            if status != 404 and warning not in self._warned:
                print(warning)
                self._warned.add(warning)
            return None

    def _seconds(self) -> float:
        """How long the next answer may take."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return min(SECONDS, left)


class _Kubernetes:
    """Kubernetes' API, in the namespace of this pod."""

    def __init__(self, seconds: Callable[[], float]):
        import urllib3
        from kubernetes import client  # large, and needed on a cluster alone

        from kfp_vision import cluster

        configuration, self._namespace = cluster.configured()
        configuration.retries = urllib3.Retry(0)
        api = client.ApiClient(configuration)
        self._custom, self._core = client.CustomObjectsApi(api), client.CoreV1Api(api)
        self._seconds = seconds

    def workflow(self) -> Any:
        """The one that this pod is of, as its label says."""
        name = self.pod(os.environ[OWN_POD])["metadata"]["labels"][WORKFLOW_LABEL]
        group, version = ARGO
        return self._custom.get_namespaced_custom_object(
            group, version, self._namespace, "workflows", name, _request_timeout=self._timeout()
        )

    def pod(self, name: str) -> Any:
        asked = {"_preload_content": False, "_request_timeout": self._timeout()}
        return json.loads(self._core.read_namespaced_pod(name, self._namespace, **asked).data)

    def log(self, name: str) -> Iterator[str]:
        asked = {"_preload_content": False, "_request_timeout": self._timeout()}
        end = {"container": endings.MAIN, "tail_lines": LOG_LINES, "limit_bytes": LOG_BYTES}
        answer = self._core.read_namespaced_pod_log(name, self._namespace, **end, **asked)
        return endings.lines(_in_time(answer.stream(CHUNK), self._seconds()))

    def _timeout(self) -> tuple[float, float]:
        """To connect, and for each piece that is read; a number alone the client heeds only if it is a whole one."""
        return (seconds := self._seconds()), seconds


class _Pipelines:
    """KFP's API."""

    def __init__(self, address: str, run_id: str, seconds: Callable[[], float]):
        import requests
        from urllib3.util import Retry

        self.address, self._run_id, self._seconds = address, run_id, seconds
        self._session = requests.Session()
        once_more = Retry(1, read=0, backoff_factor=0.5, status_forcelist=(502, 503, 504), raise_on_status=False)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=once_more))
        if TOKEN_FILE.exists():
            self._session.headers["Authorization"] = f"Bearer {TOKEN_FILE.read_text().strip()}"

    def json(self, path: str) -> Any:
        return self._get(path).json()

    def workflow(self) -> Any:
        """As the persistence agent has last told it: some seconds ago."""
        runtime = self.json(f"/apis/v1beta1/runs/{self._run_id}").get("pipeline_runtime") or {}
        return json.loads(runtime.get("workflow_manifest") or "{}")

    def log(self, pod: str) -> Iterator[str]:
        """KFP answers 200 before it looks; what it could not read it says in JSON, where the log would be."""
        found = self._end_of(f"/apis/v1alpha1/runs/{self._run_id}/nodes/{pod}/log")
        if found.startswith(b'{"error_message"'):
            raise _Gone
        return endings.lines([found])

    def archived_log(self, pod: str) -> Iterator[str]:
        """As Argo has put it into the store of artifacts, from where KFP gives it as `{"data":"..."}` in base64."""
        found = self._end_of(f"/apis/v2beta1/runs/{self._run_id}/nodes/{pod}/artifacts/main-logs:read")
        encoded = found.rpartition(b'"')[0].rpartition(b'"')[2]
        return endings.lines([base64.b64decode(encoded[len(encoded) % 4 :])])  # four characters are three bytes

    def _end_of(self, path: str) -> bytes:
        """The last `LOG_BYTES` of an answer: KFP cannot be asked for the end alone."""
        with self._get(path, stream=True) as answer:
            return _last(_in_time(answer.iter_content(CHUNK), self._seconds()), LOG_BYTES)

    def _get(self, path: str, **how: Any) -> Any:
        answer = self._session.get(self.address + path, timeout=self._seconds(), **how)
        answer.raise_for_status()
        return answer


def _in_time(chunks: Iterable[bytes], seconds: float) -> Iterator[bytes]:
    """What comes in a while.

    Raises:
        TimeoutError: there is more.
    """
    end = time.monotonic() + seconds
    for chunk in chunks:
        if time.monotonic() > end:
            raise TimeoutError
        yield chunk


def _last(chunks: Iterable[bytes], size: int) -> bytes:
    """The end of what comes in pieces, never holding much more than it."""
    kept = bytearray()
    for chunk in chunks:
        kept += chunk
        if len(kept) > 2 * size:
            del kept[:-size]
    return bytes(kept[-size:])


def _whole(workflow: Any) -> Mapping[str, Any]:
    """A workflow that tells of its nodes; empty where it is none.

    Raises:
        NodesOffloaded: it does not.
    """
    if not (isinstance(workflow, Mapping) and isinstance(workflow.get("metadata"), Mapping)):
        return {}
    _nodes(workflow)
    return workflow


def _is_unreachable(error: BaseException) -> bool:
    """Whether no connection came about, as from one who is not there."""
    import requests
    import urllib3

    from kfp_vision.stores import failures

    of_urllib3, of_requests = urllib3.exceptions, requests.exceptions
    kinds = (
        *(of_urllib3.NewConnectionError, of_urllib3.ConnectTimeoutError, of_urllib3.ProxyError, of_urllib3.SSLError),
        *(of_requests.MissingSchema, of_requests.InvalidSchema, of_requests.InvalidURL),
    )
    return any(isinstance(cause, kinds) for cause in failures.causes(error))
