"""What a run says at its end: in its log, and to whoever a webhook tells. Nothing of it can make a run fail.

Sources: KFP's REST API v2beta1 (GET /apis/v2beta1/runs/ID); the states of ML Metadata's executions, which KFP 2 hands to an
exit handler; https://api.slack.com/messaging/webhooks; https://adaptivecards.io/explorer for what Teams takes.
"""

import html
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# All but the first may be left out; a secret gives them.
WEBHOOK, KIND = (
    "KFP_VISION_WEBHOOK",
    "KFP_VISION_WEBHOOK_KIND",
)  # its address; slack, teams or json, where the host does not tell
UI = "KFP_VISION_UI"  # address of the Kubeflow Pipelines UI, as people open it
API = "KFP_VISION_PIPELINES_API"  # where KFP's API is not at its usual place
ENVIRONMENT = (WEBHOOK, KIND, UI, API)
# Of a run on one machine, which has no such API: the file in its folder in which it notes the stages that failed, one a line.
FAILURES, FAILURES_FILE = "KFP_VISION_FAILURES", "failed.jsonl"

SUCCEEDED, FAILED, CANCELED, UNKNOWN = "SUCCEEDED", "FAILED", "CANCELED", "UNKNOWN"
STATES = {"SUCCEEDED": SUCCEEDED, "COMPLETE": SUCCEEDED, "CACHED": SUCCEEDED, "FAILED": FAILED}
STATES |= {"CANCELED": CANCELED, "CANCELLED": CANCELED}  # as ML Metadata, KFP and its local runner write them
WORDS = {SUCCEEDED: "ended well", FAILED: "failed", CANCELED: "was canceled", UNKNOWN: "ended; how, KFP does not say"}
HOSTS = {"hooks.slack.com": "slack", "webhook.office.com": "teams", "logic.azure.com": "teams", "powerplatform.com": "teams"}
INNER = ("executor", "driver", "system-container-impl", "system-container-executor", "system-container-driver")
TRY = re.compile(r"\(\d+\)$")  # ends the name of one of several tries
IN_A_CLUSTER = "KUBERNETES_SERVICE_HOST"  # in the environment of every pod
API_HOST, API_PORT = "ML_PIPELINE_SERVICE_HOST", 8888  # in the environment of pods in KFP's own namespace
API_ELSEWHERE = "ml-pipeline.kubeflow"
TOKEN_FILE = Path("/var/run/secrets/kubeflow/pipelines/token")  # where Kubeflow puts it in pods that may ask KFP
LONGEST = 300  # characters of an error
SECONDS = 10


@dataclass(frozen=True)
class Stage:
    """A stage that failed, as KFP calls it, and what KFP says of it."""

    name: str
    error: str


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        state: SUCCEEDED, FAILED, CANCELED or UNKNOWN.
        run_name, run_id: as the Kubeflow UI shows them.
        failed_stages: empty as well where nobody could be asked.
        url: of the run in the UI; empty where its address is not known.
    """

    state: str
    run_name: str
    run_id: str
    failed_stages: tuple[Stage, ...]
    url: str

    @property
    def text(self) -> str:
        """One line of how it ended and where."""
        where = " at " + ", ".join(stage.name for stage in self.failed_stages) if self.failed_stages else ""
        return f"{self.run_name} {WORDS[self.state]}{where}"


def report(state: str, run_name: str, run_id: str) -> Outcome:
    """Says how a run ended, to its log and to the webhook, if there is one; what goes wrong in that is but a line of the log.

    Args:
        state: of the stages before, as KFP hands it to an exit handler.
        run_name, run_id: as KFP knows the run.
    """
    stages = None if STATES.get(state) == SUCCEEDED else _failed_stages(run_id)
    known = FAILED if stages else STATES.get(state, UNKNOWN if stages is None else SUCCEEDED)
    ui = os.environ.get(UI, "").rstrip("/")
    outcome = Outcome(known, run_name, run_id, stages or (), f"{ui}/#/runs/details/{run_id}" if ui else "")
    print(f"the run {outcome.text.removeprefix(run_name).strip()}")
    for stage in outcome.failed_stages:
        print(f"{stage.name}: {stage.error or 'its log ends with what was wrong'}")
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


def noted(file: Path) -> tuple[Stage, ...]:
    """The stages that failed, each once, in a run that notes them in a file; none where there is no such file."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    stages = [Stage(**json.loads(line)) for line in lines]
    return tuple({stage.name: Stage(stage.name, stage.error[:LONGEST]) for stage in stages}.values())


