"""Keeps names importable from where they were before the library was divided into rooms."""

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def forward(module: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """Returns the `__getattr__` of a former module: it imports a name from its place of today, and warns.

    Args:
        module: the former module.
        places: by former name, its place of today, such as `kfp_vision.dataset.images.Rejected`. It is imported only once the
            name is used, so that the former module imports nothing.

    Returns:
        The function, see PEP 562.
    """

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        today, _, attribute = places[name].rpartition(".")
        warnings.warn(f"{module}.{name} is now {places[name]}", DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(today), attribute)

    return find
