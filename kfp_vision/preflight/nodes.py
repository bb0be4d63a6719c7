"""Checks, before anything is trained, that a node of the cluster fits the training pod.

The rules are those of Kubernetes' scheduler: a node's allocatable GPUs against the pod's request, its labels against the node
selector, its taints against the tolerations. GPUs in use count as available, since they will be free again; CPU and memory
are not compared.
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

from kfp_vision.core import json_text
from kfp_vision.core.errors import InputError
from kfp_vision.reports.formatting import plural

STAGE_VARIABLES = (
    "KUBERNETES_SERVICE_HOST",
    "KFP_POD_NAME",
)  # KFP sets the second; a run in a notebook's pod lacks it, and trains there
TOKEN_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
PAGE_SIZE = 500  # nodes per response
CONNECT_SECONDS, READ_SECONDS = 5, 20
NODES_ROLE = "the ClusterRole of manifests/nodes"

RESOURCE_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
OPERATORS = ("Exists", "Equal")
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
BLOCKING_EFFECTS = ("NoSchedule", "NoExecute")  # PreferNoSchedule does not exclude a node
CORDON = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
# Taints that Kubernetes sets while a condition lasts, and removes itself.
TEMPORARY_TAINTS = frozenset(
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
MAX_REASONS = 6  # in an error
NVIDIA, SLICES = "nvidia.com/", "nvidia.com/mig-"  # beginnings of the resource names of NVIDIA's device plugin


class NodesUnreadable(Exception):
    """The nodes could not be read; the message says why in a few words."""


@dataclass(frozen=True)
class NodeRequirements:
    """What the training pod requires of a node.

    Attributes:
        resource: name of the GPU resource, such as `nvidia.com/gpu`, `amd.com/gpu` or `nvidia.com/mig-1g.10gb`.
        count: number of GPUs; 0 for none.
        labels: the node selector.
        tolerations: as in a Kubernetes pod spec.
    """

    resource: str
    count: int
    labels: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()

    def __str__(self) -> str:
        gpus = [f"{self.resource}: {self.count}"] if self.count else []
        return " and ".join(gpus + ([_labels(self.labels)] if self.labels else []))


def check_nodes(demand: NodeRequirements) -> None:
    """Checks, in a stage on a cluster, that a node fits the training pod, and prints which, or what the training waits for.

    Does nothing if the pod has no requirements, since any node fits. Nodes that cannot be read are only reported.

    Args:
        demand: the pod's requirements.

    Raises:
        InputError: no node fits.

    Example:
        check_nodes(NodeRequirements("nvidia.com/gpu", count=1, labels={"pool": "gpu"}))
    """
    if not (demand.count or demand.labels) or not _is_stage():
        return
    try:
        print(find_node(_nodes(), demand), flush=True)
    except NodesUnreadable as error:
        print(f"the training waits for a node with {demand}; the nodes could not be checked: {error}", flush=True)


def find_node(nodes: Iterable[Mapping[str, Any]], demand: NodeRequirements) -> str:
    """Finds a node that fits the training pod now, or else one that will soon; reads no further than the first that fits.

    Args:
        nodes: as the Kubernetes API returns them.
        demand: the pod's requirements.

    Returns:
        A message that names the node.

    Raises:
        InputError: no node fits; the reasons, with the number of nodes of each.
        Unread: there are no nodes, which cannot be, since this process runs on one.
    """
    obstacles: Counter[tuple[int, str]] = Counter()
    later = ""
    for node in nodes:
        if reason := node_obstacle(node, demand):
            obstacles[reason] += 1
            continue
        has = f" (it has {demand.resource}: {_available(node, demand.resource)})" if demand.count else ""
        name = node["metadata"]["name"]
        if not (taints := [taint for taint in _taints(node) if not _tolerated(taint, demand.tolerations)]):
            return f"node {name} fits the training{has}"
        later = later or f"the training waits for node {name}{has}: {_outlook(taints, demand)}"
    if later:
        return later
    if not obstacles:
        raise NodesUnreadable("the cluster lists none")
    raise _no_node_error(obstacles, demand)


def node_obstacle(node: Mapping[str, Any], demand: NodeRequirements) -> tuple[int, str] | None:
    """Returns why a node does not fit the training pod, and will not by itself.

    Args:
        node: as the Kubernetes API returns it.
        demand: the pod's requirements.

    Returns:
        How close it came to fitting (higher is closer), and the reason, which follows a number of nodes; None if it fits.
    """
    available = _available(node, demand.resource)
    if demand.count and not available:
        others = _extended_resources(node)
        return 0, f"without {demand.resource}" + (f" but with {', '.join(others)}" if others else "")
    if demand.count > available:
        return 1, f"with {demand.resource}: {available}"
    labels = node["metadata"].get("labels") or {}
    if missing := {key: value for key, value in demand.labels.items() if labels.get(key) != value}:
        return 2, f"without {_labels(missing)}"
    for taint in _taints(node):
        is_permanent = taint["key"] not in TEMPORARY_TAINTS and not _is_of_resource(taint, demand)
        if is_permanent and not _tolerated(taint, demand.tolerations):
            cordoned = taint["key"] == CORDON["key"]
            return (4, "cordoned") if cordoned else (3, f"with the taint {_formatted(taint)}")
    return None


def tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    """Returns whether a toleration matches a taint, by Kubernetes' rules.

    Args:
        toleration: without an effect or key, it matches any; its operator is Equal by default.
        taint: as the Kubernetes API returns it.

    Returns:
        Whether it does.
    """
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("key") not in (None, "", taint["key"]):
        return False
    exists = toleration.get("operator") == "Exists"
    return exists or (toleration.get("value") or "") == (taint.get("value") or "")


def check_gpus(resource: str, count: int) -> None:
    """Checks the name of a GPU resource, since for an invalid one KFP requests no GPU at all, and how many of it are of use.

    Args:
        resource: `gpu_type`, such as `nvidia.com/gpu`.
        count: `gpu_count`, above 0.

    Raises:
        InputError: the resource is not a domain and a name, or there is more than one slice of a GPU.
    """
    if not RESOURCE_NAME.fullmatch(resource):
        rule = "gpu_type must be the resource name of GPUs on nodes, a domain and a name"
        raise InputError(rule, resource, "Write it as nvidia.com/gpu, say, or set gpu_count=0.")
    # NVIDIA Multi-Instance GPU User Guide, CUDA Device Enumeration: a program sees a single instance.
    if resource.startswith(SLICES) and count > 1:
        rule = f"gpu_count must be 1 with a gpu_type of {SLICES}..., since a program sees a single slice of a GPU"
        raise InputError(rule, count, "Set gpu_count=1, and gpu_type to a larger slice or to nvidia.com/gpu.")


def image_warning(resource: str) -> str:
    """Warns of GPUs that the container image of the training cannot use; empty for NVIDIA's.

    Args:
        resource: `gpu_type`, such as `nvidia.com/gpu`.
    """
    if resource.startswith(NVIDIA):
        return ""
    return (
        f"warning: the container image kfp-vision-gpu computes on NVIDIA's GPUs alone: with gpu_type={resource}, the training "
        "needs one of your own under that name, with TensorFlow for these GPUs"
    )


def check_selector(selector: Mapping[str, Any]) -> None:
    """Checks a node selector, which KFP does only when the training begins.

    Args:
        selector: values by label.

    Raises:
        InputError: a value is not a string.
    """
    for key, value in selector.items():
        if not isinstance(value, str):
            text = json.dumps(value) if isinstance(value, bool | int | float) else "gpu"
            rule, found = "node_selector must have a string for each label", json.dumps({key: value})
            raise InputError(rule, found, f"Write it as {json.dumps({key: text})}.")


def check_tolerations(tolerations: Sequence[Any]) -> None:
    """Checks tolerations, which Kubernetes does only when the training begins.

    Args:
        tolerations: as in a Kubernetes pod spec.

    Raises:
        InputError: one is invalid; the rule that it breaks.
    """
    remedy = 'Write it as {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}, say.'
    for one in tolerations:
        if rule := _broken_rule(one):
            raise InputError(f"each of tolerations must {rule}", one, remedy)


def _broken_rule(toleration: Any) -> str:
    """Returns the rule that a toleration breaks; empty if it is valid."""
    strings = ("key", "operator", "value", "effect")
    if not isinstance(toleration, Mapping):
        return "be a dictionary"
    if not toleration.keys() <= {*strings, "tolerationSeconds"}:
        return f"have only {', '.join(strings)} and tolerationSeconds"
    if not all(isinstance(toleration.get(name) or "", str) for name in strings):
        return f"have strings as {', '.join(strings)}"
    exists = toleration.get("operator") == "Exists"
    if (toleration.get("operator") or "Equal") not in OPERATORS:
        return f"have one of {', '.join(OPERATORS)} as operator"
    if (toleration.get("effect") or EFFECTS[0]) not in EFFECTS:
        return f"have one of {', '.join(EFFECTS)} as effect, or none for all of them"
    if not toleration.get("key") and not exists:
        return "have a key, or Exists as operator to match every taint"
    if exists and toleration.get("value"):
        return "have no value if its operator is Exists"
    seconds = toleration.get("tolerationSeconds")
    if seconds is not None and (toleration.get("effect") != "NoExecute" or not isinstance(seconds, int | float) or seconds % 1):
        return "have NoExecute as effect and a whole number of seconds if it has tolerationSeconds"
    return ""


def _no_node_error(obstacles: Counter[tuple[int, str]], demand: NodeRequirements) -> InputError:
    """Builds the error that lists how many nodes do not fit for which reason, those that came closest first."""
    by_closeness = sorted(obstacles.items(), key=lambda one: (-one[0][0], -one[1], one[0][1]))
    reasons = [f"{number} {reason}" for (_, reason), number in by_closeness]
    more = ["and others"] if len(reasons) > MAX_REASONS else []
    rule = f"the cluster must have a node for the training (with {demand})"
    remedy = "Set gpu_count=0 to train without a GPU, or change" if demand.count else "Change"
    remedy += f" {'gpu_type, gpu_count, ' if demand.count else ''}node_selector or tolerations; if an autoscaler adds such"
    remedy += " nodes on demand, set check_nodes of advanced to false."
    found = plural(obstacles.total(), "node", "nodes")
    return InputError(rule, f"{found}: {', '.join(reasons[:MAX_REASONS] + more)}", remedy)


def _outlook(taints: Sequence[Mapping[str, Any]], demand: NodeRequirements) -> str:
    """Says what will remove or tolerate the taints of a node that fits otherwise."""
    of_resource = [taint for taint in taints if _is_of_resource(taint, demand)]
    if not of_resource:
        return f"its taint {_formatted(taints[0])} is temporary"
    hint = json.dumps([{"key": demand.resource, "operator": "Exists"}])
    return (
        f"its taint {_formatted(of_resource[0])} admits pods that request {demand.resource} if the cluster has the admission "
        f"plugin ExtendedResourceToleration, as most clouds do; otherwise set tolerations to {hint}"
    )


def _is_of_resource(taint: Mapping[str, Any], demand: NodeRequirements) -> bool:
    """Returns whether ExtendedResourceToleration makes pods that request the GPU resource tolerate a taint."""
    return bool(demand.count) and taint["key"] == demand.resource


def _tolerated(taint: Mapping[str, Any], tolerations: Sequence[Mapping[str, Any]]) -> bool:
    return any(tolerates(one, taint) for one in tolerations)


def _taints(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns the taints that exclude pods, including that of a cordoned node, which is not always listed."""
    spec = node.get("spec") or {}
    taints = [taint for taint in spec.get("taints") or [] if taint["effect"] in BLOCKING_EFFECTS]
    is_unlisted = spec.get("unschedulable") and all(taint["key"] != CORDON["key"] for taint in taints)
    return [*taints, CORDON] if is_unlisted else taints


