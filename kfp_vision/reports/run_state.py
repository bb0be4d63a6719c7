"""Finds out how a run on a cluster ended: the failed stages, the reasons, and the results of the others.

A run is an Argo workflow, whose nodes list all pods with their start times. It is read from Kubernetes in the namespace of the
run, or else from KFP's API; the last resort is KFP's list of tasks, which has neither pods nor errors. Logs come from
Kubernetes, or else from KFP, which also serves those that Argo archived of deleted pods.

Sources, for KFP 2.17: backend/src/common/util/workflow.go (pod names); api_converter.go (tasks, the workflow of a
run), run_log_server.go and run_artifact_server.go (logs) of backend/src/apiserver/server; and Argo Workflows' NodeStatus.
"""

import base64
import gzip
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kfp_vision.core import json_text
from kfp_vision.reports import stage_failures
from kfp_vision.reports.stage_failures import StageLog

LAST_STAGE = "report_outcome"
STAGES = (  # of all pipelines, in execution order
    *("check_run", "check_training", "check_sweep", "check_preparation", "check_prediction", "check_collected"),
    *("check_search", "check_review"),
    *("fingerprint_images", "decide_training", "ingest_images", "split_images", "partition_records", "write_tfrecords"),
    *("write_partition", "join_records", "fetch_records", "choose_trials", "train_classifier", "train_trial", "compare_trials"),
    *("evaluate_classifier", "check_serving", "deploy_model", "call_endpoint", "register_model", "export_model"),
    *("fetch_model", "predict_images", "join_predictions", "fetch_embedder", "list_images", "index_images", "join_index"),
    *("search_images", "audit_images", "review_images", "collect_logged", "check_drift"),
    *("deploy_index", LAST_STAGE),
)

API_VARIABLE = "KFP_VISION_PIPELINES_API"  # address of KFP's API, unless it is the default
CLUSTER_VARIABLE = "KUBERNETES_SERVICE_HOST"  # set in every pod
API_HOST_VARIABLE, API_PORT = "ML_PIPELINE_SERVICE_HOST", 8888  # set in pods of KFP's own namespace
DEFAULT_API_HOST = "ml-pipeline.kubeflow"
TOKEN_FILE = Path("/var/run/secrets/kubeflow/pipelines/token")  # mounted by Kubeflow in pods that may use KFP's API
REQUEST_TIMEOUT, TOTAL_TIMEOUT = 10.0, 60.0  # timeout of one request, and of all
CHUNK = 1 << 16
# Only the end of a log is read. Kubernetes selects the last lines (of at most 16 KiB, as containerd writes them), then takes
# the first bytes of those: the byte limit must cover all selected lines, or the end would be lost.
LOG_LINES, LOG_BYTES = 1000, 1000 << 14
MAX_LOGS_PER_STAGE = 3  # at most, if many iterations of a loop failed

RETRY_SUFFIX = re.compile(r"\(\d+\)$")  # suffix of a retry
ITERATION_SUFFIX = re.compile(r"\(\d+:.*\)$")  # suffix of a loop iteration
TASK_NUMBER_SUFFIX = re.compile(r"-\d+$")  # suffix of a component's second and later tasks
DRIVER_SUFFIX = "-driver"  # suffix of KFP's own pod before a task
LOOP_DRIVER, LOOP_COUNT = "iteration-driver", "iteration-count"
FAILED_PHASES = ("Failed", "Error")
MAX_POD_NAME_PREFIX = 242  # maximum characters of a pod name before the hash
ARGO_API = ("argoproj.io", "v1alpha1")
POD_NAME_VARIABLE = "KFP_POD_NAME"  # set in every pod that KFP starts
WORKFLOW_LABEL = "workflows.argoproj.io/workflow"
POD_NAME_FORMAT_ANNOTATION = "workflows.argoproj.io/pod-name-format"

_Response = TypeVar("_Response")


