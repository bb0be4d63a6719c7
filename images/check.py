"""Checks a container image from the inside, in the Dockerfiles' stage `test`.

`python3 check.py LOCK VERSION [WEIGHTS ...]` for an image of the stages, `python3 check.py --server LOCK VERSION` for that
of the server.
"""

import importlib.util
import os
import pkgutil
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import kfp_vision

PINNED = re.compile(r"^([\w.-]+)(?:\[[\w,-]+\])?==([^\s;]+)", re.MULTILINE)

SERVER = (
    "cli.commands",
    "repository",
    "serving",
    "storage",
    "engines.openvino_engine",
    "search.index",
)  # modules, and rooms as a whole
NOT_IN_SERVER = ("tensorflow", "keras", "kfp", "cv2", "scipy", "sklearn", "matplotlib", "pandas", "kubernetes")


def check_server(lock: str, version: str) -> None:
    """Checks the packages, the modules of the server and the permissions; exits with one line if a check fails.

    Args:
        lock: path of the lock file.
        version: expected version of kfp-vision.
    """
    count = _check_packages(lock, version)
    found = [name for name in NOT_IN_SERVER if importlib.util.find_spec(name)]
    _expect("the server's image must not hold packages of the stages", found, [])
    names = [f"kfp_vision.{name}" for name in SERVER]
    within = tuple(f"{name}." for name in names)
    modules = [*names, *(module.name for module in _walk() if module.name.startswith(within))]
    for name in modules:
        importlib.import_module(name)
    _check_permissions()
    print(f"{count} packages as locked, {len(modules)} modules import")


def main(lock: str, version: str, *weights: str) -> None:
    """Checks packages, modules, YAML and permissions; exits with one line if a check fails.

    Args:
        lock: path of the lock file.
        version: expected version of kfp-vision.
        *weights: further packages, `name==version`.
    """
    count = _check_packages(lock, version, *weights)
    modules = [module.name for module in _walk()]
    for name in modules:
        importlib.import_module(name)
    compiling = importlib.import_module("kfp_vision.pipelines.compiling")
    missing = {"kfp_vision.components", "kfp_vision.pipelines"} - set(modules)
    _expect("components and pipelines must be installed", missing, set())
    stale = {file for file, text in compiling.texts().items() if _compiled(file.read_text(encoding="utf-8")) != _compiled(text)}
    _expect("every YAML must match the code", stale, set())
    _check_permissions()
    print(f"{count} packages as locked, {len(modules)} modules import")


def _check_packages(lock: str, version: str, *weights: str) -> int:
    """Checks that the packages are those of the lock file; returns how many there are."""
    expected = "\n".join([Path(lock).read_text(encoding="utf-8"), *weights])
    pinned = {_normal(name): pin for name, pin in PINNED.findall(expected)}
    installed = {_normal(one.metadata["Name"]): one.version for one in metadata.distributions()}
    _expect("installed packages must be those of the lock file, and kfp-vision", installed, pinned | {"kfp-vision": version})
    _expect("the library must have this version", kfp_vision.__version__, version)
    return len(installed)


def _check_permissions() -> None:
    _expect("the image must not be writable for its user", [path for path in sys.path if os.access(path, os.W_OK)], [])


def _walk() -> Iterator[pkgutil.ModuleInfo]:
    return pkgutil.walk_packages(kfp_vision.__path__, "kfp_vision.")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _compiled(text: str) -> str:
    """Removes KFP's version from a YAML, since the lock file may pin an older KFP than the one that compiled it."""
    return re.sub(r"^sdkVersion: .*$", "", text, flags=re.MULTILINE)


def _expect(rule: str, found: object, expected: object) -> None:
    if found == expected:
        return
    if isinstance(found, dict) and isinstance(expected, dict):
        names = {name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)}
        found, expected = ({name: side.get(name) for name in sorted(names)} for side in (found, expected))
    sys.exit(f"error: {rule}; got {found} instead of {expected}")


if __name__ == "__main__":
    if sys.argv[1] == "--server":
        check_server(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
