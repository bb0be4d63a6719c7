"""Registers a model in MLflow: parameters, curves, report and card as a run, and a version of the model with tags.

Sources: MLflow's REST API (https://mlflow.org/docs/latest/rest-api.html) and, for uploads through the server,
`mlflow/protos/mlflow_artifacts.proto`. KFP 2.17 gives a stage of its own run MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_ID and
MLFLOW_RUN_ID if its administrator has switched that on (`injectUserEnvVars`; `RetrieveUserContainerEnvVars` in
backend/src/v2/common/plugins/mlflow), and ends that run itself.
"""

import contextlib
import math
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from kfp_vision.core.errors import FieldError, InputError, NotFoundError
from kfp_vision.repository.registration import FINGERPRINT_KEY, Registered, Registration
from kfp_vision.repository.registry_api import NotRegistered, RegistryApi, authorization, service_account_token, setting
from kfp_vision.storage import base, uris

ADDRESS_VARIABLE, RUN_VARIABLE, EXPERIMENT_VARIABLE = "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"
TOKEN_VARIABLE, USER_VARIABLE, PASSWORD_VARIABLE = (
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
)
AUTH_VARIABLE, WORKSPACE_VARIABLE = "MLFLOW_TRACKING_AUTH", "MLFLOW_WORKSPACE"
ENVIRONMENT = (ADDRESS_VARIABLE, TOKEN_VARIABLE, USER_VARIABLE, PASSWORD_VARIABLE)  # what a secret may set
WORKSPACE_HEADER = "X-MLFLOW-WORKSPACE"  # `mlflow/utils/workspace_utils.py`
API = "api/2.0/mlflow"
ARTIFACTS_API = "api/2.0/mlflow-artifacts/artifacts"
MAX_METRICS, MAX_PARAMETERS = 1000, 100  # of one request; `mlflow/utils/validation.py`
MAX_DESCRIPTION = 5000  # characters; `SqlModelVersion.description` of mlflow/store/model_registry/dbmodels/models.py
REST = "\n\nThe rest is in model_card.md, among the artifacts of the run.\n"
LOGGED_MODEL = re.compile(r"m-[0-9a-f]{32}")  # `_generate_model_id` of mlflow/store/tracking/sqlalchemy_store.py
MAX_VALUE = 500  # characters of a parameter that every server takes


def connect(address: str = "") -> RegistryApi:
    """Connects to MLflow; nothing is sent yet.

    Args:
        address: Of the server; by default what MLFLOW_TRACKING_URI says.

    Raises:
        FieldError: There is no address, or not one of a server.
    """
    address = address or setting(ADDRESS_VARIABLE)
    if urlsplit(address).scheme not in ("http", "https"):
        remedy = f"Set {ADDRESS_VARIABLE}, or write mlflow+http://host:5000."
        raise FieldError("the address of MLflow must begin with http:// or https://", address, remedy)
    kubernetes = setting(AUTH_VARIABLE).startswith("kubernetes")
    token = setting(TOKEN_VARIABLE) or (service_account_token() if kubernetes else "")
    headers = authorization(token, setting(USER_VARIABLE), setting(PASSWORD_VARIABLE))
    if workspace := setting(WORKSPACE_VARIABLE):
        headers[WORKSPACE_HEADER] = workspace
    return RegistryApi(address, headers)


def register(api: RegistryApi, model: Registration) -> Registered:
    """Registers a model as a version, unless it is registered already.

    Args:
        api: From `connect`.
        model: The model.

    Returns:
        The version.

    Raises:
        FieldError: The model is in a local folder, which MLflow takes no version from.
        InputError: MLflow refuses a request, or does not answer.
    """
    if uris.scheme_of(model.uri) in ("", "file"):
        remedy = "Deploy to a repository in a bucket, or run on a cluster."
        raise FieldError("a model must be in a bucket to be registered in MLflow", model.uri, remedy)
    if found := _find_version(api, model):
        return Registered(found, False, api.address)
    _create_model(api, model.name)
    with _run(api, model) as run:
        _log(api, run["run_id"], model)
        _attach(api, run["artifact_uri"], model)
        return Registered(_create_version(api, model, run["run_id"]), True, api.address)


@contextlib.contextmanager
def _run(api: RegistryApi, model: Registration) -> Iterator[dict[str, Any]]:
    """Yields the run to log to: the one that KFP has begun for the stage, and will end, or else one of its own."""
    if run_id := setting(RUN_VARIABLE):
        yield api.get(f"{API}/runs/get", run_id=run_id)["run"]["info"]
        return
    run = _create_run(api, model)
    status = "FAILED"
    try:
        yield run
        status = "FINISHED"
    finally:
        with contextlib.suppress(InputError, NotRegistered):  # the first error is the one to report
            api.post(f"{API}/runs/update", {"run_id": run["run_id"], "status": status, "end_time": _now()})


def _create_version(api: RegistryApi, model: Registration, run_id: str) -> str:
    version = {
        "name": model.name,
        "source": model.uri,
        "run_id": run_id,
        "description": _description(model),
        "tags": _pairs({FINGERPRINT_KEY: model.fingerprint, **model.tags}),
    }
    return str(api.post(f"{API}/model-versions/create", version)["model_version"]["version"])


def _description(model: Registration) -> str:
    """Returns the card, or as many of its lines as MLflow's databases take; the whole one is attached to the run."""
    if len(model.card) <= MAX_DESCRIPTION:
        return model.card
    return model.card[: MAX_DESCRIPTION - len(REST)].rpartition("\n")[0] + REST


