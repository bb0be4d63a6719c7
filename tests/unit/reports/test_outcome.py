"""Reports of a run's end, against web servers that act as KFP's API and as webhooks."""

import json
from collections.abc import Iterator

import pytest
from support.cluster_run import NAME, WORKFLOW, ClusterRun, around_a_stage, printed
from support.webhook_receiver import Web

from kfp_vision.core.errors import InputError
from kfp_vision.reports import outcome, results, run_state
from kfp_vision.reports.outcome import Outcome
from kfp_vision.reports.run_state import FailedStage
from kfp_vision.storage import http, reading, retry

RUN = {"run_name": NAME, "run_id": "8a2f"}
ERROR = "gpu_count must be at most 8; got 9. Set it to 1, say."
PATH = "/services/T000/a-secret"


@pytest.fixture
def webhook(monkeypatch) -> Iterator[Web]:
    for name in (
        *outcome.REPORT_ENVIRONMENT,
        outcome.FAILURES_VARIABLE,
        run_state.CLUSTER_VARIABLE,
        run_state.API_HOST_VARIABLE,
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(http, "FIRST_PAUSE", 0.001)
    with Web().running() as running:
        yield running


@pytest.fixture
def cluster_run(webhook, monkeypatch, tmp_path) -> Iterator[ClusterRun]:
    """Returns a run on a cluster, without pods yet."""
    with around_a_stage(monkeypatch, tmp_path) as running:
        yield running


def fail_training(cluster_run: ClusterRun) -> None:
    cluster_run.stage("run", "check-run", at=10)
    cluster_run.stage("run", "publish", "train-classifier", phase="Failed", at=60, log=printed(f"error: {ERROR}"))


@pytest.mark.parametrize(
    ("state", "known"),
    [
        ("SUCCEEDED", "SUCCEEDED"),
        ("COMPLETE", "SUCCEEDED"),
        ("FAILED", "FAILED"),
        ("CANCELED", "CANCELED"),
        ("CANCELLED", "CANCELED"),
        ("RUNNING", "UNKNOWN"),
    ],
)
def test_each_state_is_understood_without_kfps_api(webhook, state, known):
    assert outcome.report(state, **RUN) == Outcome(known, **RUN, failed_stages=(), results=(), url="")


def test_a_run_in_state_running_has_failed_if_a_stage_has_and_is_unknown_otherwise(cluster_run, capsys):
    cluster_run.stage("run", "check-run", at=10)
    assert outcome.report("RUNNING", **RUN).state == "UNKNOWN"
    assert capsys.readouterr().out == "the run ended with an unknown status\n"
    fail_training(cluster_run)
    assert outcome.report("RUNNING", **RUN).state == "FAILED"
    assert capsys.readouterr().out == f"the run failed at train_classifier\ntrain_classifier: {ERROR}\n"


def test_an_unknown_reason_refers_to_the_log(cluster_run, capsys):
    cluster_run.stage("run", "train-classifier", phase="Failed", at=60, log=printed("nothing of use"))
    outcome.report("FAILED", **RUN)
    message = "train_classifier: the reason could not be read; see the end of its log in the Kubeflow UI\n"
    assert capsys.readouterr().out == f"the run failed at train_classifier\n{message}"


def test_a_successful_run_reports_its_results(cluster_run, capsys):
    cluster_run.stage("run", "evaluate-classifier", at=10, log="outcome: accepted, accuracy 0.91\n")
    cluster_run.stage("run", "deploy", "deploy-model", at=60, log="outcome: deployed as version 4 in s3://models\n")
    reported = outcome.report("SUCCEEDED", **RUN)
    assert reported.results == ("accepted, accuracy 0.91", "deployed as version 4 in s3://models")
    assert capsys.readouterr().out == "the run succeeded\n" + "".join(f"{line}\n" for line in reported.results)


@pytest.mark.parametrize(
    ("run_name", "denied", "shown"),
    [("mine", set(), "mine"), ("", set(), NAME), ("", {"run"}, WORKFLOW), (" ", {"run", "pods"}, "8a2f")],
)
def test_a_run_always_has_a_name(cluster_run, run_name, denied, shown):
    cluster_run.denied = denied
    reported = outcome.report("SUCCEEDED", run_name, "8a2f")
    assert (reported.run_name, reported.text) == (shown, f"{shown} succeeded")


@pytest.mark.parametrize("answer", [(403, {"error": "not yours"}), (500, {}), (200, [1]), (200, {"run_details": [1]})])
def test_the_state_is_reported_if_kfps_api_fails(webhook, monkeypatch, capsys, answer):
    monkeypatch.setenv(run_state.API_VARIABLE, webhook.url)
    webhook.answers[f"/apis/v2beta1/runs/{RUN['run_id']}"] = answer
    assert outcome.report("FAILED", **RUN).state == "FAILED"
    assert capsys.readouterr().out.endswith("the run failed\nsee the end of the failed stage's log for the reason\n")


def test_a_run_on_one_machine_records_its_failed_stages(webhook, monkeypatch, tmp_path, capsys):
    for name, value in outcome.failures_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    assert outcome.report("FAILED", **RUN).failed_stages == ()
    for stage in (
        FailedStage("write_tfrecords", "first"),
        FailedStage("write_tfrecords", "second"),
        FailedStage("evaluate_classifier", ""),
    ):
        outcome.record_failure(tmp_path, stage)
    capsys.readouterr()
    failed = (FailedStage("write_tfrecords", "second"), FailedStage("evaluate_classifier", ""))
    assert outcome.report("FAILED", **RUN).failed_stages == failed
    message = f"write_tfrecords: second\nevaluate_classifier: {outcome.UNKNOWN_REASON}\n"
    assert capsys.readouterr().out == f"the run failed at write_tfrecords, evaluate_classifier\n{message}"


def test_a_run_on_one_machine_records_its_results(webhook, monkeypatch, tmp_path):
    for name, value in outcome.failures_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    for result in ("20 images in 2 files", "accepted", "accepted"):
        outcome.record_result(tmp_path, result)
    assert outcome.report("SUCCEEDED", **RUN).results == ("20 images in 2 files", "accepted")


@pytest.mark.parametrize("torn", [b'{"name": "wri', b"[1]\n", b'{"no": "stage"}\n', b"\xff\n"])
def test_an_unreadable_record_does_not_fail_the_run(webhook, monkeypatch, tmp_path, capsys, torn):
    (tmp_path / outcome.FAILURES_FILE).write_bytes(torn)
    monkeypatch.setenv(outcome.FAILURES_VARIABLE, str(tmp_path / outcome.FAILURES_FILE))
    assert outcome.report("FAILED", **RUN) == Outcome("FAILED", **RUN, failed_stages=(), results=(), url="")
    assert capsys.readouterr().out.startswith("warning: the status of the stages could not be read (")


def payload(webhook: Web, cluster_run: ClusterRun, monkeypatch, kind: str = "", ui: str = "") -> object:
    """Returns the payload that the webhook received."""
    fail_training(cluster_run)
    cluster_run.stage("run", "join-records", at=20, log="outcome: 20 images in 2 files\n")
    monkeypatch.setenv(outcome.WEBHOOK, webhook.url + PATH)
    monkeypatch.setenv(outcome.WEBHOOK_KIND, kind)
    monkeypatch.setenv(outcome.UI_ADDRESS, ui)
    webhook.answers[PATH] = 200, "ok"
    outcome.report("FAILED", **RUN)
    (received,) = (body for path, _, body in webhook.got if path == PATH)
    return received


UI = "https://kubeflow.example.org/pipeline/"
LINK = "https://kubeflow.example.org/pipeline/#/runs/details/8a2f"


def test_payload_for_programs(webhook, cluster_run, monkeypatch):
    assert payload(webhook, cluster_run, monkeypatch, ui=UI) == {
        "state": "FAILED",
        **RUN,
        "failed_stages": [{"name": "train_classifier", "error": ERROR, "failed": 0, "iterations": 0}],
        "results": ["20 images in 2 files"],
        "url": LINK,
        "text": "flowers of <Monday> failed at train_classifier",
    }


def test_payload_for_slack(webhook, cluster_run, monkeypatch):
    assert payload(webhook, cluster_run, monkeypatch, "slack", UI) == {
        "text": "flowers of &lt;Monday&gt; failed at train_classifier\n"
        f"train_classifier: {ERROR}\n20 images in 2 files\n<{LINK}|Open the run>"
    }


def test_payload_for_teams(webhook, cluster_run, monkeypatch):
    received = payload(webhook, cluster_run, monkeypatch, "Teams", UI)
    (attachment,) = received["attachments"]
    assert (received["type"], attachment["contentType"]) == ("message", "application/vnd.microsoft.card.adaptive")
    card = attachment["content"]
    assert [block["text"] for block in card["body"]] == [
        "flowers of <Monday> failed at train_classifier",
        f"train_classifier: {ERROR}",
        "20 images in 2 files",
    ]
    assert card["actions"] == [{"type": "Action.OpenUrl", "title": "Open the run", "url": LINK}]


@pytest.mark.parametrize("kind", ["slack", "teams", "json"])
def test_signatures_of_addresses_are_not_reported(webhook, cluster_run, monkeypatch, capsys, kind):
    monkeypatch.setattr(retry, "_process", retry.RetryPolicy(0.0))
    with pytest.raises(InputError) as refusal:
        reading.fetch(f"{webhook.url}/photos.tgz?X-Amz-Signature=a-signature")
    traceback = [
        "Traceback (most recent call last):",
        "  x",
        f"OSError: no {webhook.url}/x.jpg?X-Amz-Signature=a-signature, it said",
    ]
    results.announce(f"taken from {webhook.url}/y.jpg?X-Amz-Signature=a-signature")
    cluster_run.stage("run", "ingest-images", phase="Failed", at=10, log=printed(str(refusal.value)))
    cluster_run.stage("run", "write-tfrecords", phase="Failed", at=30, log=printed(*traceback))
    cluster_run.stage("run", "split-images", at=50, log=f"outcome: of {webhook.url}/z.jpg?X-Amz-Signature=a-signature\n")
    received = json.dumps(payload(webhook, cluster_run, monkeypatch, kind))
    assert (
        f"{webhook.url}/x.jpg?..." in received
        and f"{webhook.url}/z.jpg?..." in received
        and f"{webhook.url}/photos.tgz?..." in received
    )
    assert "a-signature" not in received and "a-signature" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("kind", ["slack", "teams"])
@pytest.mark.parametrize("letter", ["x", "花", "\U0001f33b", "<"])
@pytest.mark.parametrize(("stages", "lines"), [(45, 5000), (1, 51), (45, 0)])
def test_long_messages_are_truncated_and_say_so(kind, letter, stages, lines):
    failed = tuple(FailedStage(f"stage_{number}", letter * 2000) for number in range(stages))
    run_report = Outcome("FAILED", letter * 300, "8a2f", failed, tuple(f"{letter} {n}" for n in range(lines)), LINK)
    received = outcome.webhook_payload(run_report, kind)
    assert len(json.dumps(received)) < 25_000
    card = received if kind == "slack" else received["attachments"][0]["content"]
    shown = card["text"].splitlines()[:-1] if kind == "slack" else [block["text"] for block in card["body"]]
    remaining = 1 + stages + lines - (len(shown) - 1)
    assert shown[-1] == f"and {remaining:,} more lines in the log of report_outcome"


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("hooks.slack.com", "slack"),
        ("tenant.webhook.office.com", "teams"),
        ("prod-1.westeurope.logic.azure.com:443", "teams"),
        ("HOOKS.slack.com", "slack"),
        ("hooks.slack.com.example.org", "json"),
        ("nothooks.slack.com", "json"),
        ("example.org", "json"),
    ],
)
def test_the_kind_of_a_webhook_follows_from_its_host(host, kind):
    assert outcome.webhook_kind(f"https://{host}/x") == kind