def _available(node: Mapping[str, Any], resource: str) -> int:
    from kubernetes.utils.quantity import parse_quantity  # Kubernetes' client is large, and not needed on a laptop

    return int(parse_quantity(_allocatable(node).get(resource, 0)))


def _extended_resources(node: Mapping[str, Any]) -> list[str]:
    """Returns a node's available resources other than Kubernetes' own, such as GPUs under other names."""
    extended = (name for name in _allocatable(node) if "/" in name and not name.partition("/")[0].endswith("kubernetes.io"))
    return sorted(name for name in extended if _available(node, name))


def _allocatable(node: Mapping[str, Any]) -> Mapping[str, Any]:
    return (node.get("status") or {}).get("allocatable") or {}


def _labels(labels: Mapping[str, str]) -> str:
    return f"the label{'s' * (len(labels) > 1)} {', '.join(f'{key}={value}' for key, value in labels.items())}"


def _formatted(taint: Mapping[str, Any]) -> str:
    """Formats a taint as kubectl does."""
    value = f"={taint['value']}" if taint.get("value") else ""
    return f"{taint['key']}{value}:{taint['effect']}"


def _is_stage() -> bool:
    """Returns whether this process is a stage of a run on a cluster."""
    return all(os.environ.get(name) for name in STAGE_VARIABLES) and TOKEN_FILE.is_file()


