"""Whether an image is whole, from the inside: `python3 check.py requirements.lock VERSION` in the Dockerfiles' stage `test`."""

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


def main(lock: str, version: str) -> None:
    """Ends with a line that says what is wrong, if anything is."""
    pinned = {_normal(name): pin for name, pin in PINNED.findall(Path(lock).read_text(encoding="utf-8"))}
    installed = {_normal(one.metadata["Name"]): one.version for one in metadata.distributions()}
    _expect("what is installed is the lock file, and kfp-vision", installed, pinned | {"kfp-vision": version})
    _expect("the library says its version", kfp_vision.__version__, version)
    modules = [module.name for module in pkgutil.walk_packages(kfp_vision.__path__, "kfp_vision.")]
    for name in modules:
        importlib.import_module(name)
    _expect("components and pipelines are there", {"kfp_vision.components", "kfp_vision.pipelines"} - set(modules), set())
    stale = {file for file, text in compiling.texts().items() if _compiled(file.read_text(encoding="utf-8")) != _compiled(text)}
    _expect("every YAML is what is compiled here", stale, set())
    _expect("nobody special can write to the image", [path for path in sys.path if os.access(path, os.W_OK)], [])
    print(f"{len(installed)} packages as locked, {len(modules)} modules import")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _compiled(text: str) -> str:
    """A YAML without who compiled it: the lock file may name an older KFP than the one that wrote it."""
    return re.sub(r"^sdkVersion: .*$", "", text, flags=re.MULTILINE)


def _expect(what: str, found: object, wanted: object) -> None:
    if found == wanted:
        return
    if isinstance(found, dict) and isinstance(wanted, dict):
        names = {name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)}
        found, wanted = ({name: side.get(name) for name in sorted(names)} for side in (found, wanted))
    sys.exit(f"error: {what}: expected {wanted}, found {found}")


if __name__ == "__main__":
    main(*sys.argv[1:])