def find_uri(api: RegistryApi, name: str, version: str) -> str:
    """Returns the URI that a registered version is loaded from.

    Args:
        api: From `connect`.
        name: Name of the model; an alias follows an `@`, as in MLflow's own URIs. Or the id of a logged model.
        version: Number, or `latest`; empty for an alias or a logged model.

    Raises:
        NotFoundError: There is no such version.
        InputError: MLflow refuses the request, or does not answer.
    """
    model, at, alias = name.partition("@")
    if is_logged_model(name) and not version:
        return _find_logged(api, name)
    try:
        if at:
            answer = api.get(f"{API}/registered-models/alias", name=model, alias=alias)
        elif version == "latest":
            listed = api.get(f"{API}/model-versions/search", filter=f"name='{model}'", order_by="version_number DESC")
            answer = {"model_version": found[0]} if (found := listed.get("model_versions")) else {}
        else:
            answer = api.get(f"{API}/model-versions/get", name=model, version=version)
    except NotRegistered:
        answer = {}
    source = (answer.get("model_version") or {}).get("source")
    if not source:
        wanted = name if at else f"{name}/{version}"
        rule = "MLflow must have the version, with a place to load it from"
        raise NotFoundError(rule, f"no {wanted} at {api.address}", f"Check its name, and {ADDRESS_VARIABLE}.")
    logged = str(source).removeprefix(uris.MLFLOW_MODEL)  # of a version that was registered from a logged model
    return _find_logged(api, logged) if logged != source and is_logged_model(logged) else str(source)


def is_logged_model(name: str) -> bool:
    """Returns whether a name is the id of a model that a run has logged, as MLflow 3 gives them."""
    return bool(LOGGED_MODEL.fullmatch(name))


def _find_logged(api: RegistryApi, model_id: str) -> str:
    """Returns the URI of the files of a logged model."""
    try:
        model = api.get(f"{API}/logged-models/{model_id}").get("model") or {}
    except NotRegistered:
        model = {}
    place = (model.get("info") or {}).get("artifact_uri")
    if not place:
        rule, found = "MLflow must have the logged model", f"no {model_id} at {api.address}"
        raise NotFoundError(rule, found, f"Check its id, and {ADDRESS_VARIABLE}.")
    return str(place)


def _find_version(api: RegistryApi, model: Registration) -> str:
    """Returns the number of the version that is the same model; empty if there is none."""
    query = f"name='{model.name}' and tags.`{FINGERPRINT_KEY}`='{model.fingerprint}'"
    found = api.get(f"{API}/model-versions/search", filter=query).get("model_versions", [])
    return str(found[0]["version"]) if found else ""


def _create_model(api: RegistryApi, name: str) -> None:
    try:
        api.post(f"{API}/registered-models/create", {"name": name})
    except InputError as error:  # MLflow has no request that creates a model unless it is there
        try:
            api.get(f"{API}/registered-models/get", name=name)
        except NotRegistered:
            raise error from None


def _create_run(api: RegistryApi, model: Registration) -> dict[str, Any]:
    experiment = setting(EXPERIMENT_VARIABLE) or _find_experiment(api, model.name)
    named = {"mlflow.runName": model.run_name or model.name, "kfp_vision.run_id": model.run_id}
    body = {"experiment_id": experiment, "start_time": _now(), "tags": _pairs(named)}
    created: dict[str, Any] = api.post(f"{API}/runs/create", body)["run"]["info"]
    return created


def _find_experiment(api: RegistryApi, name: str) -> str:
    """Returns the id of the experiment named like the model; creates it if there is none."""
    try:
        return str(api.get(f"{API}/experiments/get-by-name", experiment_name=name)["experiment"]["experiment_id"])
    except NotRegistered:
        return str(api.post(f"{API}/experiments/create", {"name": name})["experiment_id"])


def _log(api: RegistryApi, run_id: str, model: Registration) -> None:
    parameters = [{"key": name, "value": value[:MAX_VALUE]} for name, value in model.parameters.items()]
    metrics = list(_metrics(model))
    for some in _batches(parameters, MAX_PARAMETERS):
        api.post(f"{API}/runs/log-batch", {"run_id": run_id, "params": some})
    for some in _batches(metrics, MAX_METRICS):
        api.post(f"{API}/runs/log-batch", {"run_id": run_id, "metrics": some})


def _metrics(model: Registration) -> Iterator[dict[str, Any]]:
    now, last = _now(), 0
    for row in model.curves:
        last = int(row.get("step", last))
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float) and math.isfinite(value):
                yield {"key": f"training.{name}", "value": value, "timestamp": now, "step": last}
    for name, value in model.figures.items():
        if math.isfinite(value):
            yield {"key": name, "value": value, "timestamp": now, "step": last}


def _attach(api: RegistryApi, place: str, model: Registration) -> None:
    """Uploads the files to the run's place: through MLflow if it stands in between, else to the store."""
    from kfp_vision.storage import (
        writing,
    )  # needs packages that the plain install lacks, and a form's pods are named by this file

    location = urlsplit(place)
    for name, file in model.files.items():
        if location.scheme == "mlflow-artifacts":
            api.put(f"{ARTIFACTS_API}{quote(location.path)}/{quote(name)}", file.read_bytes())
        elif uris.scheme_of(place) in base.BUCKETS:
            writing.write_file(file, uris.join_uri(place, name))
        else:
            print(f"{name} is not attached: only the server itself can write to {place}", flush=True)


def _pairs(tags: dict[str, str]) -> list[dict[str, str]]:
    return [{"key": name, "value": value} for name, value in tags.items() if value]


def _batches(entries: Sequence[dict[str, Any]], size: int) -> Iterator[Sequence[dict[str, Any]]]:
    for start in range(0, len(entries), size):
        yield entries[start : start + size]


def _now() -> int:
    """Returns the milliseconds since 1970."""
    return int(time.time() * 1000)