@dataclass(frozen=True)
class FailedStage:
    """A failed stage.

    Attributes:
        name: name of the component; if KFP itself failed, a description of its pod.
        error: the reason in one line; empty if unknown.
        failed: number of failed iterations; 0 outside loops.
        iterations: number of all iterations of the loop.
    """

    name: str
    error: str = ""
    failed: int = 0
    iterations: int = 0

    @property
    def title(self) -> str:
        """The name with the iterations, such as `train_classifier` or `write_tfrecords (2 of 50)`."""
        return f"{self.name} ({self.failed} of {self.iterations})" if self.iterations > 1 else self.name


@dataclass(frozen=True)
class Pod:
    """The last attempt of a pod, from its node in the workflow.

    Attributes:
        path: names of its groups, outermost first, then its own, without retry suffixes.
        name: name of the pod.
        phase: phase of the node.
        message: message of the node.
        started: start time (ISO 8601, so that it sorts as text).
    """

    path: tuple[str, ...]
    name: str
    phase: str
    message: str
    started: str

    @property
    def stage(self) -> str:
        """The stage of `STAGES` that it runs; empty for none."""
        return next((stage for name in reversed(self.path) if (stage := stage_of(name))), "")

    @property
    def is_driver(self) -> bool:
        """Whether it is KFP's own pod before a task."""
        return self.path[-1].endswith(DRIVER_SUFFIX)

    @property
    def iteration(self) -> tuple[str, ...]:
        """The path of its innermost loop iteration; empty outside loops."""
        at = next((at for at in range(len(self.path), 0, -1) if ITERATION_SUFFIX.search(self.path[at - 1])), 0)
        return self.path[:at]


@dataclass(frozen=True)
class RunReport:
    """What is known about a run.

    Attributes:
        name: display name of the run, or else the name of its workflow; empty if unknown.
        failed: failed stages in execution order; None if unknown.
        results: results that the other stages announced.
    """

    name: str = ""
    failed: tuple[FailedStage, ...] | None = None
    results: tuple[str, ...] = ()


def inspect_run(run_id: str, *, name_known: bool) -> RunReport:
    """Finds out how a run ended, within `TOTAL_TIMEOUT` seconds. Failed requests are printed as warnings.

    Args:
        run_id: KFP's id of the run.
        name_known: skips asking KFP for the display name of the run.

    Returns:
        What is known about the run.

    Example:
        for stage in inspect_run("8a2f1c0e-...", name_known=True).failed or ():
            print(stage.title, stage.error)
    """
    sources = _Sources(run_id)
    run = {} if name_known else sources.run()
    name = str(run.get("display_name") or "")
    if workflow := sources.workflow():
        pods = pods_of_workflow(workflow)
        name = name or str(workflow["metadata"].get("name") or "")
        return RunReport(name, _failed_stages(pods, iterations(workflow), sources), _results(pods, sources))
    run = run or sources.run()
    return RunReport(name, failed_tasks(run) if run else None)


def stage_of(name: str) -> str:
    """Returns the stage of `STAGES` that a task of KFP, or its driver, belongs to.

    Args:
        name: name of the task, such as `predict-images-2` or `train-classifier-driver`.

    Returns:
        The name of the stage; empty for groups and tasks of other pipelines.
    """
    task = RETRY_SUFFIX.sub("", name).removesuffix(DRIVER_SUFFIX).replace("_", "-")
    candidates = (task.replace("-", "_"), TASK_NUMBER_SUFFIX.sub("", task).replace("-", "_"))
    return next((stage for stage in candidates if stage in STAGES), "")


