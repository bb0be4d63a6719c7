"""Model registries by name: where a run registers its model, and what a registered model's URI stands for.

register_in=mlflow,model-registry             those that the environment names
register_in=mlflow+http://host:5000           the one at an address
"""

from types import ModuleType
from typing import NamedTuple
from urllib.parse import urlsplit

from kfp_vision.core.errors import FieldError
from kfp_vision.repository import kubeflow_registry, mlflow_registry

MLFLOW, MODEL_REGISTRY = "mlflow", "model-registry"
REGISTRIES: dict[str, ModuleType] = {MLFLOW: mlflow_registry, MODEL_REGISTRY: kubeflow_registry}
ENVIRONMENT = (*mlflow_registry.ENVIRONMENT, *kubeflow_registry.ENVIRONMENT)  # keys of the secret


class Registry(NamedTuple):
    """A registry that a field names.

    Attributes:
        kind: `mlflow` or `model-registry`.
        address: Of its server; empty for the one that the environment names.
    """

    kind: str
    address: str


def parse_registries(register_in: str) -> list[Registry]:
    """Parses the field `register_in`.

    Args:
        register_in: Names of registries, comma-separated, each with an address if wanted; empty for none.

    Raises:
        FieldError: A name is unknown, or an address is not one.
    """
    return [_parse(entry.strip()) for entry in register_in.split(",") if entry.strip()]


def _parse(entry: str) -> Registry:
    kind, plus, address = entry.partition("+")
    if "@" in address:
        rule, remedy = "register_in must not contain a user name or password", "Set them in the secret kfp-vision-registries."
        raise FieldError(rule, f"{kind}+...", remedy)
    if kind not in REGISTRIES or (plus and not _is_server(address)):
        rule = f"register_in must name {' or '.join(REGISTRIES)}, or both, comma-separated"
        raise FieldError(rule, entry, f"Write {MLFLOW}, or {MLFLOW}+http://host:5000 for one at an address.")
    return Registry(kind, address)


def _is_server(address: str) -> bool:
    """Returns whether an address names a server and, if any, a port that there is."""
    try:
        parts = urlsplit(address)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is no number, or too large
        return False