def body(outcome: Outcome, kind: str) -> dict[str, Any]:
    """What a webhook is sent: for Slack and what speaks as it does, for Teams, or for a program.

    Args:
        outcome: of a run.
        kind: slack, teams or json.
    """
    lines = [f"{stage.name}: {stage.error}" for stage in outcome.failed_stages if stage.error]
    if kind == "slack":
        shown = [html.escape(line, quote=False) for line in (outcome.text, *lines)]
        return {"text": "\n".join(shown + ([f"<{outcome.url}|Open the run>"] if outcome.url else []))}
    if kind == "teams":
        blocks = [{"type": "TextBlock", "text": line, "wrap": True} for line in (outcome.text, *lines)]
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


def _failed_stages(run_id: str) -> tuple[Stage, ...] | None:
    """The stages that failed, as KFP's API knows them, or the run itself on one machine; None where neither can be asked."""
    if FAILURES in os.environ:
        try:
            return noted(Path(os.environ[FAILURES]))
        except (OSError, ValueError, TypeError) as error:
            print(f"warning: which stage failed could not be read ({type(error).__name__})")
            return None
    address = os.environ.get(API, "").rstrip("/")
    if not address:
        if IN_A_CLUSTER not in os.environ:
            return None
        address = f"http://{os.environ.get(API_HOST, API_ELSEWHERE)}:{API_PORT}"
    from kfp_vision.stores import web

    try:
        token = {"Authorization": f"Bearer {TOKEN_FILE.read_text().strip()}"} if TOKEN_FILE.exists() else {}
        answer = web.session().get(f"{address}/apis/v2beta1/runs/{run_id}", headers=token, timeout=SECONDS)
        answer.raise_for_status()
        return failed(answer.json())
    except Exception as error:  # an API of another version, or none: the state that KFP handed over is left
        reason = getattr(getattr(error, "response", None), "status_code", "") or type(error).__name__
        print(f"warning: KFP could not be asked which stage failed ({reason} at {address})")
        return None


def failed(run: Mapping[str, Any]) -> tuple[Stage, ...]:
    """The stages of a run that failed, each once; not those that did better when they were tried again.

    KFP tells of all pods and groups of them: a stage's own pod is an `executor` within it, each try of it is an `executor(0)`
    within that, and the groups around it have failed as well.

    Args:
        run: as KFP's API describes it.
    """
    tasks = (run.get("run_details") or {}).get("task_details") or []
    parents = {key: task for task in tasks for child in task.get("child_tasks") or [] for key in _keys(child)}
    broken = [task for task in tasks if task.get("state") == FAILED]
    groups = {id(parents[key]) for task in broken for key in _keys(task) if key in parents}
    stages: dict[str, Stage] = {}
    for task in broken:
        above = list(_above(task, parents))
        if id(task) in groups or any(one.get("state") == SUCCEEDED for one in above):
            continue
        names = [TRY.sub("", str(one.get("display_name", ""))) for one in (task, *above)]
        name = next((name for name in names if name not in INNER), names[0]).removesuffix("-driver")
        error = " ".join((task.get("error") or {}).get("message", "").split())[:LONGEST]
        if error or name not in stages:
            stages[name] = Stage(name, error)  # of the last try
    return tuple(stages.values())


def _above(task: Mapping[str, Any], parents: Mapping[str, Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The groups that a task stands in, the innermost first."""
    seen = {id(task)}
    while (group := next((parents[key] for key in _keys(task) if key in parents), None)) and id(group) not in seen:
        yield group
        seen.add(id(group))
        task = group


def _keys(task: Mapping[str, Any]) -> list[str]:
    """What others call a task by: its own identifier, or its pod's name."""
    return [task[name] for name in ("task_id", "pod_name") if task.get(name)]
