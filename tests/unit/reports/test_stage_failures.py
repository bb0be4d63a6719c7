"""Reasons of failures, from logs with the lines of KFP's launcher, and from pods of Kubernetes."""

import pytest
from support import cluster_run
from support.cluster_run import ended, waiting

from kfp_vision.reports import results, stage_failures
from kfp_vision.reports.stage_failures import StageLog

ERROR = "gpu_count must be at most 8; got 9. Set it to 1, say."
ARGO = "main: Error (exit code 1)"
ANEW = "in pipelines/pods.py, recompile the pipeline, and upload it."


def read_log(*lines: str) -> StageLog:
    return stage_failures.read_log(cluster_run.printed(*lines).splitlines())


def test_the_stages_error_is_found_among_the_launchers_lines():
    assert read_log("step 1/3", f"error: {ERROR}") == StageLog(error=ERROR, fatal="failed to execute component: exit status 1")


TRACEBACK = "Traceback (most recent call last):"
CHAINED = ["", "During handling of the above exception, another exception occurred:", "", TRACEBACK, "  y", "OSError: 2"]


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ([TRACEBACK, '  File "a.py", line 1, in f', "    f()", "ValueError: too many", "done"], "ValueError: too many"),
        ([TRACEBACK, "  x", "KeyError: 1", *CHAINED], "OSError: 2"),
        ([TRACEBACK, "  x", "KeyError: 1", "error: later"], "later"),
        (["error: first", "error: second"], "second"),
        (["error: a warning of another", TRACEBACK, "  x", "KeyError: 1", "done"], "KeyError: 1"),
        ([TRACEBACK, "  torn", "error: later", "done"], "later"),
        (["error: it", "Exception ignored in: <function f>", TRACEBACK, "  x", "KeyError: 1"], "it"),
        (["Exception ignored in: <function f>", TRACEBACK, "  x", "KeyError: 1", TRACEBACK, "  y", "OSError: 2"], "OSError: 2"),
        (["an error: not at the beginning", "  error: nor here"], ""),
        (["ValueError: without a traceback"], ""),
        ([TRACEBACK, "  torn"], ""),
    ],
)
def test_the_last_error_counts(lines, error):
    assert read_log(*lines).error == error


def test_results_are_kept_in_order(capsys):
    results.announce("accepted, accuracy 0.9")
    results.announce("deployed\nas version 4")
    printed = capsys.readouterr().out
    assert printed == "outcome: accepted, accuracy 0.9\noutcome: deployed as version 4\n"
    assert read_log(*printed.splitlines()).results == ("accepted, accuracy 0.9", "deployed as version 4")


@pytest.mark.parametrize("size", [1, 3, 7, 10_000])
def test_a_log_is_split_into_lines_whatever_the_chunks(size):
    log = "eins\nzwei drei\n\nfünf 花\nohne Ende".encode()
    pieces = [log[at : at + size] for at in range(0, len(log), size)]
    assert list(stage_failures.split_lines(pieces)) == ["eins", "zwei drei", "", "fünf 花", "ohne Ende"]


def test_long_errors_are_cut():
    assert read_log(f"error: {'x' * 10_000}").error == "x" * stage_failures.MAX_LINE_LENGTH + "..."


def test_long_lines_of_a_log_are_cut_whatever_the_chunks():
    log = b"error: " + b"x" * (4 * stage_failures.MAX_LOG_LINE_BYTES) + b"\nerror: next\n"
    for size in (1 << 10, 1 << 16, len(log)):
        first, second = stage_failures.split_lines(log[at : at + size] for at in range(0, len(log), size))
        assert (first[:8], len(first), second) == ("error: x", stage_failures.MAX_LOG_LINE_BYTES, "error: next")


def test_signatures_of_addresses_are_removed():
    address = "https://host/x?X-Amz-Signature=a-secret"
    expected = f"requests.exceptions.ConnectionError: Max retries exceeded with url: /x?X-Amz-Signature=a-secret, {address}"
    logs = [
        read_log(TRACEBACK, "  x", expected),
        read_log(f"error: {address}"),
        read_log(f"outcome: from {address}"),
        stage_failures.read_log([f"F1128 09:14:01.200001      14 main.go:57] no such thing: {address}"]),
    ]
    reasons = [reason(f"main: StartError (exit code 128): {address}", {}), *(reason(ARGO, {}, log) for log in logs)]
    texts = [*reasons, *(log.fatal for log in logs), *(line for log in logs for line in log.results)]
    assert sum("https://host/x?..." in line for line in texts) == 5
    assert [line for line in texts if "secret" in line] == []


def status(*containers: dict, **more: object) -> dict:
    return {"containerStatuses": [ended("wait", "Completed", 0), *containers], **more}


def reason(message: str, pod_reason: dict, log: StageLog | None = None) -> str:
    pod = cluster_run.pod("a-pod", "a-node", "Failed", pod_reason) if pod_reason else {}
    return stage_failures.explain_failure("train_classifier", message, pod, log or StageLog())


