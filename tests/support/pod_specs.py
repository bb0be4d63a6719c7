"""The pods that KFP and Argo create for the stages of a committed pipeline.

The settings of a stage are read from the pipeline like KFP's driver does: initPodSpecPatch of backend/src/v2/driver/driver.go
and extendPodSpecPatch of k8s.go. Everything else is as in KFP 2.17.0, in the files named below.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
# Values of the form, and outputs of the check.
FIELDS = {"gpu_type": "nvidia.com/gpu", "gpus": "1", "node_selector": {"disk": "ssd"}}
FIELDS |= {"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]}
FIELD = re.compile(r"\{\{\$\.inputs\.parameters\['(?:pipelinechannel--)?(?:check-\w+-)?(\w+)'\]\}\}")

# backend/src/v2/compiler/argocompiler/security_context.go: of users' containers, and of KFP's own.
OF_USERS = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
OF_KFP = OF_USERS | {"runAsNonRoot": True}
OF_THE_POD = {"seccompProfile": {"type": "RuntimeDefault"}}
# manifests/kustomize/third-party/argo/base/workflow-controller-configmap-patch.yaml, executor.
OF_ARGO = OF_KFP | {"runAsUser": 65532}
# backend/src/v2/compiler/argocompiler/container.go.
SCRATCH = {"gcs-scratch": "/gcs", "s3-scratch": "/s3", "minio-scratch": "/minio", "dot-local-scratch": "/.local"}
SCRATCH |= {"kfp-launcher": "/kfp-launcher", "dot-cache-scratch": "/.cache", "dot-config-scratch": "/.config"}


@cache
def pods(name: str) -> dict[str, dict[str, Any]]:
    """Returns the pod of every stage of a pipeline, by the stage's executor."""
    spec, platform = yaml.safe_load_all((ROOT / "pipelines" / f"{name}.yaml").read_text(encoding="utf-8"))
    on_kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    executors = spec["deploymentSpec"]["executors"]
    return {label: _pod(label, item["container"], on_kubernetes[label]) for label, item in executors.items()}


def _pod(label: str, container: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    mounts = asked.get("emptyDirMounts", [])
    scratch = [{"name": name, "emptyDir": {}} for name in SCRATCH]
    sized = [{"name": mount["volumeName"], "emptyDir": {"sizeLimit": mount["sizeLimit"]}} for mount in mounts]
    within = [{"name": name, "mountPath": path} for name, path in SCRATCH.items()]
    within += [{"name": mount["volumeName"], "mountPath": mount["mountPath"]} for mount in mounts]
    main = {
        "name": "main",
        "image": container["image"],
        "imagePullPolicy": asked["imagePullPolicy"],
        "command": ["/kfp-launcher/launch", "--"],
        "args": [*container["command"], *container["args"]],
        "env": [variable for secret in asked.get("secretAsEnv", []) for variable in _variables(secret)],
        "resources": _resources(container["resources"]),
        "volumeMounts": within,
        "securityContext": OF_USERS | asked.get("securityContext", {}),
    }
    launcher = {"name": "kfp-launcher", "image": "ghcr.io/kubeflow/kfp-launcher:2.17.0", "securityContext": OF_KFP}
    argo = {"image": "quay.io/argoproj/argoexec:v4.0.5", "securityContext": OF_ARGO}
    spec = {
        "restartPolicy": "Never",
        "securityContext": OF_THE_POD,
        "imagePullSecrets": [{"name": _known(secret["secretNameParameter"])} for secret in asked["imagePullSecret"]],
        "activeDeadlineSeconds": int(asked["activeDeadlineSeconds"]),
        "initContainers": [{"name": "init", **argo}, launcher],
        "containers": [{"name": "wait", **argo}, main],
        "volumes": scratch + sized,
    }
    if "nodeSelector" in asked:
        spec["nodeSelector"] = _known(asked["nodeSelector"]["nodeSelectorJson"])
    if "tolerations" in asked:
        spec["tolerations"] = [toleration for entry in asked["tolerations"] for toleration in _tolerations(entry)]
    labels = {"pipelines.kubeflow.org/v2_component": "true", **asked["podMetadata"]["labels"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": label, "labels": labels}, "spec": spec}
    return json.loads(json.dumps(pod))  # without duplicates


def _tolerations(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the tolerations of an entry: those of a field, or the entry itself."""
    return _known(entry["tolerationJson"]) if "tolerationJson" in entry else [entry]


def _variables(secret: dict[str, Any]) -> list[dict[str, Any]]:
    name, optional = _known(secret["secretNameParameter"]), secret["optional"]
    return [
        {"name": item["envVar"], "valueFrom": {"secretKeyRef": {"name": name, "key": item["secretKey"], "optional": optional}}}
        for item in secret["keyToEnv"]
    ]


def _resources(asked: dict[str, Any]) -> dict[str, dict[str, Any]]:
    limits = {"cpu": asked["resourceCpuLimit"], "memory": asked["resourceMemoryLimit"]}
    if gpus := asked.get("accelerator"):
        limits[_filled(gpus["resourceType"])] = _filled(gpus["resourceCount"])
    return {"limits": limits, "requests": {"cpu": asked["resourceCpuRequest"], "memory": asked["resourceMemoryRequest"]}}


def _filled(text: str) -> str:
    """Replaces the fields in a text by their values."""
    return FIELD.sub(lambda found: str(FIELDS[found[1]]), text)


def _known(parameter: dict[str, Any]) -> Any:
    """Returns the value of an input parameter of the platform settings: a constant, or a field."""
    if "runtimeValue" in parameter:
        return parameter["runtimeValue"]["constant"]
    return FIELDS[parameter["componentInputParameter"].removeprefix("pipelinechannel--")]
