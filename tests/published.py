"""Things of Kubernetes held against what is published of them: its own by their JSON schemas, KServe's by their models."""

import re
from typing import Any

PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float)}
OF_KSERVE = {"InferenceService": "V1beta1InferenceService", "ServingRuntime": "V1alpha1ServingRuntime"}


def faults(document: dict[str, Any]) -> list[str]:
    """What is wrong with a document, by what is published of its kind; nothing for a right one."""
    if document["apiVersion"].startswith("serving.kserve.io/"):
        return _against_models(document, OF_KSERVE[document["kind"]], document["kind"])
    import kubernetes_validate

    try:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message}"]
    return []


def _against_models(value: Any, kind: str, where: str) -> list[str]:
    """The names and types of a value and all within it, and what must be there, by the generated model of a kind."""
    if within := re.fullmatch(r"list\[(.+)\]", kind):
        if not isinstance(value, list):
            return [f"{where} is no list"]
        return [fault for at, one in enumerate(value) for fault in _against_models(one, within[1], f"{where}[{at}]")]
    if within := re.fullmatch(r"dict\(str, (.+)\)", kind):
        if not isinstance(value, dict):
            return [f"{where} is no mapping"]
        return [fault for key, one in value.items() for fault in _against_models(one, within[1], f"{where}.{key}")]
    if kind in PLAIN:
        right = isinstance(value, PLAIN[kind]) and (kind == "bool" or not isinstance(value, bool))
        return [] if right else [f"{where} is no {kind}"]
    model = _model(kind)
    if model is None:  # a quantity, a time, or whatever
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


def _model(kind: str) -> Any:
    import kserve.models
    from kubernetes import client

    return getattr(kserve.models, kind, None) or getattr(client, kind, None)
