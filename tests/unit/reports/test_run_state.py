"""Findings about runs on a cluster, against servers that act as Kubernetes and KFP."""

import base64
import gzip
import json
from collections.abc import Iterator

import pytest
from support.cluster_run import NAME, OWN, RUN, WORKFLOW, ClusterRun, around_a_stage, ended, printed

from kfp_vision import components
from kfp_vision.reports import run_state
from kfp_vision.reports.run_state import FailedStage, RunReport

ERROR = "gpu_count must be at most 8; got 9. Set it to 1, say."


@pytest.fixture
def cluster(monkeypatch, tmp_path) -> Iterator[ClusterRun]:
    with around_a_stage(monkeypatch, tmp_path) as running:
        yield running


def fail_training(cluster: ClusterRun) -> str:
    """Sets up a run whose training failed within nested groups; returns the name of the training's pod."""
    cluster.pod("run-driver")
    cluster.group("run", phase="Failed", at=5)
    cluster.stage("run", "check-run", at=10)
    cluster.stage("run", "fingerprint-images", at=30)
    cluster.pod("run", "publish-driver", at=50)
    cluster.group("run", "publish", phase="Failed", at=60)
    cluster.stage("run", "publish", "decide-training", at=70)
    trained = cluster.stage(
        "run", "publish", "train-classifier", phase="Failed", at=90, message="main: Error (exit code 1)",
        log=printed("step 1/3", f"error: {ERROR}"), status={"containerStatuses": [ended("main", "Error", 1)]},
    )  # fmt: skip
    cluster.stage("run", "onExit", "report-outcome", phase="Running", at=150)
    return trained


def find_state(named: bool = True) -> RunReport:
    return run_state.inspect_run(RUN, name_known=named)


def test_stages_have_the_names_of_the_components():
    assert sorted(run_state.STAGES) == components.__all__ and run_state.LAST_STAGE in run_state.STAGES


@pytest.mark.parametrize(
    ("task", "stage"),
    [
        ("train-classifier", "train_classifier"),
        ("train-classifier-driver", "train_classifier"),
        ("train-classifier(2)", "train_classifier"),
        ("predict-images-2", "predict_images"),
        *((group, "") for group in ("run", "publish", "partitions", "exit-handler-1", "condition-2", "for-loop-3", "root")),
        *(
            (group, "")
            for group in ("executor", "iteration-item", "iteration-iterations(0:0)", "root-driver", "train", "images-2")
        ),
    ],
)
def test_stages_are_distinguished_from_groups(task, stage):
    assert run_state.stage_of(task) == stage


def test_the_failed_stage_is_found_with_its_error(cluster, capsys):
    fail_training(cluster)
    assert find_state() == RunReport(WORKFLOW, (FailedStage("train_classifier", ERROR),))
    assert capsys.readouterr().out == ""
    assert cluster.asked["run"] == 0  # Kubernetes had everything


def test_an_unknown_name_comes_from_kfp(cluster):
    fail_training(cluster)
    assert find_state(named=False).name == NAME


def test_failed_stages_are_in_execution_order(cluster):
    for at, stage in ((30, "decide-training"), (10, "write-tfrecords"), (20, "ingest-images")):
        cluster.stage("run", stage, phase="Failed", at=at, log=printed(f"error: {stage}"))
    failed = [FailedStage(stage.replace("-", "_"), stage) for stage in ("write-tfrecords", "ingest-images", "decide-training")]
    assert find_state().failed == tuple(failed)


def fail_partitions(
    cluster: ClusterRun, broken: dict[int, str], loop: str = "partitions", count: int = 50, begun: int = 12
) -> None:
    cluster.group("run", phase="Failed")
    cluster.group("run", loop, phase="Failed", at=5)
    cluster.pod("run", loop, "iteration-driver", at=10, outputs={"iteration-count": str(count)})
    for number in range(begun):
        path = ("run", loop, f"iteration-iterations({number}:{number})", "iteration-item")
        how = {"phase": "Failed", "log": broken[number]} if number in broken else {"log": "outcome: of a part\n"}
        cluster.stage(*path, "write-tfrecords", at=20 + number, **how)


