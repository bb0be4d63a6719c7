"""Registers a model in Kubeflow's Model Registry: a version with figures and card, and its artifact with the run it comes from.

Source: the registry's OpenAPI document (`api/openapi/model-registry.yaml` of kubeflow/model-registry); earlier servers know the
same interface as v1alpha3.
"""

from typing import Any

from kfp_vision.core.errors import FieldError, NotFoundError
from kfp_vision.repository.registration import FINGERPRINT_KEY, Registered, Registration
from kfp_vision.repository.registry_api import NotRegistered, RegistryApi, authorization, service_account_token, setting

ADDRESS_VARIABLE, TOKEN_VARIABLE = "MODEL_REGISTRY_URL", "MODEL_REGISTRY_TOKEN"
ENVIRONMENT = (ADDRESS_VARIABLE, TOKEN_VARIABLE)  # what a secret may set
IN_CLUSTER = "http://model-registry-service.kubeflow:8080"  # service of Kubeflow's manifests
INTERFACES = ("api/model_registry/v1", "api/model_registry/v1alpha3")
PAGE = 100
FORMAT = ("tensorflow", "2")  # name and version of the model's format, as KServe's runtimes know them


def connect(address: str = "") -> RegistryApi:
    """Connects to the Model Registry, and finds out which interface it has.

    Args:
        address: Of the server; by default what MODEL_REGISTRY_URL says, else Kubeflow's own.

    Raises:
        FieldError: The address is not one of a server, or of another one.
        InputError: The registry does not answer.
    """
    address = address or setting(ADDRESS_VARIABLE) or IN_CLUSTER
    if not address.startswith(("http://", "https://")):
        remedy = f"Set {ADDRESS_VARIABLE}, or write model-registry+http://host:8080."
        raise FieldError("the address of the Model Registry must begin with http:// or https://", address, remedy)
    # The pod's own token goes to Kubeflow's registry, and to no other address.
    token = setting(TOKEN_VARIABLE) or (service_account_token() if address == IN_CLUSTER else "")
    headers = authorization(token)
    for interface in INTERFACES:
        api = RegistryApi(f"{address.rstrip('/')}/{interface}", headers)
        try:
            api.get("registered_models", pageSize=1)
        except NotRegistered:
            continue
        return api
    raise FieldError("the address must be one of a Model Registry", address, "Give the address without a path.")


def register(api: RegistryApi, model: Registration) -> Registered:
    """Registers a model as a version, unless it is registered already.

    Args:
        api: From `connect`.
        model: The model.

    Returns:
        The version.

    Raises:
        InputError: The registry refuses a request, or does not answer.
    """
    registered = _find_model(api, model.name) or api.post("registered_models", {"name": model.name})
    versions = _list(api, f"registered_models/{registered['id']}/versions")
    same = [one for one in versions if _fingerprint(one) == model.fingerprint]
    version = same[0] if same else _create_version(api, registered["id"], versions, model)
    artifacts = f"model_versions/{version['id']}/artifacts"
    if not _list(api, artifacts):  # a stage that was killed may have left the version without
        api.post(artifacts, _artifact(model, version["name"]))
    return Registered(version["name"], not same, api.address)


def find_uri(api: RegistryApi, name: str, version: str) -> str:
    """Returns the URI that a registered version is loaded from.

    Args:
        api: From `connect`.
        name: Name of the model.
        version: Name of the version.

    Raises:
        NotFoundError: There is no such version.
        InputError: The registry refuses the request, or does not answer.
    """
    registered = _find_model(api, name)
    versions = _list(api, f"registered_models/{registered['id']}/versions") if registered else []
    for found in (one for one in versions if one["name"] == version):
        for artifact in _list(api, f"model_versions/{found['id']}/artifacts"):
            if uri := artifact.get("uri"):
                return str(uri)
    known = ", ".join(one["name"] for one in versions) or "none"
    rule = "the Model Registry must have the version, with a place to load it from"
    raise NotFoundError(rule, f"no {name}/{version} among {known} at {api.address}", "Check its name.")


def _find_model(api: RegistryApi, name: str) -> dict[str, Any] | None:
    try:
        return api.get("registered_model", name=name)
    except NotRegistered:
        return None


def _list(api: RegistryApi, path: str) -> list[dict[str, Any]]:
    """Returns all entries of a list, which comes in pages."""
    entries: list[dict[str, Any]] = []
    token = ""
    while True:
        page = api.get(path, pageSize=PAGE, **({"nextPageToken": token} if token else {}))
        entries += page.get("items") or []
        token = page.get("nextPageToken") or ""
        if not token:
            return entries


def _fingerprint(version: dict[str, Any]) -> str:
    """Returns the fingerprint of the model of a version; empty for a version of others."""
    found = (version.get("customProperties") or {}).get(FINGERPRINT_KEY) or {}
    return str(found.get("string_value", ""))


def _create_version(api: RegistryApi, model_id: str, versions: list[dict[str, Any]], model: Registration) -> dict[str, Any]:
    """Creates a version under the next number; numbers of others in the meantime are skipped."""
    names = {one["name"] for one in versions}
    number = len(names) + 1
    while str(number) in names:
        number += 1
    body = {
        "registeredModelId": model_id,
        "name": str(number),
        "description": model.card,
        "customProperties": _properties(model),
    }
    return api.post(f"registered_models/{model_id}/versions", body)


def _properties(model: Registration) -> dict[str, Any]:
    texts = {FINGERPRINT_KEY: model.fingerprint, **model.tags, **model.parameters}
    properties: dict[str, Any] = {
        name: {"metadataType": "MetadataStringValue", "string_value": value} for name, value in texts.items()
    }
    return properties | {
        name: {"metadataType": "MetadataDoubleValue", "double_value": value} for name, value in model.figures.items()
    }


def _artifact(model: Registration, version: str) -> dict[str, Any]:
    """Returns the artifact of a version; its name must differ from those of all other artifacts in the registry."""
    name, format_version = FORMAT
    source = {
        "modelSourceKind": "kfp",
        "modelSourceClass": "pipelinerun",
        "modelSourceId": model.run_id,
        "modelSourceName": model.run_name,
    }
    return {
        "artifactType": "model-artifact",
        "name": f"{model.name}-{version}-{model.fingerprint[:12]}",
        "uri": model.uri,
        "modelFormatName": name,
        "modelFormatVersion": format_version,
        **({key: value for key, value in source.items() if value} if model.run_id else {}),
    }
