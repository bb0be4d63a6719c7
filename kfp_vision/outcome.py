"""What a run says at its end: in its log, and to whoever a webhook tells. Nothing of it can make a run fail.

Sources: the states of ML Metadata's executions, which KFP 2 hands to an exit handler; https://api.slack.com/messaging/webhooks;
https://adaptivecards.io/explorer for what Teams takes.
"""

import html
import json
import os
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kfp_vision import endings, runs
from kfp_vision.runs import API, Found, Stage
from kfp_vision.wording import plural

# All but the first may be left out; a secret gives them.
WEBHOOK, KIND = (
    "KFP_VISION_WEBHOOK",
    "KFP_VISION_WEBHOOK_KIND",
)  # its address; slack, teams or json, where the host does not tell
UI = "KFP_VISION_UI"  # address of the Kubeflow Pipelines UI, as people open it
ENVIRONMENT = (WEBHOOK, KIND, UI, API)
# Of a run on one machine, which has no such API: the file in its folder in which it notes the stages that failed, one a line,
# and the one beside it with what the others announced.
FAILURES, FAILURES_FILE, RESULTS_FILE = "KFP_VISION_FAILURES", "failed.jsonl", "results.txt"

SUCCEEDED, FAILED, CANCELED, UNKNOWN = "SUCCEEDED", "FAILED", "CANCELED", "UNKNOWN"
STATES = {"SUCCEEDED": SUCCEEDED, "COMPLETE": SUCCEEDED, "CACHED": SUCCEEDED, "FAILED": FAILED}
STATES |= {"CANCELED": CANCELED, "CANCELLED": CANCELED}  # as ML Metadata, KFP and its local runner write them
WORDS = {SUCCEEDED: "ended well", FAILED: "failed", CANCELED: "was canceled", UNKNOWN: "ended; how, KFP does not say"}
HOSTS = {"hooks.slack.com": "slack", "webhook.office.com": "teams", "logic.azure.com": "teams", "powerplatform.com": "teams"}
SECONDS = 10
# Bytes of JSON that the lines of a message may take: Teams refuses one of 28 KB in all, Slack cuts one of 40,000 characters.
MOST_BYTES, MOST_LINES = 20_000, 50
OF_A_BLOCK = 60  # bytes that Teams' card needs around a line
UNREAD = "the reason could not be read: its log in the Kubeflow UI ends with it"


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        state: SUCCEEDED, FAILED, CANCELED or UNKNOWN.
        run_name, run_id: as the Kubeflow UI shows them.
        failed_stages: as they ran; empty as well where nobody could be asked.
        results: what came of it, a line each: whether the model was accepted, where it was deployed, and the like.
        url: of the run in the UI; empty where its address is not known.
    """

    state: str
    run_name: str
    run_id: str
    failed_stages: tuple[Stage, ...]
    results: tuple[str, ...]
    url: str

    @property
    def text(self) -> str:
        """One line of how it ended and where."""
        where = " at " + ", ".join(stage.title for stage in self.failed_stages) if self.failed_stages else ""
        return f"{self.run_name} {WORDS[self.state]}{where}"

    @property
    def lines(self) -> list[str]:
        """Why each stage failed, and what came of the others."""
        return [*(f"{stage.title}: {stage.error or UNREAD}" for stage in self.failed_stages), *self.results]


def report(state: str, run_name: str, run_id: str) -> Outcome:
    """Says how a run ended, to its log and to the webhook, if there is one; what goes wrong in that is but a line of the log.

    Args:
        state: of the stages before, as KFP hands it to an exit handler.
        run_name, run_id: as KFP knows the run; of a recurring run KFP gives no name here, and is asked for it.
    """
    found = _found(run_name, run_id)
    stages = None if STATES.get(state) == SUCCEEDED else found.failed
    known = FAILED if stages else STATES.get(state, UNKNOWN)  # a run that is not said to have ended has not ended well
    ui = os.environ.get(UI, "").rstrip("/")
    name = run_name.strip() or found.name or run_id
    outcome = Outcome(known, name, run_id, stages or (), found.results, f"{ui}/#/runs/details/{run_id}" if ui else "")
    print(f"the run {outcome.text.removeprefix(name).strip()}")
    for line in outcome.lines:
        print(line)
    if known == FAILED and not outcome.failed_stages:
        print("the log of the stage that failed ends with what was wrong")
    if webhook := os.environ.get(WEBHOOK, "").strip():
        _tell(outcome, webhook)
    return outcome


def environment(run_dir: Path) -> dict[str, str]:
    """What leads the stages of a run on one machine to the failures that are noted there."""
    return {FAILURES: str(run_dir / FAILURES_FILE)}


def note(run_dir: Path, stage: Stage) -> None:
    """Notes that a stage of a run on one machine has failed, for the last stage to tell."""
    with (run_dir / FAILURES_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(stage)) + "\n")


def note_result(run_dir: Path, result: str) -> None:
    """Notes what came of a stage of a run on one machine, for the last stage to tell."""
    with (run_dir / RESULTS_FILE).open("a", encoding="utf-8") as file:
        file.write(f"{result}\n")


def noted(file: Path) -> tuple[Stage, ...]:
    """The stages that failed, each once, in a run that notes them in a file; none where there is no such file."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    stages = [Stage(**json.loads(line)) for line in lines]
    return tuple({stage.name: Stage(stage.name, endings.cut(stage.error)) for stage in stages}.values())