def _nodes() -> Iterator[dict[str, Any]]:
    """Yields the nodes of the cluster, page by page.

    Raises:
        Unread: they cannot be read.
    """
    import urllib3
    from kubernetes import client, config

    from kfp_vision.core.kube_config import load_configuration

    try:
        configuration, _ = load_configuration()
        configuration.retries = False
        with client.ApiClient(configuration) as connection:
            api, page = client.CoreV1Api(connection), {"limit": PAGE_SIZE}
            while page:
                limits = {"_preload_content": False, "_request_timeout": (CONNECT_SECONDS, READ_SECONDS)}
                answer = json_text.parse(api.list_node(**page, **limits).data)  # parsing each as a V1Node takes milliseconds
                yield from answer["items"]
                token = answer["metadata"].get("continue")
                page = {"limit": PAGE_SIZE, "_continue": token} if token else {}
    except client.ApiException as error:
        remedy = f"; {NODES_ROLE} grants it" if error.status == 403 else ""
        raise NodesUnreadable(
            f"HTTP {error.status}{remedy}" if error.status else str(error.reason).partition("\n")[0]
        ) from None
    except (urllib3.exceptions.HTTPError, config.ConfigException, OSError) as error:
        raise NodesUnreadable(type(getattr(error, "reason", None) or error).__name__) from None
    except (ValueError, KeyError, TypeError):
        raise NodesUnreadable("the response is not that of the Kubernetes API") from None
