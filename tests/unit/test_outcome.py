"""How a run's end is told: against real web servers that stand for KFP's API and for whoever is told."""

from collections.abc import Iterator

import pytest
from told import Web

from kfp_vision import outcome
from kfp_vision.outcome import Outcome, Stage
from kfp_vision.stores import web as client

RUN = {"run_name": "flowers of <Monday>", "run_id": "8a2f"}
PATH = "/services/T000/a-secret"


@pytest.fixture
def web(monkeypatch) -> Iterator[Web]:
    for name in (*outcome.ENVIRONMENT, outcome.FAILURES, outcome.IN_A_CLUSTER, outcome.API_HOST):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.001)
    with Web().running() as running:
        yield running


def task(name: str, state: str, *children: str, error: str = "") -> dict:
    """As KFP describes what a pod, or a group of them, did; by its name in lower case for others to refer to."""
    about = {"run_id": RUN["run_id"], "task_id": f"id-{name}", "pod_name": f"pod-{name}", "display_name": name, "state": state}
    about |= {"child_tasks": [{"pod_name": f"pod-{child}"} for child in children]} if children else {}
    return about | ({"error": {"code": 1, "message": error}} if error else {})


def described(*tasks: dict) -> dict:
    return {
        "run_id": RUN["run_id"],
        "display_name": RUN["run_name"],
        "state": "RUNNING",
        "run_details": {"task_details": [*tasks]},
    }


FAILED_IN_TRAINING = described(
    task("root", "FAILED", "run"),
    task("run", "FAILED", "check-run", "train-classifier"),
    task("check-run", "SUCCEEDED"),
    task("train-classifier", "FAILED", "executor"),
    task("executor", "FAILED", error="Error (exit\ncode 137): OOMKilled"),
    task("report-outcome", "RUNNING"),
)


def test_the_stage_that_failed_is_found_within_its_groups():
    assert outcome.failed(FAILED_IN_TRAINING) == (Stage("train-classifier", "Error (exit code 137): OOMKilled"),)


def test_a_stage_whose_pod_was_never_made_is_found_by_its_driver():
    run = described(task("root", "FAILED", "deploy-model-driver"), task("deploy-model-driver", "FAILED", error="forbidden"))
    assert outcome.failed(run) == (Stage("deploy-model", "forbidden"),)


def test_of_many_in_a_loop_each_stage_is_told_once():
    parts = [task(f"write-{n}", "FAILED") | {"display_name": "write-tfrecords"} for n in range(5)]
    assert outcome.failed(described(task("for-loop-1", "FAILED", *(f"write-{n}" for n in range(5))), *parts)) == (
        Stage("write-tfrecords", ""),
    )


def tried(*states: str) -> dict:
    """A training that was tried several times, as Argo has it."""
    tries = [task(f"executor({number})", state, error=f"try {number}") for number, state in enumerate(states)]
    names = [one["display_name"] for one in tries]
    groups = [("root", "run"), ("run", "train-classifier"), ("train-classifier", "executor")]
    around = [task(name, states[-1], child) for name, child in groups]
    return described(*around, task("executor", states[-1], *names), *tries)


def test_a_stage_that_did_better_when_it_was_tried_again_did_not_fail():
    assert outcome.failed(tried("FAILED", "FAILED", "SUCCEEDED")) == ()
    assert outcome.failed(tried("FAILED", "FAILED")) == (Stage("train-classifier", "try 1"),)


def test_groups_that_go_round_in_a_circle_are_no_trap():
    one, other = task("a", "FAILED", "b"), task("b", "FAILED", "a")
    assert outcome.failed(described(one, other, task("c", "FAILED"))) == (Stage("c", ""),)


@pytest.mark.parametrize("run", [{}, {"run_details": None}, described(), described(task("a", "SUCCEEDED"), {})])
def test_where_nothing_failed_nothing_is_found(run):
    assert outcome.failed(run) == ()


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
def test_each_state_is_understood_where_kfp_cannot_be_asked(web, state, known):
    assert outcome.report(state, **RUN) == Outcome(known, **RUN, failed_stages=(), url="")


def test_a_run_that_is_still_said_to_run_has_failed_or_not_as_its_stages_have(web, monkeypatch, capsys):
    monkeypatch.setenv(outcome.API, web.url)
    path = f"/apis/v2beta1/runs/{RUN['run_id']}"
    web.answers[path] = 200, FAILED_IN_TRAINING
    assert outcome.report("RUNNING", **RUN).state == "FAILED"
    said = "the run failed at train-classifier\ntrain-classifier: Error (exit code 137): OOMKilled\n"
    assert capsys.readouterr().out == said
    web.answers[path] = 200, described(task("root", "RUNNING", "run"), task("run", "SUCCEEDED"))
    assert outcome.report("RUNNING", **RUN).state == "SUCCEEDED"
    assert capsys.readouterr().out == "the run ended well\n"


def test_kfp_is_shown_the_token_that_kubeflow_gives(web, monkeypatch, tmp_path):
    (tmp_path / "token").write_text("a-token\n")
    monkeypatch.setattr(outcome, "TOKEN_FILE", tmp_path / "token")
    monkeypatch.setenv(outcome.API, web.url)
    web.answers[f"/apis/v2beta1/runs/{RUN['run_id']}"] = 200, described()
    outcome.report("RUNNING", **RUN)
    ((_, headers, _),) = web.got
    assert headers["Authorization"] == "Bearer a-token"