def body(outcome: Outcome, kind: str) -> dict[str, Any]:
    """What a webhook is sent: for Slack and what speaks as it does, for Teams, or for a program.

    Args:
        outcome: of a run.
        kind: slack, teams or json.
    """
    if kind == "slack":
        shown = _fitting([html.escape(line, quote=False) for line in map(endings.cut, (outcome.text, *outcome.lines))])
        return {"text": "\n".join(shown + ([f"<{outcome.url}|Open the run>"] if outcome.url else []))}
    if kind == "teams":
        blocks = [
            {"type": "TextBlock", "text": line, "wrap": True}
            for line in _fitting([endings.cut(line) for line in (outcome.text, *outcome.lines)])
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


def _fitting(lines: list[str]) -> list[str]:
    """As many of the lines as a message takes, and how many more there are."""
    sizes = accumulate(len(json.dumps(line)) + OF_A_BLOCK for line in lines)
    kept = lines[: min(MOST_LINES, sum(size <= MOST_BYTES for size in sizes))]
    left = len(lines) - len(kept)
    return [*kept, f"and {plural(left, 'line', 'lines')} more, in the log of {runs.LAST}"] if left else kept


def kind_of(webhook: str) -> str:
    """What a webhook takes, by its host: slack, teams or json."""
    host = urlsplit(webhook).hostname or ""
    return next((kind for end, kind in HOSTS.items() if host == end or host.endswith(f".{end}")), "json")


def _tell(outcome: Outcome, webhook: str) -> None:
    """Sends it. The address is a secret: nothing that is printed, an exception least of all, may hold it."""
    from kfp_vision.stores import web

    try:
        kind = os.environ.get(KIND, "").strip().lower() or kind_of(webhook)
        answer = web.session(retry_posts=True).post(webhook, json=body(outcome, kind), timeout=SECONDS)
    except Exception as error:  # whatever it is, it must not make a run fail
        print(f"warning: the webhook was not told ({type(error).__name__}); look at {WEBHOOK} in its secret")
    else:
        said = "was told" if answer.ok else f"was not told (HTTP {answer.status_code}); look at {WEBHOOK} in its secret"
        print(f"{'' if answer.ok else 'warning: '}the webhook {said}")


def _found(run_name: str, run_id: str) -> Found:
    """What could be found out of the run: on one machine in its folder, else of Kubernetes and KFP."""
    try:
        if FAILURES not in os.environ:
            return runs.find(run_id, named=bool(run_name.strip()))
        file = Path(os.environ[FAILURES])
        results = file.with_name(RESULTS_FILE)
        lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
        return Found(failed=noted(file), results=tuple(dict.fromkeys(map(endings.cut, lines))))
    except Exception as error:  # whatever it is, the state that KFP handed over is left
        print(f"warning: what became of the stages could not be read ({type(error).__name__})")
        return Found()
