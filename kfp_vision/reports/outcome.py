"""Reports how a run ended, in its log and to a webhook. Failures of the report never fail the run.

Sources: the states of executions in ML Metadata, which KFP 2 passes to an exit handler; Slack's webhooks
(https://api.slack.com/messaging/webhooks); Teams' cards (https://adaptivecards.io/explorer).
"""

import html
import json
import os
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kfp_vision.core import json_text
from kfp_vision.reports import run_state, stage_failures
from kfp_vision.reports.formatting import plural
from kfp_vision.reports.run_state import API_VARIABLE, FailedStage, RunReport

# Environment variables, set from a secret; all but the first are optional.
WEBHOOK = "KFP_VISION_WEBHOOK"  # its address
WEBHOOK_KIND = "KFP_VISION_WEBHOOK_KIND"  # slack, teams or json; by default inferred from the host
UI_ADDRESS = "KFP_VISION_UI"  # address of the Kubeflow Pipelines UI
WEBHOOK_KINDS = ("slack", "teams", "json")
REPORT_ENVIRONMENT = (WEBHOOK, WEBHOOK_KIND, UI_ADDRESS, API_VARIABLE)
# A run on one machine has no such API. It lists failed stages in a file in its folder, which this variable names, and the
# results of the others in a file beside it.
FAILURES_VARIABLE, FAILURES_FILE, RESULTS_FILE = "KFP_VISION_FAILURES", "failed.jsonl", "results.txt"

