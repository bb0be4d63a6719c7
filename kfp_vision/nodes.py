"""The nodes of a cluster: whether one of them can hold the training's pod, asked before anything is trained.

The rules are Kubernetes' own: how many GPUs are allocatable of a node against how many the pod asks for, its labels against the
node selector, its taints against the tolerations. GPUs in use count as well, since whoever uses them ends one day; cores and
memory are not compared.
https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node and .../taint-and-toleration
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kfp_vision.errors import InputError
from kfp_vision.wording import plural

STAGE = ("KUBERNETES_SERVICE_HOST", "KFP_POD_NAME")  # a run in the pod of a notebook trains there; KFP names its own pods
TOKEN_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
PAGE = 500  # nodes an answer
CONNECT_SECONDS, READ_SECONDS = 5, 20
RIGHT = "the ClusterRole of manifests/nodes"

RESOURCE = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
OPERATORS = ("Exists", "Equal")
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
KEEPING_AWAY = ("NoSchedule", "NoExecute")  # the third is a wish
CORDON = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
# Taints that Kubernetes sets for as long as a condition lasts, and takes away by itself.
PASSING = frozenset(
    {
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
        "node.kubernetes.io/memory-pressure",
        "node.kubernetes.io/disk-pressure",
        "node.kubernetes.io/pid-pressure",
        "node.kubernetes.io/network-unavailable",
        "node.cloudprovider.kubernetes.io/uninitialized",
    }
)
MOST_REASONS = 6  # that a refusal lists


class Unread(Exception):
    """The nodes could not be read; says why in a few words."""


@dataclass(frozen=True)
class Demand:
    """What the training's pod asks of a node.

    Attributes:
        resource: what a GPU is called there, such as `nvidia.com/gpu`, `amd.com/gpu` or `nvidia.com/mig-1g.10gb`.
        count: how many of them; 0 for none.
        labels: the node selector.
        tolerations: of taints, as Kubernetes writes them.
    """

    resource: str
    count: int
    labels: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()

    def __str__(self) -> str:
        asked = [f"{self.resource}: {self.count}"] if self.count else []
        return " and ".join(asked + ([_labels(self.labels)] if self.labels else []))


def check(demand: Demand) -> None:
    """Refuses what no node can hold, in a stage on a cluster, and says there what the training waits for.

    Where nothing is asked of a node, any will do: one holds this stage. Where the nodes cannot be read, it only says so.

    Raises:
        InputError: there is no such node.
    """
    if not (demand.count or demand.labels) or not _is_stage():
        return
    try:
        print(choose(_nodes(), demand), flush=True)
    except Unread as error:
        print(f"the training waits for a node with {demand}; whether there is one could not be read: {error}", flush=True)


def choose(nodes: Iterable[Mapping[str, Any]], demand: Demand) -> str:
    """Says which node can hold the training, or which one could before long; the rest is not looked at once there is one.

    Args:
        nodes: as the Kubernetes API gives them.
        demand: what is asked of one.

    Raises:
        InputError: none can, with what stands in the way, by the number of nodes.
        Unread: there are none at all, which no pod would see.
    """
    obstacles: Counter[tuple[int, str]] = Counter()
    later = ""
    for node in nodes:
        if reason := obstacle(node, demand):
            obstacles[reason] += 1
            continue
        has = f" (it has {demand.resource}: {_available(node, demand.resource)})" if demand.count else ""
        name = node["metadata"]["name"]
        if not (taints := [taint for taint in _taints(node) if not _tolerated(taint, demand.tolerations)]):
            return f"node {name} can hold the training{has}"
        later = later or f"the training waits for node {name}{has}: {_outlook(taints, demand)}"
    if later:
        return later
    if not obstacles:
        raise Unread("the cluster lists none")
    raise _refusal(obstacles, demand)


def obstacle(node: Mapping[str, Any], demand: Demand) -> tuple[int, str] | None:
    """What keeps the training off a node for good, if anything: how close it came, and why, to be read after a number."""
    available = _available(node, demand.resource)
    if demand.count and not available:
        others = _others(node)
        return 0, f"without {demand.resource}" + (f" but with {', '.join(others)}" if others else "")
    if demand.count > available:
        return 1, f"with {demand.resource}: {available}"
    there = node["metadata"].get("labels") or {}
    if missing := {key: value for key, value in demand.labels.items() if there.get(key) != value}:
        return 2, f"without {_labels(missing)}"
    for taint in _taints(node):
        lasting = taint["key"] not in PASSING and not _is_of_the_resource(taint, demand)
        if lasting and not _tolerated(taint, demand.tolerations):
            cordoned = taint["key"] == CORDON["key"]
            return (4, "cordoned") if cordoned else (3, f"with the taint {_written(taint)}")
    return None


def tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    """Kubernetes' rule: without an effect, or a key, it tolerates each; the operator is Equal where there is none."""
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("key") not in (None, "", taint["key"]):
        return False
    exists = toleration.get("operator") == "Exists"
    return exists or (toleration.get("value") or "") == (taint.get("value") or "")