def test_failed_iterations_of_a_loop_are_counted(cluster):
    fail_partitions(cluster, {3: printed("killed, who knows"), 7: printed("error: a torn image")})
    (stage,) = find_state().failed
    assert stage == FailedStage("write_tfrecords", "a torn image", failed=2, iterations=50)
    assert stage.title == "write_tfrecords (2 of 50)"


def test_a_loop_of_one_iteration_has_no_count(cluster):
    fail_partitions(cluster, {0: printed("error: a torn image")}, count=1, begun=1)
    assert find_state().failed[0].title == "write_tfrecords"


def test_only_a_few_logs_of_a_loop_are_read(cluster):
    fail_partitions(cluster, dict.fromkeys(range(50), printed()), begun=50)
    assert find_state().failed == (FailedStage("write_tfrecords", "", failed=50, iterations=50),)
    assert cluster.asked["pods/log"] == run_state.MAX_LOGS_PER_STAGE


def test_a_stage_that_succeeded_in_a_retry_did_not_fail(cluster):
    cluster.stage("run", "ingest-images", tries=3)
    assert find_state().failed == ()
    cluster.stage("run", "write-tfrecords", phase="Failed", at=60, tries=2, log=printed("error: the last try"))
    assert find_state().failed == (FailedStage("write_tfrecords", "the last try"),)


def test_a_stage_that_kfp_could_not_start_has_kfps_error(cluster):
    lines = "F1128 09:14:01.200001      14 main.go:57] KFP driver: driver.Container failed: expect STRUCT, got string"
    cluster.pod("run", "train-trial-driver", phase="Failed", message="main: Error (exit code 1)", log=lines)
    cluster.group("run", phase="Failed")
    assert find_state().failed == (
        FailedStage("train_trial", "KFP driver: driver.Container failed: expect STRUCT, got string"),
    )


def test_a_group_that_kfp_could_not_start_is_reported(cluster):
    cluster.stage("run", "check-run")
    lines = "F1128 09:14:01.200001      14 main.go:57] KFP driver: driver.DAG failed: no such thing"
    cluster.pod("run", "publish-driver", phase="Failed", at=60, message="main: Error (exit code 1)", log=lines)
    assert find_state().failed == (FailedStage("KFP's driver of publish", "KFP driver: driver.DAG failed: no such thing"),)


def test_the_log_of_a_deleted_pod_comes_from_the_archive(cluster, capsys):
    cluster.gone.add(fail_training(cluster))
    assert find_state().failed == (FailedStage("train_classifier", ERROR),)
    assert capsys.readouterr().out == ""


def test_without_pod_and_log_the_reason_comes_from_argo(cluster, capsys):
    name = fail_training(cluster)
    cluster.gone.add(name)
    cluster.archived = False
    assert find_state().failed == (FailedStage("train_classifier"),)
    for node in cluster.nodes.values():
        if node["type"] == "Pod" and "train-classifier" in node["name"]:
            node["message"] = "main: OOMKilled (exit code 137)"
    assert "exceeded its memory limit" in find_state().failed[0].error
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("denied", "warned"),
    [
        ({"pods"}, ["pods", "the run"]),
        ({"pods/log"}, ["logs"]),
        ({"pods", "pods/log", "workflows"}, ["logs", "pods", "the run"]),
    ],
)
def test_kfp_provides_what_kubernetes_denies(cluster, capsys, denied, warned):
    fail_training(cluster)
    cluster.denied = denied
    assert find_state().failed == (FailedStage("train_classifier", ERROR),)
    lines = [f"warning: could not get {kind} from Kubernetes (403)" for kind in warned]
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(lines)


def test_kfp_provides_the_workflow_if_this_pod_does_not_know_it(cluster, monkeypatch):
    fail_training(cluster)
    monkeypatch.delenv(run_state.POD_NAME_VARIABLE)
    assert find_state().failed == (FailedStage("train_classifier", ERROR),)


def test_without_kfp_a_run_has_the_name_of_its_workflow(cluster):
    fail_training(cluster)
    cluster.denied = {"run"}
    assert find_state(named=False).name == WORKFLOW


