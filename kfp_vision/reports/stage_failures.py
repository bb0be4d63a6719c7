"""Explains why a stage failed, from its log or from what Kubernetes and Argo report about its pod, and gives a remedy.

Sources: reasons and messages of pods and containers in Kubernetes (pkg/kubelet, pkg/scheduler); messages of nodes in Argo
Workflows (workflow/controller/operator.go, inferFailedReason); KFP's launcher and driver, which log with glog.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kfp_vision.core.errors import InputError, redact
from kfp_vision.reports.formatting import duration
from kfp_vision.reports.results import RESULT_PREFIX

MAX_LINE_LENGTH = 1000  # characters of a reported line: a rule, a value of 600 and a remedy
MAX_LOG_LINE_BYTES = 1 << 16  # bytes of a log line; the rest is dropped
MAIN_CONTAINER = "main"  # the container that runs the stage
RECOMPILE = "in pipelines/pods.py, recompile the pipeline, and upload it."
TRACEBACK = "Traceback (most recent call last)"
IGNORED_EXCEPTION = "Exception ignored"  # Python prints it above the traceback of an exception that does not end the process
GLOG = re.compile(r"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d+\s+\d+ [\w.]+:\d+\] (.*)")
KILLED = re.compile(r"signal: killed\s*$")  # printed by KFP's launcher about its child process
OUT_OF_MEMORY = re.compile(r"OOMKilled")
DEADLINE = re.compile(r"DeadlineExceeded|longer than the specified deadline|exceeded its deadline|Max duration limit exceeded")
IMAGE_NOT_PULLED = re.compile(
    r"ErrImagePull|ImagePullBackOff|InvalidImageName|ErrImageNeverPull|ImageInspectError|RegistryUnavailable"
)
DISK_FULL = re.compile(
    r"EmptyDir volume .* exceeds|local storage usage exceeds|local ephemeral storage limit|: ephemeral-storage"
)
UNSCHEDULABLE = re.compile(r"Unschedulable")
EVICTED = re.compile(
    r"pod deleted|Evicted|low on resource|[Pp]reempt|[Ss]hutdown|NodeLost|NodeAffinity|DisruptionTarget|DeletionBy|EvictionBy"
)
# Argo writes `main: Error (exit code 1): TEXT`, where TEXT is the container's own termination message and can be anything.
TERMINATION_TEXT = re.compile(r"(?<=\(exit code )(-?\d+\)).*", re.DOTALL)
NO_REASON = re.compile(r"(?:\w[\w-]*: )?Error \(exit code \d+\)|child '.*' failed")  # Argo, without a reason
EXIT_KILLED = re.compile(r"\(exit code 137\)")


@dataclass(frozen=True)
class StageLog:
    """What the log of a stage says.

    Attributes:
        error: the last error line or the last line of a traceback, whichever is later; empty for none.
        fatal: the last error that KFP logged; empty for none.
        killed: whether the process of the stage was killed.
        results: the results that the stage announced.
    """

    error: str = ""
    fatal: str = ""
    killed: bool = False
    results: tuple[str, ...] = ()


def read_log(log: Iterable[str]) -> StageLog:
    """Extracts errors and results from a log.

    Args:
        log: the lines of the log; any number.

    Returns:
        The extracted lines.

    Example:
        read_log(["outcome: 20 images in 2 files", "error: the disk is full"]).error  # "the disk is full"
    """
    error, fatal, killed, announced = "", "", False, []
    in_traceback, ignored, before = False, False, ""
    for line in map(str.rstrip, log):
        killed = killed or bool(KILLED.search(line))
        if of_kfp := GLOG.match(line):
            in_traceback = False
            fatal = of_kfp[2] if of_kfp[1] in "EF" else fatal
        elif line.startswith(InputError.PREFIX):
            error, in_traceback = line.removeprefix(InputError.PREFIX), False
        elif line.startswith(RESULT_PREFIX):
            announced.append(clean_line(line.removeprefix(RESULT_PREFIX)))
        elif line.startswith(TRACEBACK):
            in_traceback, ignored = True, before.startswith(IGNORED_EXCEPTION)
        elif in_traceback and line and not line.startswith(" "):
            error, in_traceback = error if ignored else line, False
        before = line
    return StageLog(clean_line(error), clean_line(fatal), killed, tuple(announced))


def split_lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Splits a stream of bytes into lines.

    Args:
        chunks: pieces of UTF-8 text, of any size.

    Yields:
        The lines, each cut to `MAX_LOG_LINE_BYTES` bytes.
    """
    rest = b""
    for chunk in chunks:
        more, *others = chunk.split(b"\n")
        rest += more[: MAX_LOG_LINE_BYTES - len(rest)]
        for other in others:
            yield rest.decode("utf-8", "replace")
            rest = other[:MAX_LOG_LINE_BYTES]
    if rest:
        yield rest.decode("utf-8", "replace")


