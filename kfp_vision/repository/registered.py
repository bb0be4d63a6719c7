"""What the URI of a registered model stands for: `models:/NAME/VERSION` of MLflow, `model-registry://NAME/VERSION` of Kubeflow.

The version of MLflow may be `latest`, and `models:/NAME@ALIAS` names an alias. The registries are those that the environment
names, as for `register_in`.
"""

import re

from kfp_vision.core.errors import FieldError
from kfp_vision.storage import uris

SCHEMES = {"models": "mlflow", "model-registry": "model-registry"}  # scheme of a URI to the registry
ENTRY = re.compile(r"(?:models:/|model-registry://)(?P<name>[\w.@ -]+)(?:/(?P<version>[\w.-]+))?/?")


def resolve(uri: str) -> str:
    """Returns the URI that a registered model is loaded from.

    Args:
        uri: Of a registered model; any other is returned unchanged.

    Raises:
        FieldError: The URI does not name a version.
        InputError: There is no such version, or the registry denies access or does not answer.
    """
    kind = SCHEMES.get(uris.scheme_of(uri))
    if not kind:
        return uri
    from kfp_vision.repository import registries  # needs packages that the plain install may lack

    entry = ENTRY.fullmatch(uri)
    is_alias = entry and kind == registries.MLFLOW and "@" in entry["name"]
    if not entry or bool(entry["version"]) == bool(is_alias):
        remedy = "Write models:/flowers/3, models:/flowers@champion or model-registry://flowers/3."
        raise FieldError("the URI of a registered model must name a model and a version", uri, remedy)
    registry = registries.REGISTRIES[kind]
    found: str = registry.find_uri(registry.connect(), entry["name"], entry["version"] or "")
    print(f"{uri} is {found}", flush=True)
    return found