def test_the_address_of_the_webhook_is_never_printed(webhook, monkeypatch, capsys):
    for address, expected in (
        (webhook.url + PATH, "the webhook was notified"),
        (webhook.url + "/gone-a-secret", "warning: the webhook could not be notified (HTTP 404)"),
        ("http://127.0.0.1:9/a-secret", "warning: the webhook could not be notified (its server does not answer); check KFP_"),
        ("a-secret", "warning: the webhook could not be notified (it is no address such as https://host/path)"),
        ("http://[a-secret", "warning: the webhook could not be notified (it is no address such as https://host/path)"),
    ):
        monkeypatch.setenv(outcome.WEBHOOK, address)
        webhook.answers[PATH] = 200, "ok"
        outcome.report("SUCCEEDED", **RUN)
        shown = "".join(capsys.readouterr())
        assert expected in shown and "a-secret" not in shown and "127.0.0.1" not in shown


def test_an_unknown_kind_of_a_webhook_is_named(webhook, monkeypatch, capsys):
    webhook.answers[PATH] = 200, "ok"
    monkeypatch.setenv(outcome.WEBHOOK, webhook.url + PATH)
    monkeypatch.setenv(outcome.WEBHOOK_KIND, "discord")
    assert outcome.send_test_message()
    printed = capsys.readouterr().out
    assert "warning: KFP_VISION_WEBHOOK_KIND must be one of slack, teams, json, and counts as json as it is" in printed
    assert "the webhook was notified" in printed
