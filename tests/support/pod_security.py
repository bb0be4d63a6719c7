"""The rules of the Pod Security Standard `restricted`, as in https://kubernetes.io/docs/concepts/security/pod-security-standards/."""

from collections.abc import Iterator
from typing import Any

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SECCOMP = ("RuntimeDefault", "Localhost")
SELINUX = ("", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
}


def violations(pod: dict[str, Any]) -> list[str]:
    """Lists the rules that a pod's spec violates, and where; empty for an admissible pod."""
    whole = pod.get("securityContext", {})
    kinds = ("initContainers", "containers", "ephemeralContainers")
    containers = [container for kind in kinds for container in pod.get(kind, [])]
    found = [f"{name} of the pod" for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    found += [
        f"volume type of {volume['name']}" for volume in pod.get("volumes", []) if not volume.keys() - {"name"} <= VOLUMES
    ]
    found += [f"sysctl {sysctl['name']}" for sysctl in whole.get("sysctls", []) if sysctl["name"] not in SYSCTLS]
    found += [f"{rule} of the pod" for rule in _of_any(whole)]
    for container in containers:
        own = container.get("securityContext", {})
        rules = [*_of_any(own), *_of_a_container(container)]
        rules += [] if own.get("runAsNonRoot", whole.get("runAsNonRoot")) is True else ["runAsNonRoot"]
        seccomp = own.get("seccompProfile", whole.get("seccompProfile", {}))
        rules += [] if seccomp.get("type") in SECCOMP else ["seccompProfile"]
        found += [f"{rule} of {container['name']}" for rule in rules]
    return found


def _of_any(context: dict[str, Any]) -> Iterator[str]:
    """Checks the rules for both pods and containers."""
    if context.get("runAsUser") == 0:
        yield "runAsUser"
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield "hostProcess"
    selinux = context.get("seLinuxOptions", {})
    if selinux.get("type", "") not in SELINUX or selinux.get("user") or selinux.get("role"):
        yield "seLinuxOptions"
    if context.get("appArmorProfile", {}).get("type", "RuntimeDefault") not in SECCOMP:
        yield "appArmorProfile"


def _of_a_container(container: dict[str, Any]) -> Iterator[str]:
    context = container.get("securityContext", {})
    capabilities = context.get("capabilities", {})
    if context.get("privileged"):
        yield "privileged"
    if context.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation"
    if "ALL" not in capabilities.get("drop", []) or not set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"}:
        yield "capabilities"
    if context.get("procMount", "Default") != "Default":
        yield "procMount"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield "hostPort"
    probes = [container.get(kind, {}) for kind in ("livenessProbe", "readinessProbe", "startupProbe")]
    handlers = [*probes, *container.get("lifecycle", {}).values()]
    if any(handler.get(kind, {}).get("host") for handler in handlers for kind in ("httpGet", "tcpSocket")):
        yield "host of a probe"
