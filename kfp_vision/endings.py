"""Why a stage ended: what it printed itself, or what Kubernetes and Argo say of its pod; and what to do about it.

Sources: Kubernetes' reasons and messages of pods and containers (pkg/kubelet, pkg/scheduler); Argo Workflows' messages of nodes
(workflow/controller/operator.go, inferFailedReason); KFP's launcher and driver, which log with glog.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kfp_vision import results
from kfp_vision.errors import InputError, without_secrets
from kfp_vision.wording import duration

LONGEST = 1000  # characters of a line that is kept: a rule, a value of 600 and a remedy
LONGEST_LINE = 1 << 16  # bytes of a line of a log; what follows them says nothing that matters
MAIN = "main"  # the container that a stage runs in
ANEW = "in pipelines/pods.py, and compile and upload the pipeline anew."
TRACEBACK = "Traceback (most recent call last)"
IGNORED = "Exception ignored"  # Python, of one that ends nothing, above its traceback
GLOG = re.compile(r"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d+\s+\d+ [\w.]+:\d+\] (.*)")
KILLED = re.compile(r"signal: killed\s*$")  # the launcher, of the process that it started
OUT_OF_MEMORY = re.compile(r"OOMKilled")
DEADLINE = re.compile(r"DeadlineExceeded|longer than the specified deadline|exceeded its deadline|Max duration limit exceeded")
NO_IMAGE = re.compile(r"ErrImagePull|ImagePullBackOff|InvalidImageName|ErrImageNeverPull|ImageInspectError|RegistryUnavailable")
NO_ROOM = re.compile(
    r"EmptyDir volume .* exceeds|local storage usage exceeds|local ephemeral storage limit|: ephemeral-storage"
)
NO_NODE = re.compile(r"Unschedulable")
TAKEN_AWAY = re.compile(
    r"pod deleted|Evicted|low on resource|[Pp]reempt|[Ss]hutdown|NodeLost|NodeAffinity|DisruptionTarget|DeletionBy|EvictionBy"
)
# Argo, of a container, `main: Error (exit code 1): TEXT`: what the container said itself at its end, whatever that may be.
TERMINATION_TEXT = re.compile(r"(?<=\(exit code )(-?\d+\)).*", re.DOTALL)
SILENT = re.compile(r"(?:\w[\w-]*: )?Error \(exit code \d+\)|child '.*' failed")  # Argo, where it knows no more
EXIT_KILLED = re.compile(r"\(exit code 137\)")


@dataclass(frozen=True)
class Log:
    """What a stage's log tells.

    Attributes:
        error: the last line of its own that says what was wrong, or the last line of a traceback behind it; empty for none.
        fatal: what the last line of KFP's own says that reports an error.
        killed: whether the process of the stage was killed.
        results: what `results.announce` printed.
    """

    error: str = ""
    fatal: str = ""
    killed: bool = False
    results: tuple[str, ...] = ()


def read(lines: Iterable[str]) -> Log:
    """Looks through a log, of any length, for the lines that matter."""
    error, fatal, killed, announced, in_traceback, ignored, before = "", "", False, [], False, False, ""
    for line in map(str.rstrip, lines):
        killed = killed or bool(KILLED.search(line))
        if of_kfp := GLOG.match(line):
            in_traceback = False
            fatal = of_kfp[2] if of_kfp[1] in "EF" else fatal
        elif line.startswith(InputError.PREFIX):
            error, in_traceback = line.removeprefix(InputError.PREFIX), False
        elif line.startswith(results.PREFIX):
            announced.append(cut(line.removeprefix(results.PREFIX)))
        elif line.startswith(TRACEBACK):
            in_traceback, ignored = True, before.startswith(IGNORED)
        elif in_traceback and line and not line.startswith(" "):
            error, in_traceback = error if ignored else line, False
        before = line
    return Log(cut(error), cut(fatal), killed, tuple(announced))


def lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """The lines of a text that comes in pieces, each no longer than `LONGEST_LINE`."""
    rest = b""
    for chunk in chunks:
        more, *others = chunk.split(b"\n")
        rest += more[: LONGEST_LINE - len(rest)]
        for other in others:
            yield rest.decode("utf-8", "replace")
            rest = other[:LONGEST_LINE]
    if rest:
        yield rest.decode("utf-8", "replace")


def reason(stage: str, message: str, pod: Mapping[str, Any], log: Log) -> str:
    """Why a stage failed, in one line with what to do about it; empty where nothing says.

    Args:
        stage: its name.
        message: what Argo says of it.
        pod: as Kubernetes has it; empty where it is gone, or nobody may look.
        log: of the stage; empty where there is none.
    """
    return cut(_of_pod(stage, message, pod) or log.error or _of_what_is_left(stage, message, log))


def _of_pod(stage: str, message: str, pod: Mapping[str, Any]) -> str:
    """What was done to a pod from outside; empty where the stage ended by itself."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    container = _main(spec.get("containers"))
    said = [TERMINATION_TEXT.sub(r"\1", " ".join(message.split())), *_said(status)]

    def about(pattern: re.Pattern[str]) -> str:
        return next((line for line in said if pattern.search(line)), "")

    if about(OUT_OF_MEMORY):
        limit = ((container.get("resources") or {}).get("limits") or {}).get("memory", "")
        than = f"more memory than the {limit} that it may take" if limit else "more memory than it may take"
        return f"it needed {than}, and was killed (OOMKilled). Raise memory of {stage} {ANEW}"
    if about(DEADLINE):
        image = container.get("image", "")
        if image and not _main(status.get("containerStatuses")).get("imageID"):
            return f"its time was up before it had begun, as happens where {_unpulled(image)}"
        when = f"after {duration(seconds)}" if (seconds := spec.get("activeDeadlineSeconds")) else "when its time was up"
        return f"it was stopped {when} (DeadlineExceeded). Raise seconds of {stage} {ANEW}"
    if found := about(NO_IMAGE):
        return f"{_unpulled(container.get('image', ''))} Kubernetes says: {found}"
    if found := about(NO_ROOM):
        return f"it wrote more than there is room for ({found}). Raise room of {stage} {ANEW}"
    if found := about(NO_NODE):
        asked = "Look at node_selector, tolerations and gpu_type; gpu_count=0 needs no GPU."
        return f"no node takes its pod ({found}). {asked}"
    if found := about(TAKEN_AWAY):
        return f"its pod was taken away, or its node ({found}). Start the run again; what is cached is not made twice."
    return ""


