"""Hides packages from the imports of others that take them along, or let them act, only because they are installed."""

import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder


class _Missing(MetaPathFinder):
    """Finds none of some packages for one thread, while the imports of all others go on as usual."""

    def __init__(self, names: Collection[str]) -> None:
        self._names, self._thread = names, threading.get_ident()

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> None:
        """Reports a package as not installed.

        Args:
            fullname: the name of the module; those within packages that are loaded already are left alone.
            path: the folders of its package, not used.
            target: the module to reload, not used.

        Raises:
            ModuleNotFoundError: if it is one of the hidden packages.
        """
        if fullname in self._names and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"{fullname} is hidden", name=fullname)


@contextmanager
def hide(names: Collection[str]) -> Iterator[None]:
    """Hides packages that are not loaded yet from the imports of this thread.

    Args:
        names: of the packages or modules.
    """
    missing = _Missing(names)
    sys.meta_path.insert(0, missing)
    try:
        yield
    finally:
        sys.meta_path.remove(missing)