SUCCEEDED, FAILED, CANCELED, UNKNOWN = "SUCCEEDED", "FAILED", "CANCELED", "UNKNOWN"
STATES = {"SUCCEEDED": SUCCEEDED, "COMPLETE": SUCCEEDED, "CACHED": SUCCEEDED, "FAILED": FAILED}
STATES |= {"CANCELED": CANCELED, "CANCELLED": CANCELED}  # the spellings of ML Metadata, KFP and its local runner
STATE_WORDS = {SUCCEEDED: "succeeded", FAILED: "failed", CANCELED: "was canceled", UNKNOWN: "ended with an unknown status"}
WEBHOOK_HOSTS = {
    "hooks.slack.com": "slack",
    "webhook.office.com": "teams",
    "logic.azure.com": "teams",
    "powerplatform.com": "teams",
}
WEBHOOK_TIMEOUT = 10  # timeout of the webhook
# The bytes are JSON of the lines. Teams refuses messages of 28 KB in total, Slack truncates at 40,000 characters.
MAX_MESSAGE_BYTES, MAX_MESSAGE_LINES = 20_000, 50
TEST_NAME = "the test of kfp-vision doctor"  # in place of a run's name
BLOCK_BYTES = 60  # bytes per line for the block of Teams' card
UNKNOWN_REASON = "the reason could not be read; see the end of its log in the Kubeflow UI"


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        state: SUCCEEDED, FAILED, CANCELED or UNKNOWN.
        run_name: name in the Kubeflow UI.
        run_id: id in the Kubeflow UI.
        failed_stages: failed stages in execution order; also empty if unknown.
        results: results of the stages, such as whether the model was accepted and where it was deployed.
        url: address of the run in the UI; empty if the UI's address is unknown.
    """

    state: str
    run_name: str
    run_id: str
    failed_stages: tuple[FailedStage, ...]
    results: tuple[str, ...]
    url: str

    @property
    def text(self) -> str:
        """How the run ended, with the failed stages, in one line."""
        where = " at " + ", ".join(stage.title for stage in self.failed_stages) if self.failed_stages else ""
        return f"{self.run_name} {STATE_WORDS[self.state]}{where}"

    @property
    def lines(self) -> list[str]:
        """The reason of each failed stage, then the results."""
        return [*(f"{stage.title}: {stage.error or UNKNOWN_REASON}" for stage in self.failed_stages), *self.results]


def report(state: str, run_name: str, run_id: str) -> Outcome:
    """Reports how a run ended, in the log and to the webhook, if one is set; failures of that are printed as warnings.

    Args:
        state: state of the previous stages, as KFP passes it to an exit handler.
        run_name: name of the run; empty in recurring runs, then KFP is asked for it.
        run_id: KFP's id of the run.

    Returns:
        The reported outcome.

    Example:
        report("FAILED", "flowers", "8a2f1c0e-...").failed_stages
    """
    found = _find(run_name, run_id)
    stages = None if STATES.get(state) == SUCCEEDED else found.failed
    known = FAILED if stages else STATES.get(state, UNKNOWN)  # KFP may still say RUNNING
    ui = os.environ.get(UI_ADDRESS, "").rstrip("/")
    name = run_name.strip() or found.name or run_id
    outcome = Outcome(known, name, run_id, stages or (), found.results, f"{ui}/#/runs/details/{run_id}" if ui else "")
    print(f"the run {outcome.text.removeprefix(name).strip()}")
    for line in outcome.lines:
        print(line)
    if known == FAILED and not outcome.failed_stages:
        print("see the end of the failed stage's log for the reason")
    if webhook := os.environ.get(WEBHOOK, "").strip():
        _notify(outcome, webhook)
    return outcome


def send_test_message() -> bool:
    """Sends a message to the webhook in the environment, to see whether it arrives, and prints the answer.

    Returns:
        Whether the receiver accepted it.
    """
    lines = ("This is a test message. Nothing was run.",)
    return _notify(Outcome(SUCCEEDED, TEST_NAME, "", (), lines, ""), os.environ[WEBHOOK].strip())


def failures_environment(run_dir: Path) -> dict[str, str]:
    """Returns the environment variable that tells the stages of a run on one machine where its failures are listed.

    Args:
        run_dir: folder of the run.

    Returns:
        The variable's name and value.
    """
    return {FAILURES_VARIABLE: str(run_dir / FAILURES_FILE)}


def record_failure(run_dir: Path, stage: FailedStage) -> None:
    """Records a failed stage of a run on one machine, for the report of the last stage.

    Args:
        run_dir: folder of the run.
        stage: the failed stage.
    """
    with (run_dir / FAILURES_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(stage)) + "\n")


def record_result(run_dir: Path, result: str) -> None:
    """Records the result of a stage of a run on one machine, for the report of the last stage.

    Args:
        run_dir: folder of the run.
        result: the line that the stage announced.
    """
    with (run_dir / RESULTS_FILE).open("a", encoding="utf-8") as file:
        file.write(f"{result}\n")


def read_failures(file: Path) -> tuple[FailedStage, ...]:
    """Reads the failed stages of a run on one machine.

    Args:
        file: the file in which they are recorded; may be missing.

    Returns:
        Each failed stage once, with its last error.
    """
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    stages = [FailedStage(**json_text.parse(line)) for line in lines]
    return tuple({stage.name: FailedStage(stage.name, stage_failures.clean_line(stage.error)) for stage in stages}.values())


def webhook_payload(outcome: Outcome, kind: str) -> dict[str, Any]:
    """Builds the payload of a webhook.

    Args:
        outcome: outcome of the run.
        kind: `slack` (also for compatible services), `teams`, or `json` for programs.

    Returns:
        The payload, ready for JSON.
    """
    if kind == "slack":
        shown = _truncate(
            [html.escape(line, quote=False) for line in map(stage_failures.clean_line, (outcome.text, *outcome.lines))]
        )
        return {"text": "\n".join(shown + ([f"<{outcome.url}|Open the run>"] if outcome.url else []))}
    if kind == "teams":
        blocks = [
            {"type": "TextBlock", "text": line, "wrap": True}
            for line in _truncate([stage_failures.clean_line(line) for line in (outcome.text, *outcome.lines)])
        ]
        actions = [{"type": "Action.OpenUrl", "title": "Open the run", "url": outcome.url}] if outcome.url else []
        card = {
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.4",
            "body": blocks,
            "actions": actions,
        }
        attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "content": card}
        return {"type": "message", "attachments": [attachment]}
    return asdict(outcome) | {"text": outcome.text}


def _truncate(lines: list[str]) -> list[str]:
    """Returns as many lines as fit into a message, and a line with the number of the others."""
    sizes = accumulate(len(json.dumps(line)) + BLOCK_BYTES for line in lines)
    kept = lines[: min(MAX_MESSAGE_LINES, sum(size <= MAX_MESSAGE_BYTES for size in sizes))]
    left = len(lines) - len(kept)
    return [*kept, f"and {plural(left, 'more line', 'more lines')} in the log of {run_state.LAST_STAGE}"] if left else kept


def webhook_kind(webhook: str) -> str:
    """Infers from the host of a webhook what payload it takes.

    Args:
        webhook: its address.

    Returns:
        `slack`, `teams` or `json`.
    """
    host = urlsplit(webhook).hostname or ""
    return next((kind for end, kind in WEBHOOK_HOSTS.items() if host == end or host.endswith(f".{end}")), "json")


def _notify(outcome: Outcome, webhook: str) -> bool:
    """Sends the outcome to the webhook. Its address is a secret and must not be printed, hence no exception either.

    Returns:
        Whether the receiver accepted it.
    """
    import requests

    from kfp_vision.storage import http

    try:
        kind = os.environ.get(WEBHOOK_KIND, "").strip().lower() or webhook_kind(webhook)
        if kind not in WEBHOOK_KINDS:  # not printed: it may be the address
            print(f"warning: {WEBHOOK_KIND} must be one of {', '.join(WEBHOOK_KINDS)}, and counts as json as it is")
        answer = http.retrying_session(retry_posts=True).post(
            webhook, json=webhook_payload(outcome, kind), timeout=WEBHOOK_TIMEOUT
        )
        problem = "" if answer.ok else f"HTTP {answer.status_code}"
    except (requests.ConnectionError, requests.Timeout):
        problem = "its server does not answer"
    except ValueError:
        problem = "it is no address such as https://host/path"
    except Exception as error:  # no failure of a webhook may fail the run
        problem = type(error).__name__
    if problem:
        print(f"warning: the webhook could not be notified ({problem}); check {WEBHOOK}, on a cluster in its secret")
    else:
        print("the webhook was notified")
    return not problem


def _find(run_name: str, run_id: str) -> RunReport:
    """Returns what is known about the run: on one machine from its folder, on a cluster from Kubernetes and KFP."""
    try:
        if FAILURES_VARIABLE not in os.environ:
            return run_state.inspect_run(run_id, name_known=bool(run_name.strip()))
        file = Path(os.environ[FAILURES_VARIABLE])
        results = file.with_name(RESULTS_FILE)
        lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
        return RunReport(failed=read_failures(file), results=tuple(dict.fromkeys(map(stage_failures.clean_line, lines))))
    except Exception as error:  # the state from KFP is enough for a report
        print(f"warning: the status of the stages could not be read ({type(error).__name__})")
        return RunReport()