def check_resource(resource: str) -> None:
    """Refuses what cannot be the name of a resource that a cluster adds to those of Kubernetes: KFP would ask for none.

    Raises:
        InputError: naming gpu_type.
    """
    if not RESOURCE.fullmatch(resource):
        rule = "gpu_type must be what nodes call their GPUs, a domain and a name"
        raise InputError(rule, resource, "Write it as nvidia.com/gpu, say, or set gpu_count=0.")


def check_selector(selector: Mapping[str, Any]) -> None:
    """Refuses a node selector that no pod can have: KFP would find out when the training begins.

    Raises:
        InputError: a label's value is no text.
    """
    for key, value in selector.items():
        if not isinstance(value, str):
            text = json.dumps(value) if isinstance(value, bool | int | float) else "gpu"
            rule, found = "node_selector must have a text for each label", json.dumps({key: value})
            raise InputError(rule, found, f"Write it as {json.dumps({key: text})}.")


def check_tolerations(tolerations: Sequence[Any]) -> None:
    """Refuses tolerations that no pod can have: Kubernetes would find out when the training begins.

    Raises:
        InputError: naming the rule that the first wrong one breaks.
    """
    remedy = 'Write it as {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}, say.'
    for one in tolerations:
        if rule := _fault(one):
            raise InputError(f"each of tolerations must {rule}", one, remedy)


def _fault(toleration: Any) -> str:
    """What a toleration must do that this one does not; empty for a right one."""
    texts = ("key", "operator", "value", "effect")
    if not isinstance(toleration, Mapping):
        return "be a dictionary"
    if not toleration.keys() <= {*texts, "tolerationSeconds"}:
        return f"hold nothing but {', '.join(texts)} and tolerationSeconds"
    if not all(isinstance(toleration.get(name) or "", str) for name in texts):
        return f"have texts as {', '.join(texts)}"
    exists = toleration.get("operator") == "Exists"
    if (toleration.get("operator") or "Equal") not in OPERATORS:
        return f"have one of {', '.join(OPERATORS)} as operator"
    if (toleration.get("effect") or EFFECTS[0]) not in EFFECTS:
        return f"have one of {', '.join(EFFECTS)} as effect, or none for all of them"
    if not toleration.get("key") and not exists:
        return "have a key, or Exists as operator to tolerate every taint"
    if exists and toleration.get("value"):
        return "have no value where its operator is Exists"
    seconds = toleration.get("tolerationSeconds")
    if seconds is not None and (toleration.get("effect") != "NoExecute" or not isinstance(seconds, int | float) or seconds % 1):
        return "have NoExecute as effect, and a whole number, where it has tolerationSeconds"
    return ""


def _refusal(obstacles: Counter[tuple[int, str]], demand: Demand) -> InputError:
    """What stands in the way at how many nodes, those that came closest first."""
    by_closeness = sorted(obstacles.items(), key=lambda one: (-one[0][0], -one[1], one[0][1]))
    reasons = [f"{number} {reason}" for (_, reason), number in by_closeness]
    more = ["and others"] if len(reasons) > MOST_REASONS else []
    rule = f"the cluster must have a node for the training (with {demand})"
    remedy = "Set gpu_count=0 to train without a GPU, or change" if demand.count else "Change"
    remedy += f" {'gpu_type, gpu_count, ' if demand.count else ''}node_selector or tolerations; where an autoscaler brings such"
    remedy += " nodes when they are asked for, set check_nodes of advanced to false."
    seen = plural(obstacles.total(), "node", "nodes")
    return InputError(rule, f"{seen}: {', '.join(reasons[:MOST_REASONS] + more)}", remedy)