def _of_what_is_left(stage: str, message: str, log: Log) -> str:
    if log.killed or EXIT_KILLED.search(TERMINATION_TEXT.sub(r"\1", message)):
        return f"it was killed, as happens where memory is short. Raise memory of {stage} {ANEW}"
    return "" if SILENT.fullmatch(message) else message.removeprefix(f"{MAIN}: ")


def _said(status: Mapping[str, Any]) -> list[str]:
    """All that Kubernetes itself says of a pod, of its conditions and of each container, without what a container said."""
    said = [_joined(status)]
    for condition in status.get("conditions") or []:
        if condition.get("type") == "DisruptionTarget":
            said.append(_joined(condition, "DisruptionTarget"))
        elif condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            said.append(_joined(condition))
    for container in (*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])):
        for state in (container.get("state") or {}, container.get("lastState") or {}):
            said += [_joined(state.get("waiting") or {}), (state.get("terminated") or {}).get("reason") or ""]
    return [line for line in said if line]


def _joined(what: Mapping[str, Any], *before: str) -> str:
    return ": ".join(" ".join(part.split()) for part in (*before, what.get("reason"), what.get("message")) if part)


def _main(containers: Any) -> Mapping[str, Any]:
    return next((one for one in containers or [] if one.get("name") == MAIN), {})


def _unpulled(image: str) -> str:
    what = f"its image {image}" if image else "its image"
    remedy = "compile with the --registry that has it, and give the secret kfp-vision-registry where that asks for a key"
    return f"{what} cannot be pulled: {remedy} (manifests/README.md)."


def cut(line: str) -> str:
    """A line as it may leave the cluster: not endless, and without what signs an address."""
    line = without_secrets(" ".join(line.split()))
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."
