"""TensorFlow and Keras, imported without packages that Keras imports only because they are installed.

Keras 3.15 imports scikit-learn for its wrappers (keras/src/wrappers), pandas for its data adapters
(keras/src/trainers/data_adapters/array_slicing.py) and Matplotlib for its galleries (keras/src/visualization). Nothing here
uses any of these, and they are a third of the processor time of the import and a fifth of its memory. Keras does without them
where they are not installed, so its imports do not find them. Our own imports of scikit-learn and Matplotlib do, before and
after.
"""

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder

__all__ = ["BundleHeaderProto", "keras", "tf"]

NOT_NEEDED = frozenset({"sklearn", "pandas", "matplotlib"})


class _Missing(MetaPathFinder):
    """Finds no package of `NOT_NEEDED` for one thread, while the imports of all others go on as usual."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> None:
        """Reports a package as not installed.

        Args:
            fullname: the name of the module; those within packages that are loaded already are left alone.
            path: the folders of its package, not used.
            target: the module to reload, not used.

        Raises:
            ModuleNotFoundError: if Keras imports one of `NOT_NEEDED`.
        """
        if fullname in NOT_NEEDED and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"{fullname} is not needed by Keras", name=fullname)


@contextmanager
def without_unneeded_packages() -> Iterator[None]:
    """Hides the packages of `NOT_NEEDED` that are not loaded yet from the imports of this thread."""
    missing = _Missing()
    sys.meta_path.insert(0, missing)
    try:
        yield
    finally:
        sys.meta_path.remove(missing)


with without_unneeded_packages():
    import keras
    import tensorflow as tf
    from tensorflow.core.protobuf.tensor_bundle_pb2 import BundleHeaderProto
