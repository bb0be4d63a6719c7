"""What the URI of a registered model stands for: `models:/NAME/VERSION` of MLflow, `model-registry://NAME/VERSION` of Kubeflow.

The version of MLflow may be `latest`, `models:/NAME@ALIAS` names an alias, and `models:/m-ID` a model that a run has logged,
which no version has to hold. The registries are those that the environment names, as for `register_in`.
"""

import re

from kfp_vision.core.errors import FieldError
from kfp_vision.storage import base, uris

SCHEMES = {"models": "mlflow", "model-registry": "model-registry"}  # scheme of a URI to the registry
ENTRY = re.compile(r"(?:models:/|model-registry://)(?P<name>[\w.@ -]+)(?:/(?P<version>[\w.-]+))?/?")
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*(?=:)")  # of MLflow's own kinds, too, which have one slash: runs:/8a2f/model
READ = ("file", *base.SCHEMES)  # schemes of the places that a model is read from


def resolve(uri: str) -> str:
    """Returns the URI that a registered model is loaded from.

    Args:
        uri: Of a registered model; any other is returned unchanged.

    Raises:
        FieldError: The URI does not name a version, or its version lies where nothing is read from.
        InputError: There is no such version, or the registry denies access or does not answer.
    """
    kind = SCHEMES.get(uris.scheme_of(uri))
    if not kind:
        return uri
    from kfp_vision.repository import mlflow_registry, registries  # need packages that the plain install may lack

    entry = ENTRY.fullmatch(uri)
    is_whole = kind == registries.MLFLOW and entry and ("@" in entry["name"] or mlflow_registry.is_logged_model(entry["name"]))
    if not entry or bool(entry["version"]) == bool(is_whole):
        remedy = "Write models:/flowers/3, models:/flowers@champion or model-registry://flowers/3."
        raise FieldError("the URI of a registered model must name a model and a version", uri, remedy)
    registry = registries.REGISTRIES[kind]
    found: str = registry.find_uri(registry.connect(), entry["name"], entry["version"] or "")
    if (scheme := SCHEME.match(found)) and scheme[0] not in READ:
        rule = f"a registered model must lie on a disk, or at one of {', '.join(f'{one}://' for one in base.SCHEMES)}"
        raise FieldError(rule, f"{uri}, which is {base.redact_uri(found)}", "Copy it to a bucket, and register it from there.")
    print(f"{uri} is {base.redact_uri(found)}", flush=True)
    return found