TIME_IS_UP = "Pod was active on the node longer than the specified deadline"
PULLING = "Pod failed before main container starts due to ImagePullBackOff: Back-off pulling image"
NO_NODE = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
NO_ROOM = 'Usage of EmptyDir volume "tmp" exceeds the limit "500Gi".'
LOW = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 99Mi."
TAINTED = "Taint manager: deleting due to NoExecute taint"
OOM = "main: OOMKilled (exit code 137)"
AGAIN = "Start the run again; cached stages are not repeated."


def condition(kind: str, status_value: bool, condition_reason: str, message: str) -> dict:
    return {"conditions": [{"type": kind, "status": str(status_value), "reason": condition_reason, "message": message}]}


@pytest.mark.parametrize(
    ("message", "pod_reason", "expected"),
    [
        (OOM, status(ended("main", "OOMKilled", 137)), "it exceeded its memory limit of 32Gi and was killed"),
        (
            OOM,
            {},
            "it exceeded its memory limit and was killed (OOMKilled). Raise memory of train_classifier in pip",
        ),
        (
            TIME_IS_UP,
            status(ended("main", "Error", 143), reason="DeadlineExceeded", message=TIME_IS_UP),
            "it was stopped at its deadline of 336 h 0 min (DeadlineExceeded). Raise seconds of train_classifier in",
        ),
        (TIME_IS_UP, {}, "it was stopped at its deadline (DeadlineExceeded). Raise seconds of train_classifier in"),
        (
            TIME_IS_UP,
            status(ended("main", "ContainerStatusUnknown", 137, image_id=""), reason="DeadlineExceeded"),
            f"its deadline passed before it started, probably because its image {cluster_run.IMAGE} cannot be pulled: "
            "compile with ",
        ),
        (
            PULLING,
            status(waiting("main", "ImagePullBackOff", 'Back-off pulling image "x"')),
            f"its image {cluster_run.IMAGE} cannot be pulled: compile with the --registry that has it, and create the secret "
            "kfp-vision-registry if that requires credentials (manifests/README.md). Kubernetes reports: " + PULLING,
        ),
        (
            "",
            condition("PodScheduled", False, "Unschedulable", NO_NODE),
            f"no node can run its pod (Unschedulable: {NO_NODE}). Check ",
        ),
        (
            f"{NO_ROOM} ",
            {"reason": "Evicted", "message": NO_ROOM},
            f"it exceeded its disk limit ({NO_ROOM}). Raise room",
        ),
        ("pod deleted", {}, f"its pod was evicted or deleted (pod deleted). {AGAIN}"),
        (
            "",
            condition("DisruptionTarget", True, "DeletionByTaintManager", TAINTED),
            f"its pod was evicted or deleted (DisruptionTarget: DeletionByTaintManager: {TAINTED}). {AGAIN}",
        ),
        (LOW, {"reason": "Evicted", "message": LOW}, f"its pod was evicted or deleted ({LOW}). {AGAIN}"),
        (
            "main: Error (exit code 137)",
            {},
            "it was killed, probably for lack of memory. Raise memory of train_classifier ",
        ),
        ("main: StartError (exit code 128): argument list too long", {}, "StartError (exit code 128): argument list too long"),
    ],
)
def test_reasons_from_the_pod_come_with_a_remedy(message, pod_reason, expected):
    assert reason(message, pod_reason).startswith(expected)


@pytest.mark.parametrize(
    ("message", "pod_reason"),
    [
        (ARGO, status(ended("main", "Error", 1))),
        ("Error (exit code 1)", {}),
        (f"child '{cluster_run.WORKFLOW}-1' failed", {}),
        ("", {}),
    ],
)
def test_an_unknown_reason_is_empty(message, pod_reason):
    assert reason(message, pod_reason) == ""


@pytest.mark.parametrize(
    "text",
    ["server shutdown: pod deleted", "OOMKilled", "DeadlineExceeded", "ErrImagePull", "Unschedulable", "x: ephemeral-storage"],
)
def test_a_termination_message_is_not_mistaken_for_a_reason_of_the_pod(text):
    terminated = {"reason": "Error", "exitCode": 1, "message": f"{text} (exit code 137)"}
    pod_reason = status({"name": "main", "state": {"terminated": terminated}, "lastState": {"terminated": terminated}})
    message = f"{ARGO}: {text} (exit code 137)"
    assert reason(message, pod_reason, StageLog(error=ERROR)) == ERROR
    assert reason(message, pod_reason) == f"Error (exit code 1): {text} (exit code 137)"


def test_deadlines_are_formatted():
    pod = {"spec": {"activeDeadlineSeconds": 600}}
    texts = stage_failures.explain_failure("check_run", TIME_IS_UP, pod, StageLog())
    assert texts == f"it was stopped at its deadline of 10 min (DeadlineExceeded). Raise seconds of check_run {ANEW}"


def test_the_stages_error_comes_before_argos_exit_code():
    assert reason(ARGO, status(ended("main", "Error", 1)), StageLog(error=ERROR)) == ERROR


def test_a_killed_process_was_out_of_memory():
    log = stage_failures.read_log(
        ["E1128 09:14:01.000001      14 launcher_v2.go:449] Component failed to execute successfully: signal: killed"]
    )
    assert reason(ARGO, {}, log) == f"it was killed, probably for lack of memory. Raise memory of train_classifier {ANEW}"
