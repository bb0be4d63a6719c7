"""Validates objects of Kubernetes: its own by JSON schemas, those of KServe, Kubeflow Trainer, JobSet and the training operator
by their models, those of KFP by the fields of its custom resource definitions.
"""

import re
import types
import typing
from typing import Any

OLDEST_KUBERNETES = "1.30"  # the oldest version checked; the newest one is checked as well
PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float)}
OF_KSERVE = {"InferenceService": "V1beta1InferenceService", "ServingRuntime": "V1alpha1ServingRuntime"}

OF_TRAINER = {
    "TrainJob": "trainer_v1alpha1_train_job.TrainerV1alpha1TrainJob",
    "TrainingRuntime": "trainer_v1alpha1_training_runtime.TrainerV1alpha1TrainingRuntime",
    "JobSet": "jobset_v1alpha2_job_set.JobsetV1alpha2JobSet",
}
# Of KFP 2.15, manifests/kustomize/base/crds/pipelines.kubeflow.org_*.yaml: type, and whether it must be there.
OF_KFP = {
    "Pipeline": {"description": (str, False), "displayName": (str, False)},
    "PipelineVersion": {
        **dict.fromkeys(("codeSourceURL", "description", "displayName", "pipelineName", "pipelineSpecURI"), (str, False)),
        "pipelineSpec": (dict, True),
        "platformSpec": (dict, False),
    },
}
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")  # names of Kubernetes objects, RFC 1123


def faults(document: dict[str, Any]) -> list[str]:
    """Lists the violations of the published schema of a document; empty for a valid one."""
    if document["apiVersion"].startswith("serving.kserve.io/"):
        return _against_models(document, OF_KSERVE[document["kind"]], document["kind"])
    if document["apiVersion"] == "pipelines.kubeflow.org/v2beta1":
        return _against_fields(document, OF_KFP[document["kind"]])
    if document["apiVersion"] == "kubeflow.org/v1":
        return _against_models(document, "KubeflowOrgV1TFJob", document["kind"])
    if document["kind"] in OF_TRAINER:
        return _against_annotation(document, _of_trainer(document["kind"]), document["kind"])
    import kubernetes_validate

    found = []
    for version in (OLDEST_KUBERNETES, kubernetes_validate.latest_version()):
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(f"{'.'.join(map(str, error.path))} in Kubernetes {version}: {error.message}")
    return found


def _against_fields(document: dict[str, Any], fields: dict[str, tuple[type, bool]]) -> list[str]:
    found = [f"there is no {key}" for key in {"apiVersion", "kind", "metadata", "spec"} ^ document.keys()]
    if not NAME.fullmatch(document["metadata"]["name"]):
        found.append(f"{document['metadata']['name']} is no name")
    spec = document["spec"]
    found += [f"spec knows no {key}" for key in spec.keys() - fields.keys()]
    found += [f"spec has no {key}" for key, (_, needed) in fields.items() if needed and key not in spec]
    return found + [
        f"spec.{key} is no {fields[key][0]}" for key in spec.keys() & fields if not isinstance(spec[key], fields[key][0])
    ]


def _against_models(value: Any, kind: str, where: str) -> list[str]:
    """Checks names, types and required fields of a value, recursively, against the generated model of a kind."""
    if within := re.fullmatch(r"list\[(.+)\]", kind):
        if not isinstance(value, list):
            return [f"{where} is no list"]
        return [fault for at, element in enumerate(value) for fault in _against_models(element, within[1], f"{where}[{at}]")]
    if within := re.fullmatch(r"dict\(str, (.+)\)", kind):
        if not isinstance(value, dict):
            return [f"{where} is no mapping"]
        return [fault for key, element in value.items() for fault in _against_models(element, within[1], f"{where}.{key}")]
    if kind in PLAIN:
        right = isinstance(value, PLAIN[kind]) and (kind == "bool" or not isinstance(value, bool))
        return [] if right else [f"{where} is no {kind}"]
    model = _model(kind)
    if model is None:  # a quantity, a time, or any type
        return []
    if not isinstance(value, dict):
        return [f"{where} is no mapping"]
    attributes = {key: attribute for attribute, key in model.attribute_map.items()}
    found = [f"{where} knows no {key}" for key in value if key not in attributes]
    for key in value.keys() & attributes.keys():
        found += _against_models(value[key], model.openapi_types[attributes[key]], f"{where}.{key}")
    try:
        model(**{attributes[key]: value[key] for key in value.keys() & attributes.keys()})
    except ValueError as error:
        found.append(f"{where}: {error}")
    return found


def _of_trainer(kind: str) -> Any:
    import importlib

    file, _, name = OF_TRAINER[kind].partition(".")
    return getattr(importlib.import_module(f"kubeflow_trainer_api.models.{file}"), name)


def _against_annotation(value: Any, annotation: Any, where: str) -> list[str]:
    """Checks names, types and required fields of a value, recursively, against a field of a model of pydantic."""
    from pydantic import BaseModel

    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _against_annotation(value, parts[0], where)
    if origin in (typing.Union, types.UnionType):
        found = [_against_annotation(value, part, where) for part in parts if part is not type(None)]
        return [] if [] in found else found[0]
    if origin is list:
        if not isinstance(value, list):
            return [f"{where} is no list"]
        return [fault for at, one in enumerate(value) for fault in _against_annotation(one, parts[0], f"{where}[{at}]")]
    if origin is dict:
        if not isinstance(value, dict):
            return [f"{where} is no mapping"]
        return [fault for key, one in value.items() for fault in _against_annotation(one, parts[1], f"{where}.{key}")]
    if annotation is Any or annotation is object:
        return []
    if not issubclass(annotation, BaseModel):
        right = isinstance(value, annotation) and (annotation is bool or not isinstance(value, bool))
        return [] if right else [f"{where} is no {annotation.__name__}"]
    if annotation.__name__.endswith(("Quantity", "IntOrString")):
        return [] if isinstance(value, str | int) else [f"{where} is no {annotation.__name__}"]
    if not isinstance(value, dict):
        return [f"{where} is no mapping"]
    fields = {one.alias or name: one for name, one in annotation.model_fields.items()}
    found = [f"{where} knows no {key}" for key in value if key not in fields]
    found += [f"{where} has no {key}" for key, one in fields.items() if one.is_required() and key not in value]
    return found + [
        fault
        for key in value.keys() & fields
        for fault in _against_annotation(value[key], fields[key].annotation, f"{where}.{key}")
    ]


def _model(kind: str) -> Any:
    if kind.startswith("KubeflowOrg"):
        from kubeflow.training import models

        return getattr(models, kind, None)
    import kserve.models
    from kubernetes import client

    return getattr(kserve.models, kind, None) or getattr(client, kind, None)