def _outlook(taints: Sequence[Mapping[str, Any]], demand: Demand) -> str:
    """What has to happen to the taints of a node that could hold the training, but for those."""
    of_the_resource = [taint for taint in taints if _is_of_the_resource(taint, demand)]
    if not of_the_resource:
        return f"its taint {_written(taints[0])} goes by itself"
    hint = json.dumps([{"key": demand.resource, "operator": "Exists"}])
    return (
        f"its taint {_written(of_the_resource[0])} lets those pass that ask for {demand.resource} where the cluster has the "
        f"admission plugin ExtendedResourceToleration, as most clouds do; elsewhere set tolerations to {hint}"
    )


def _is_of_the_resource(taint: Mapping[str, Any], demand: Demand) -> bool:
    """Whether a taint is of those that ExtendedResourceToleration tolerates for whoever asks for the resource."""
    return bool(demand.count) and taint["key"] == demand.resource


def _tolerated(taint: Mapping[str, Any], tolerations: Sequence[Mapping[str, Any]]) -> bool:
    return any(tolerates(one, taint) for one in tolerations)


def _taints(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The taints that keep pods away, the one of a node that is cordoned among them."""
    spec = node.get("spec") or {}
    taints = [taint for taint in spec.get("taints") or [] if taint["effect"] in KEEPING_AWAY]
    missing = spec.get("unschedulable") and all(taint["key"] != CORDON["key"] for taint in taints)
    return [*taints, CORDON] if missing else taints


def _available(node: Mapping[str, Any], resource: str) -> int:
    from kubernetes.utils.quantity import parse_quantity  # Kubernetes' client is large, and not needed on a laptop

    return int(parse_quantity(_allocatable(node).get(resource, 0)))


def _others(node: Mapping[str, Any]) -> list[str]:
    """The resources of a node that are none of Kubernetes' own: its GPUs under whatever name."""
    extended = (name for name in _allocatable(node) if "/" in name and not name.partition("/")[0].endswith("kubernetes.io"))
    return sorted(name for name in extended if _available(node, name))


def _allocatable(node: Mapping[str, Any]) -> Mapping[str, Any]:
    return (node.get("status") or {}).get("allocatable") or {}


def _labels(labels: Mapping[str, str]) -> str:
    return f"the label{'s' * (len(labels) > 1)} {', '.join(f'{key}={value}' for key, value in labels.items())}"


def _written(taint: Mapping[str, Any]) -> str:
    """A taint as kubectl writes it."""
    value = f"={taint['value']}" if taint.get("value") else ""
    return f"{taint['key']}{value}:{taint['effect']}"


def _is_stage() -> bool:
    """Whether this process is a stage of a run on a cluster."""
    return all(os.environ.get(name) for name in STAGE) and TOKEN_FILE.is_file()


def _nodes() -> Iterator[dict[str, Any]]:
    """The nodes of the cluster, as they are asked for.

    Raises:
        Unread: the cluster does not give them.
    """
    import urllib3
    from kubernetes import client, config

    from kfp_vision.cluster import configured

    try:
        configuration, _ = configured()
        configuration.retries = False
        with client.ApiClient(configuration) as connection:
            api, place = client.CoreV1Api(connection), {"limit": PAGE}
            while place:
                limits = {"_preload_content": False, "_request_timeout": (CONNECT_SECONDS, READ_SECONDS)}
                answer = json.loads(api.list_node(**place, **limits).data)  # as a V1Node, each would take some milliseconds
                yield from answer["items"]
                token = answer["metadata"].get("continue")
                place = {"limit": PAGE, "_continue": token} if token else {}
    except client.ApiException as error:
        right = f"; {RIGHT} gives the right" if error.status == 403 else ""
        raise Unread(f"HTTP {error.status}{right}" if error.status else str(error.reason).partition("\n")[0]) from None
    except (urllib3.exceptions.HTTPError, config.ConfigException, OSError) as error:
        raise Unread(type(getattr(error, "reason", None) or error).__name__) from None
    except (ValueError, KeyError, TypeError):
        raise Unread("the answer is none of Kubernetes' API") from None