def pods_of_workflow(workflow: Mapping[str, Any]) -> list[Pod]:
    """Lists the pods of a workflow, except those of the last stage.

    Args:
        workflow: an Argo workflow.

    Returns:
        The last attempt of each pod, by start time.

    Raises:
        NodesOffloaded: Argo keeps the nodes in its database.
    """
    name = workflow["metadata"]["name"]
    named_by_node = (workflow["metadata"].get("annotations") or {}).get(POD_NAME_FORMAT_ANNOTATION) == "v1"
    pods: dict[tuple[str, ...], Pod] = {}
    for node in sorted(_nodes(workflow).values(), key=_start):
        if node.get("type") == "Pod":
            path = tuple(RETRY_SUFFIX.sub("", part) for part in node["name"].split(".")[1:])
            pod = node["id"] if named_by_node else _pod_name(name, node)
            pods.pop(path, None)
            pods[path] = Pod(path, pod, node.get("phase", ""), node.get("message", ""), node.get("startedAt") or "")
    order = {stage: at for at, stage in enumerate(STAGES)}
    others = [pod for pod in pods.values() if pod.stage != LAST_STAGE]
    return sorted(others, key=lambda pod: (pod.started, order.get(pod.stage, len(order)), pod.path))


def iterations(workflow: Mapping[str, Any]) -> dict[tuple[str, ...], int]:
    """Reads the number of iterations of each loop from the outputs of KFP's drivers.

    Args:
        workflow: an Argo workflow.

    Returns:
        The number of iterations by the path of the loop.

    Raises:
        NodesOffloaded: Argo keeps the nodes in its database.
    """
    counts = {}
    for node in _nodes(workflow).values():
        *loop, own = (RETRY_SUFFIX.sub("", part) for part in node["name"].split(".")[1:] or [""])
        outputs = {one["name"]: one.get("value") for one in (node.get("outputs") or {}).get("parameters") or []}
        if own == LOOP_DRIVER and str(outputs.get(LOOP_COUNT) or "").isdigit():
            counts[tuple(loop)] = int(outputs[LOOP_COUNT])
    return counts


def failed_tasks(run: Mapping[str, Any]) -> tuple[FailedStage, ...]:
    """Finds the failed stages in KFP's list of tasks, which has neither groups nor errors.

    Args:
        run: the run in KFP's API v2beta1.

    Returns:
        The failed stages in execution order, without reasons.
    """
    tasks = (run.get("run_details") or {}).get("task_details") or []
    states: dict[str, list[tuple[str, str]]] = {}
    for task in sorted(tasks, key=lambda task: task.get("start_time") or ""):
        name = str(task.get("display_name") or "")
        if (stage := stage_of(name)) and stage != LAST_STAGE and not RETRY_SUFFIX.search(name):
            states.setdefault(stage, []).append((name, task.get("state", "")))
    stages = []
    for stage, tasks_of_stage in states.items():
        iterations_of_stage = sum(not name.endswith(DRIVER_SUFFIX) for name, _ in tasks_of_stage)
        failed = sum(state == "FAILED" for _, state in tasks_of_stage)
        if failed:
            stages.append(
                FailedStage(stage, "", failed, iterations_of_stage) if iterations_of_stage > 1 else FailedStage(stage)
            )
    return tuple(stages)


def _failed_stages(pods: list[Pod], counts: Mapping[tuple[str, ...], int], sources: "_Sources") -> tuple[FailedStage, ...]:
    """Returns the failed stages; if only pods of KFP itself failed, those."""
    broken = [pod for pod in pods if pod.phase in FAILED_PHASES]
    ours = [pod for pod in broken if pod.stage]
    by_name: dict[str, list[Pod]] = {}
    for pod in ours or broken:
        by_name.setdefault(pod.stage or _describe_kfp_pod(pod), []).append(pod)
    stages = []
    for name, of_stage in by_name.items():
        reasons = (sources.reason(pod) for pod in of_stage[:MAX_LOGS_PER_STAGE])
        error = next(filter(None, reasons), "")
        failed = {pod.iteration for pod in of_stage if pod.iteration}
        loops = {iteration[:-1] for iteration in failed}
        stages.append(FailedStage(name, error, len(failed), sum(_iterations_of(loop, pods, counts) for loop in loops)))
    return tuple(stages)