@pytest.mark.parametrize("answer", [(403, {"error": "not yours"}), (500, {}), (200, [1]), (200, {"run_details": [1]})])
def test_where_kfp_refuses_the_state_is_told_all_the_same(web, monkeypatch, capsys, answer):
    monkeypatch.setenv(outcome.API, web.url)
    web.answers[f"/apis/v2beta1/runs/{RUN['run_id']}"] = answer
    assert outcome.report("FAILED", **RUN).state == "FAILED"
    said = capsys.readouterr().out
    assert said.startswith("warning: KFP could not be asked which stage failed (")
    assert said.endswith("the run failed\nthe log of the stage that failed ends with what was wrong\n")


def test_a_run_on_one_machine_notes_itself_which_stages_failed(web, monkeypatch, tmp_path, capsys):
    for name, value in outcome.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    assert outcome.report("FAILED", **RUN).failed_stages == ()
    for stage in (Stage("write-tfrecords", "first"), Stage("write-tfrecords", "second"), Stage("evaluate-classifier", "")):
        outcome.note(tmp_path, stage)
    capsys.readouterr()
    failed = (Stage("write-tfrecords", "second"), Stage("evaluate-classifier", ""))
    assert outcome.report("FAILED", **RUN).failed_stages == failed
    said = "write-tfrecords: second\nevaluate-classifier: its log ends with what was wrong\n"
    assert capsys.readouterr().out == f"the run failed at write-tfrecords, evaluate-classifier\n{said}"


@pytest.mark.parametrize("torn", [b'{"name": "wri', b"[1]\n", b'{"no": "stage"}\n', b"\xff\n"])
def test_a_note_that_cannot_be_read_makes_no_run_fail(web, monkeypatch, tmp_path, capsys, torn):
    (tmp_path / outcome.FAILURES_FILE).write_bytes(torn)
    monkeypatch.setenv(outcome.FAILURES, str(tmp_path / outcome.FAILURES_FILE))
    assert outcome.report("FAILED", **RUN) == Outcome("FAILED", **RUN, failed_stages=(), url="")
    assert capsys.readouterr().out.startswith("warning: which stage failed could not be read (")


def test_in_a_cluster_kfp_is_asked_where_it_usually_is(web, monkeypatch, capsys):
    port = int(web.url.rsplit(":", 1)[1])
    monkeypatch.setenv(outcome.IN_A_CLUSTER, "10.0.0.1")
    monkeypatch.setenv(outcome.API_HOST, "127.0.0.1")
    monkeypatch.setattr(outcome, "API_PORT", port)
    web.answers[f"/apis/v2beta1/runs/{RUN['run_id']}"] = 200, FAILED_IN_TRAINING
    assert outcome.report("FAILED", **RUN).failed_stages[0].name == "train-classifier"


def told(web: Web, monkeypatch, kind: str = "", ui: str = "") -> object:
    """What the webhook was sent."""
    monkeypatch.setenv(outcome.API, web.url)
    monkeypatch.setenv(outcome.WEBHOOK, web.url + PATH)
    monkeypatch.setenv(outcome.KIND, kind)
    monkeypatch.setenv(outcome.UI, ui)
    web.answers |= {f"/apis/v2beta1/runs/{RUN['run_id']}": (200, FAILED_IN_TRAINING), PATH: (200, "ok")}
    outcome.report("FAILED", **RUN)
    (sent,) = (body for path, _, body in web.got if path == PATH)
    return sent


UI = "https://kubeflow.example.org/pipeline/"
LINK = "https://kubeflow.example.org/pipeline/#/runs/details/8a2f"


def test_a_program_is_told_everything(web, monkeypatch):
    assert told(web, monkeypatch, ui=UI) == {
        "state": "FAILED",
        **RUN,
        "failed_stages": [{"name": "train-classifier", "error": "Error (exit code 137): OOMKilled"}],
        "url": LINK,
        "text": "flowers of <Monday> failed at train-classifier",
    }


def test_slack_is_told_in_its_own_way(web, monkeypatch):
    assert told(web, monkeypatch, "slack", UI) == {
        "text": "flowers of &lt;Monday&gt; failed at train-classifier\n"
        f"train-classifier: Error (exit code 137): OOMKilled\n<{LINK}|Open the run>"
    }


def test_teams_is_told_with_a_card(web, monkeypatch):
    sent = told(web, monkeypatch, "Teams", UI)
    (attachment,) = sent["attachments"]
    assert (sent["type"], attachment["contentType"]) == ("message", "application/vnd.microsoft.card.adaptive")
    card = attachment["content"]
    assert [block["text"] for block in card["body"]] == [
        "flowers of <Monday> failed at train-classifier",
        "train-classifier: Error (exit code 137): OOMKilled",
    ]
    assert card["actions"] == [{"type": "Action.OpenUrl", "title": "Open the run", "url": LINK}]


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
def test_the_host_tells_what_a_webhook_takes(host, kind):
    assert outcome.kind_of(f"https://{host}/x") == kind


def test_the_address_is_in_no_line_whatever_happens(web, monkeypatch, capsys):
    for address, said in (
        (web.url + PATH, "the webhook was told"),
        (web.url + "/gone-a-secret", "warning: the webhook was not told (HTTP 404)"),
        ("http://127.0.0.1:9/a-secret", "warning: the webhook was not told (ConnectionError)"),
        ("a-secret", "warning: the webhook was not told (MissingSchema)"),
        ("http://[a-secret", "warning: the webhook was not told (ValueError)"),
    ):
        monkeypatch.setenv(outcome.WEBHOOK, address)
        web.answers[PATH] = 200, "ok"
        outcome.report("SUCCEEDED", **RUN)
        shown = "".join(capsys.readouterr())
        assert said in shown and "a-secret" not in shown and "127.0.0.1" not in shown