def test_kfps_list_of_tasks_has_the_failed_stages(cluster):
    fail_training(cluster)
    cluster.denied, cluster.agent = {"workflows"}, False
    assert find_state(named=False) == RunReport(NAME, (FailedStage("train_classifier"),))


def test_kfps_list_of_tasks_has_the_started_iterations(cluster):
    fail_partitions(cluster, {3: "", 7: ""})
    cluster.denied, cluster.agent = {"workflows"}, False
    assert find_state().failed == (FailedStage("write_tfrecords", "", failed=2, iterations=12),)


@pytest.mark.parametrize("run", [{}, {"run_details": None}, {"run_details": {"task_details": [{}, {"state": "FAILED"}]}}])
def test_a_list_without_our_tasks_has_no_failed_stages(run):
    assert run_state.failed_tasks(run) == ()


def test_nothing_is_found_if_all_requests_are_denied(cluster, capsys):
    fail_training(cluster)
    cluster.denied, cluster.archived = {"workflows", "pods", "pods/log", "run", "archived log"}, False
    assert find_state(named=False) == RunReport()
    assert "warning: could not get the failed stages from KFP (403 at http://127.0.0.1:" in capsys.readouterr().out


def test_an_unreachable_service_is_asked_once(monkeypatch, tmp_path, capsys):
    with ClusterRun().running(tmp_path / "kubeconfig") as cluster:
        address = cluster.url
    monkeypatch.setenv(run_state.CLUSTER_VARIABLE, "10.0.0.1")
    monkeypatch.setenv(run_state.POD_NAME_VARIABLE, OWN)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv(run_state.API_VARIABLE, address)
    assert find_state(named=False) == RunReport()
    assert capsys.readouterr().out.splitlines() == [
        f"warning: could not get the failed stages from KFP (ConnectionError at {address})",
        "warning: could not get the run from Kubernetes (MaxRetryError)",
    ]


def test_after_the_timeout_there_are_no_requests(cluster, monkeypatch, capsys):
    fail_training(cluster)
    monkeypatch.setattr(run_state, "TOTAL_TIMEOUT", 0.0)
    assert find_state(named=False) == RunReport()
    assert "(TimeoutError" in capsys.readouterr().out
    assert not cluster.asked


def test_a_log_that_takes_too_long_is_ignored(cluster, monkeypatch):
    fail_training(cluster)
    monkeypatch.setattr(run_state, "_in_time", lambda chunks, seconds: runs_out(chunks))
    cluster.archived = False
    assert find_state().failed == (FailedStage("train_classifier"),)


def runs_out(chunks: Iterator[bytes]) -> Iterator[bytes]:
    yield next(iter(chunks))
    raise TimeoutError


def test_after_a_slow_log_requests_go_on(cluster, monkeypatch, capsys):
    monkeypatch.setattr(run_state, "REQUEST_TIMEOUT", 0.3)
    slow = cluster.stage("run", "ingest-images", phase="Failed", at=20, log=printed("error: never heard"))
    cluster.stage("run", "write-tfrecords", phase="Failed", at=60, log=printed("error: a torn image"))
    cluster.slow, cluster.archived = {slow}, False
    assert find_state().failed == (FailedStage("ingest_images"), FailedStage("write_tfrecords", "a torn image"))
    assert cluster.asked["pods/log"] == 2
    assert capsys.readouterr().out.startswith("warning: could not get logs from Kubernetes (")


def test_an_incomplete_log_is_read_from_the_archive(cluster, monkeypatch):
    monkeypatch.setattr(run_state, "REQUEST_TIMEOUT", 0.3)
    cluster.slow = {fail_training(cluster)}
    assert find_state().failed == (FailedStage("train_classifier", ERROR),)


LONG = "".join(f"epoch {number} of many\n" for number in range(3000)) + printed(f"error: {ERROR}")


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("denied", [set(), {"pods/log"}])
def test_only_the_end_of_a_long_log_is_read(cluster, monkeypatch, denied, gone):
    monkeypatch.setattr(run_state, "LOG_LINES", 100)
    monkeypatch.setattr(run_state, "LOG_BYTES", 10_001)
    name = fail_training(cluster)
    cluster.logs[name] = f"outcome: too early to be read\n{LONG}"
    cluster.denied, cluster.gone = denied, {name} if gone else set()
    cluster.nodes = {key: node | {"phase": "Succeeded"} for key, node in cluster.nodes.items()}
    assert find_state().results == ()
    for node in cluster.nodes.values():
        node["phase"] = "Failed" if "train-classifier(0).executor" in node["name"] else node["phase"]
    assert find_state().failed == (FailedStage("train_classifier", ERROR),)