def _iterations_of(loop: tuple[str, ...], pods: list[Pod], counts: Mapping[tuple[str, ...], int]) -> int:
    """Returns the number of iterations of a loop: as counted by KFP's driver, or at least those that started."""
    started = {pod.iteration for pod in pods if pod.iteration and pod.iteration[:-1] == loop}
    return max(counts.get(loop, 0), len(started))


def _results(pods: list[Pod], sources: "_Sources") -> tuple[str, ...]:
    """Returns the results of the stages that succeeded; loops are left out, since their iterations announce parts."""
    done = [pod for pod in pods if pod.phase == "Succeeded" and pod.stage and not pod.is_driver and not pod.iteration]
    return tuple(dict.fromkeys(line for pod in done for line in sources.log(pod).results))


def _describe_kfp_pod(pod: Pod) -> str:
    own = pod.path[-1]
    return f"KFP's driver of {own.removesuffix(DRIVER_SUFFIX)}" if pod.is_driver else f"KFP's {own}"


def _nodes(workflow: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Returns the nodes of a workflow, which Argo compresses in large ones and offloads in larger ones.

    Raises:
        NodesOffloaded: Argo keeps the nodes in its database.
    """
    status = workflow.get("status") or {}
    if status.get("offloadNodeStatusVersion") and not (status.get("nodes") or status.get("compressedNodes")):
        raise NodesOffloaded
    if packed := status.get("compressedNodes"):
        nodes: Mapping[str, Mapping[str, Any]] = json_text.parse(gzip.decompress(base64.b64decode(packed)))
        return nodes
    return status.get("nodes") or {}


def _start(node: Mapping[str, Any]) -> tuple[str, int]:
    """Returns a sort key: start time, then number of the retry, since times are in whole seconds."""
    tries = re.findall(r"\((\d+)\)", node["name"])
    return node.get("startedAt") or "", int(tries[-1]) if tries else 0


def _pod_name(workflow: str, node: Mapping[str, Any]) -> str:
    prefix = workflow if ".inline" in node["name"] else f"{workflow}-{node.get('templateName', '')}"
    return f"{prefix[:MAX_POD_NAME_PREFIX]}-{node['id'].rpartition('-')[2]}"


class NodesOffloaded(Exception):
    """Argo keeps the nodes of a workflow in its database (persistence.offloadNodeStatus in its settings)."""


class _Gone(Exception):
    """KFP has no log for a pod."""

    status = 404


class _Sources:
    """Reads a run from Kubernetes, or else from KFP, within `TOTAL_TIMEOUT` seconds."""

    def __init__(self, run_id: str):
        self._run_id = run_id
        self._end = time.monotonic() + TOTAL_TIMEOUT
        self._unreachable: set[str] = set()
        self._warned: set[str] = set()
        self._logs: dict[str, StageLog] = {}
        in_cluster = CLUSTER_VARIABLE in os.environ
        self._kubernetes = (
            self._try("Kubernetes", "the configuration", lambda: _Kubernetes(self._timeout)) if in_cluster else None
        )
        address = os.environ.get(API_VARIABLE, "").rstrip("/")
        if in_cluster and not address:
            address = f"http://{os.environ.get(API_HOST_VARIABLE, DEFAULT_API_HOST)}:{API_PORT}"
        self._pipelines = _Pipelines(address, run_id, self._timeout) if address else None

    def run(self) -> Mapping[str, Any]:
        """Returns the run from KFP's API; empty if unavailable."""
        found = self._from_pipelines("the failed stages", lambda kfp: kfp.json(f"/apis/v2beta1/runs/{self._run_id}"))
        return found if isinstance(found, Mapping) else {}

    def workflow(self) -> Mapping[str, Any]:
        """Returns the workflow of the run; empty if unavailable."""
        found = self._from_kubernetes("the run", lambda kubernetes: _checked_workflow(kubernetes.workflow()))
        return found or self._from_pipelines("the run", lambda kfp: _checked_workflow(kfp.workflow())) or {}

    def log(self, pod: Pod) -> StageLog:
        """Returns the log of a pod from the first source that has it; empty if none has."""
        if pod.name not in self._logs:
            found = self._from_kubernetes("logs", lambda kubernetes: stage_failures.read_log(kubernetes.log(pod.name)))
            found = found or self._from_pipelines("logs", lambda kfp: stage_failures.read_log(kfp.log(pod.name)))
            found = found or self._from_pipelines("logs", lambda kfp: stage_failures.read_log(kfp.archived_log(pod.name)))
            self._logs[pod.name] = found or StageLog()
        return self._logs[pod.name]

    def reason(self, pod: Pod) -> str:
        """Returns why a pod failed; empty if unknown."""
        state = self._from_kubernetes("pods", lambda kubernetes: kubernetes.pod(pod.name)) or {}
        log = self.log(pod)
        if pod.is_driver or not pod.stage:
            log = StageLog(log.error or log.fatal, killed=log.killed)
        return stage_failures.explain_failure(pod.stage or pod.path[-1], pod.message, state, log)

    def _from_kubernetes(self, what: str, request: Callable[["_Kubernetes"], _Response]) -> _Response | None:
        kubernetes = self._kubernetes
        return None if kubernetes is None else self._try("Kubernetes", what, lambda: request(kubernetes))

    def _from_pipelines(self, what: str, request: Callable[["_Pipelines"], _Response]) -> _Response | None:
        kfp = self._pipelines
        return None if kfp is None else self._try("KFP", what, lambda: request(kfp), f" at {kfp.address}")

    def _try(self, service: str, what: str, request: Callable[[], _Response], where: str = "") -> _Response | None:
        """Makes a request; any failure gives a warning and None.

        A service that cannot be reached is not asked again; one that was too slow, with a long log say, is.
        """
        if service in self._unreachable:
            return None
        try:
            return request()
        except (Exception, SystemExit) as error:
            status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
            if not status and _is_unreachable(error):
                self._unreachable.add(service)
            warning = f"warning: could not get {what} from {service} ({status or type(error).__name__}{where})"
            if status != 404 and warning not in self._warned:
                print(warning)
                self._warned.add(warning)
            return None

    def _timeout(self) -> float:
        """Returns the timeout of the next request in seconds."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return min(REQUEST_TIMEOUT, left)


class _Kubernetes:
    """Reads from Kubernetes' API, in the namespace of this pod."""

    def __init__(self, timeout: Callable[[], float]):
        import urllib3
        from kubernetes import client  # large, and only needed on a cluster

        from kfp_vision.core import kube_config

        configuration, self._namespace = kube_config.load_configuration()
        configuration.retries = urllib3.Retry(0)
        api = client.ApiClient(configuration)
        self._custom, self._core = client.CustomObjectsApi(api), client.CoreV1Api(api)
        self._timeout = timeout

    def workflow(self) -> Any:
        """Returns the workflow named by the label of this pod."""
        name = self.pod(os.environ[POD_NAME_VARIABLE])["metadata"]["labels"][WORKFLOW_LABEL]
        group, version = ARGO_API
        return self._custom.get_namespaced_custom_object(
            group, version, self._namespace, "workflows", name, _request_timeout=self._timeouts()
        )

    def pod(self, name: str) -> Any:
        options = {"_preload_content": False, "_request_timeout": self._timeouts()}
        return json_text.parse(self._core.read_namespaced_pod(name, self._namespace, **options).data)

    def log(self, name: str) -> Iterator[str]:
        options = {"_preload_content": False, "_request_timeout": self._timeouts()}
        end = {"container": stage_failures.MAIN_CONTAINER, "tail_lines": LOG_LINES, "limit_bytes": LOG_BYTES}
        answer = self._core.read_namespaced_pod_log(name, self._namespace, **end, **options)
        return stage_failures.split_lines(_in_time(answer.stream(CHUNK), self._timeout()))

    def _timeouts(self) -> tuple[float, float]:
        """Returns the timeouts to connect and to read; the client ignores a single number that is not an integer."""
        return (seconds := self._timeout()), seconds


class _Pipelines:
    """Reads from KFP's API."""

    def __init__(self, address: str, run_id: str, timeout: Callable[[], float]):
        import requests
        from urllib3.util import Retry

        self.address, self._run_id, self._timeout = address, run_id, timeout
        self._session = requests.Session()
        retry = Retry(1, read=0, backoff_factor=0.5, status_forcelist=(502, 503, 504), raise_on_status=False)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retry))
        if TOKEN_FILE.exists():
            self._session.headers["Authorization"] = f"Bearer {TOKEN_FILE.read_text().strip()}"

    def json(self, path: str) -> Any:
        return self._get(path).json()

    def workflow(self) -> Any:
        """Returns the workflow as last stored by KFP's persistence agent, seconds ago."""
        runtime = self.json(f"/apis/v1beta1/runs/{self._run_id}").get("pipeline_runtime") or {}
        return json_text.parse(runtime.get("workflow_manifest") or "{}")

    def log(self, pod: str) -> Iterator[str]:
        found = self._end_of(f"/apis/v1alpha1/runs/{self._run_id}/nodes/{pod}/log")
        if found.startswith(b'{"error_message"'):  # KFP answers 200 before it looks for the log
            raise _Gone
        return stage_failures.split_lines([found])

    def archived_log(self, pod: str) -> Iterator[str]:
        """Returns the log from Argo's artifact store, which KFP serves as `{"data":"..."}` in base64."""
        found = self._end_of(f"/apis/v2beta1/runs/{self._run_id}/nodes/{pod}/artifacts/main-logs:read")
        encoded = found.rpartition(b'"')[0].rpartition(b'"')[2]
        aligned = encoded[len(encoded) % 4 :]  # four characters are three bytes, and the start may be cut off
        return stage_failures.split_lines([base64.b64decode(aligned)])

    def _end_of(self, path: str) -> bytes:
        """Returns the last `LOG_BYTES` of a response; KFP has no option for the end of a log."""
        with self._get(path, stream=True) as answer:
            return _last(_in_time(answer.iter_content(CHUNK), self._timeout()), LOG_BYTES)

    def _get(self, path: str, **options: Any) -> Any:
        answer = self._session.get(self.address + path, timeout=self._timeout(), **options)
        answer.raise_for_status()
        return answer