def explain_failure(stage: str, message: str, pod: Mapping[str, Any], log: StageLog) -> str:
    """Explains why a stage failed.

    Args:
        stage: name of the stage.
        message: Argo's message about its node.
        pod: the pod in Kubernetes' API; empty if it is gone or access is denied.
        log: the log of the stage; empty if there is none.

    Returns:
        The reason and a remedy in one line; empty if unknown.
    """
    return clean_line(_from_pod(stage, message, pod) or log.error or _from_exit(stage, message, log))


def _from_pod(stage: str, message: str, pod: Mapping[str, Any]) -> str:
    """Explains what Kubernetes or Argo did to a pod; empty if the stage ended without them."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    container = _main(spec.get("containers"))
    reports = [TERMINATION_TEXT.sub(r"\1", " ".join(message.split())), *_reports(status)]

    def first(pattern: re.Pattern[str]) -> str:
        return next((line for line in reports if pattern.search(line)), "")

    if first(OUT_OF_MEMORY):
        limit = ((container.get("resources") or {}).get("limits") or {}).get("memory", "")
        of_size = f" of {limit}" if limit else ""
        return f"it exceeded its memory limit{of_size} and was killed (OOMKilled). Raise memory of {stage} {RECOMPILE}"
    if first(DEADLINE):
        image = container.get("image", "")
        if image and not _main(status.get("containerStatuses")).get("imageID"):
            return f"its deadline passed before it started, probably because {_unpulled(image)}"
        after = f" of {duration(seconds)}" if (seconds := spec.get("activeDeadlineSeconds")) else ""
        return f"it was stopped at its deadline{after} (DeadlineExceeded). Raise seconds of {stage} {RECOMPILE}"
    if found := first(IMAGE_NOT_PULLED):
        return f"{_unpulled(container.get('image', ''))} Kubernetes reports: {found}"
    if found := first(DISK_FULL):
        return f"it exceeded its disk limit ({found}). Raise room of {stage} {RECOMPILE}"
    if found := first(UNSCHEDULABLE):
        remedy = "Check node_selector, tolerations and gpu_type; gpu_count=0 needs no GPU."
        return f"no node can run its pod ({found}). {remedy}"
    if found := first(EVICTED):
        return f"its pod was evicted or deleted ({found}). Start the run again; cached stages are not repeated."
    return ""


def _from_exit(stage: str, message: str, log: StageLog) -> str:
    if log.killed or EXIT_KILLED.search(TERMINATION_TEXT.sub(r"\1", message)):
        return f"it was killed, probably for lack of memory. Raise memory of {stage} {RECOMPILE}"
    return "" if NO_REASON.fullmatch(message) else message.removeprefix(f"{MAIN_CONTAINER}: ")


def _reports(status: Mapping[str, Any]) -> list[str]:
    """Lists what Kubernetes reports about a pod, its conditions and its containers, without the containers' own messages."""
    reports = [_joined(status)]
    for condition in status.get("conditions") or []:
        if condition.get("type") == "DisruptionTarget":
            reports.append(_joined(condition, "DisruptionTarget"))
        elif condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            reports.append(_joined(condition))
    for container in (*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])):
        for state in (container.get("state") or {}, container.get("lastState") or {}):
            reports += [_joined(state.get("waiting") or {}), (state.get("terminated") or {}).get("reason") or ""]
    return [line for line in reports if line]


def _joined(source: Mapping[str, Any], *prefix: str) -> str:
    return ": ".join(" ".join(part.split()) for part in (*prefix, source.get("reason"), source.get("message")) if part)


def _main(containers: Any) -> Mapping[str, Any]:
    return next((one for one in containers or [] if one.get("name") == MAIN_CONTAINER), {})


def _unpulled(image: str) -> str:
    subject = f"its image {image}" if image else "its image"
    remedy = "compile with the --registry that has it, and create the secret kfp-vision-registry if that requires credentials"
    return f"{subject} cannot be pulled: {remedy} (manifests/README.md)."


def clean_line(line: str) -> str:
    """Prepares a line for a message: without secrets in addresses, and not too long.

    Args:
        line: any text.

    Returns:
        The text on one line, cut to `MAX_LINE_LENGTH` characters.
    """
    line = redact(" ".join(line.split()))
    return line if len(line) <= MAX_LINE_LENGTH else f"{line[:MAX_LINE_LENGTH]}..."