def test_the_end_of_a_stream_is_kept():
    text = bytes(range(256)) * 4
    for size in (1, 7, 256, 2000):
        pieces = [text[at : at + 33] for at in range(0, len(text), 33)]
        assert run_state._last(pieces, size) == text[-size:]


def test_a_run_with_offloaded_nodes_is_read_from_kfps_tasks(cluster, capsys):
    fail_training(cluster)
    cluster.offloaded = True
    assert find_state(named=False) == RunReport(NAME, (FailedStage("train_classifier"),))
    lines = capsys.readouterr().out
    assert "could not get the run from Kubernetes (NodesOffloaded)" in lines and "could not get the run from KFP" in lines


def test_chunks_of_a_log_are_read_until_the_timeout():
    assert list(run_state._in_time([b"a", b"b"], 60.0)) == [b"a", b"b"]
    with pytest.raises(TimeoutError):
        list(run_state._in_time([b"a"], -1.0))


def test_outside_a_cluster_there_are_no_requests(cluster, monkeypatch, capsys):
    fail_training(cluster)
    monkeypatch.delenv(run_state.CLUSTER_VARIABLE)
    monkeypatch.delenv(run_state.API_VARIABLE)
    assert find_state(named=False) == RunReport()
    assert not cluster.asked and capsys.readouterr().out == ""


def test_results_are_in_execution_order(cluster):
    fail_partitions(cluster, {})
    cluster.stage("run", "evaluate-classifier", at=100, log=printed("outcome: accepted, accuracy 0.91"))
    cluster.stage("run", "deploy", "deploy-model", at=200, log=printed("outcome: deployed as version 4 in s3://models"))
    cluster.stage("run", "deploy", "call-endpoint", at=300, phase="Failed", log=printed("outcome: no", "error: no answer"))
    assert find_state() == RunReport(
        WORKFLOW,
        (FailedStage("call_endpoint", "no answer"),),
        ("accepted, accuracy 0.91", "deployed as version 4 in s3://models"),
    )


def test_compressed_nodes_are_read(cluster):
    fail_training(cluster)
    workflow = cluster.workflow
    packed = base64.b64encode(gzip.compress(json.dumps(workflow["status"].pop("nodes")).encode())).decode()
    state = run_state.pods_of_workflow({**workflow, "status": {"compressedNodes": packed}})
    assert state == run_state.pods_of_workflow(cluster.workflow) and len(state) == 10


def test_pods_named_after_nodes_are_found(cluster):
    fail_training(cluster)
    workflow = cluster.workflow
    workflow["metadata"]["annotations"] = {"workflows.argoproj.io/pod-name-format": "v1"}
    ids = {node["id"] for node in cluster.nodes.values() if node["type"] == "Pod"}
    assert {pod.name for pod in run_state.pods_of_workflow(workflow)} < ids


def test_requests_to_kfp_carry_the_token_from_kubeflow(cluster, monkeypatch, tmp_path):
    (tmp_path / "token").write_text("a-token\n")
    monkeypatch.setattr(run_state, "TOKEN_FILE", tmp_path / "token")
    assert run_state._Pipelines(cluster.url, RUN, lambda: 1.0)._session.headers["Authorization"] == "Bearer a-token"


def test_in_a_cluster_kfp_has_a_default_address(cluster, monkeypatch):
    fail_training(cluster)
    cluster.denied = {"workflows", "pods/log"}
    monkeypatch.delenv(run_state.API_VARIABLE)
    monkeypatch.setenv(run_state.API_HOST_VARIABLE, "127.0.0.1")
    monkeypatch.setattr(run_state, "API_PORT", int(cluster.url.rsplit(":", 1)[1]))
    assert find_state().failed == (FailedStage("train_classifier", ERROR),)
