"""Checks a container image from the inside: `python3 check.py LOCK VERSION [WEIGHTS ...]` in the Dockerfiles' stage `test`."""

import importlib
import os
import pkgutil
import re
import sys
from importlib import metadata
from pathlib import Path

import kfp_vision
from kfp_vision.pipelines import compiling

PINNED = re.compile(r"^([\w.-]+)(?:\[[\w,-]+\])?==([^\s;]+)", re.MULTILINE)


def main(lock: str, version: str, *weights: str) -> None:
    """Checks packages, modules, YAML and permissions; exits with one line if a check fails.

    Args:
        lock: path of the lock file.
        version: expected version of kfp-vision.
        *weights: further packages, `name==version`.
    """
    expected = "\n".join([Path(lock).read_text(encoding="utf-8"), *weights])
    pinned = {_normal(name): pin for name, pin in PINNED.findall(expected)}
    installed = {_normal(one.metadata["Name"]): one.version for one in metadata.distributions()}
    _expect("installed packages must be those of the lock file, and kfp-vision", installed, pinned | {"kfp-vision": version})
    _expect("the library must have this version", kfp_vision.__version__, version)
    modules = [module.name for module in pkgutil.walk_packages(kfp_vision.__path__, "kfp_vision.")]
    for name in modules:
        importlib.import_module(name)
    missing = {"kfp_vision.components", "kfp_vision.pipelines"} - set(modules)
    _expect("components and pipelines must be installed", missing, set())
    stale = {file for file, text in compiling.texts().items() if _compiled(file.read_text(encoding="utf-8")) != _compiled(text)}
    _expect("every YAML must match the code", stale, set())
    _expect("the image must not be writable for its user", [path for path in sys.path if os.access(path, os.W_OK)], [])
    print(f"{len(installed)} packages as locked, {len(modules)} modules import")


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
    main(*sys.argv[1:])