def _in_time(chunks: Iterable[bytes], seconds: float) -> Iterator[bytes]:
    """Yields chunks for a number of seconds.

    Raises:
        TimeoutError: more chunks come after that.
    """
    end = time.monotonic() + seconds
    for chunk in chunks:
        if time.monotonic() > end:
            raise TimeoutError
        yield chunk


def _last(chunks: Iterable[bytes], size: int) -> bytes:
    """Returns the last `size` bytes of a stream; holds at most about twice as many."""
    kept = bytearray()
    for chunk in chunks:
        kept += chunk
        if len(kept) > 2 * size:
            del kept[:-size]
    return bytes(kept[-size:])


def _checked_workflow(workflow: Any) -> Mapping[str, Any]:
    """Returns the workflow, or an empty mapping if it is not one.

    Raises:
        NodesOffloaded: Argo keeps its nodes in its database.
    """
    if not (isinstance(workflow, Mapping) and isinstance(workflow.get("metadata"), Mapping)):
        return {}
    _nodes(workflow)
    return workflow


def _is_unreachable(error: BaseException) -> bool:
    """Returns whether the connection could not be established."""
    import requests
    import urllib3

    from kfp_vision.storage import failures

    of_urllib3, of_requests = urllib3.exceptions, requests.exceptions
    kinds = (
        *(of_urllib3.NewConnectionError, of_urllib3.ConnectTimeoutError, of_urllib3.ProxyError, of_urllib3.SSLError),
        *(of_requests.MissingSchema, of_requests.InvalidSchema, of_requests.InvalidURL),
    )
    return any(isinstance(cause, kinds) for cause in failures.iter_causes(error))
