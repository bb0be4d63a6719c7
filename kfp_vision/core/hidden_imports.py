"""Hides or defers packages that the imports of others take along, or let act, only because they are installed."""

import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any


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


@contextmanager
def stand_in(name: str, **attributes: object) -> Iterator[None]:
    """Puts an empty module with a few attributes in the place of a package that is not loaded yet.

    For a package that cannot be imported without another, but then asks for a few of its names only. Whoever imports the other
    meanwhile, in any thread, gets the stand-in as well; afterwards it is imported as ever.

    Args:
        name: of the package.
        attributes: its names.
    """
    if name in sys.modules:
        yield
        return
    module = ModuleType(name)
    module.__dict__.update(attributes)
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]


def defer(name: str) -> None:
    """Loads a package without its own file, whose imports are run once a name is asked for that is not one of its modules.

    Its modules can be imported meanwhile, each with what it imports itself.

    Args:
        name: of the package; nothing happens if it is loaded.

    Raises:
        ModuleNotFoundError: there is none.
    """
    if name in sys.modules:
        return
    spec = find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    module = module_from_spec(spec)
    module.__class__ = _Deferred
    sys.modules[name] = module


class _Deferred(ModuleType):
    """A package whose own file has not run."""

    def __getattr__(self, name: str) -> Any:
        """Runs the file, unless Python asks for something of its own or for a module, which it will import."""
        spec = self.__spec__
        if name.startswith("__") or spec is None or spec.loader is None or find_spec(f"{self.__name__}.{name}"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name, obj=self)
        self.__class__ = ModuleType  # type: ignore[assignment]  # as importlib.util.LazyLoader does
        spec.loader.exec_module(self)
        return getattr(self, name)
