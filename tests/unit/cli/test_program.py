"""The name of the program in the commands that it prints: as it was typed, so that they can be copied."""

import subprocess
import sys
from pathlib import Path

import pytest

from kfp_vision.cli import program

BIN = Path(sys.executable).parent


@pytest.fixture
def typed(tmp_path, monkeypatch):
    """Returns a function that calls the program by a path, from a folder that has a link to its own in it."""
    (tmp_path / ".venv").symlink_to(BIN.parent)
    monkeypatch.chdir(tmp_path)

    def called(path: str) -> str:
        monkeypatch.setattr(sys, "argv", [path, "run"])
        return program.typed_name()

    return called


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (".venv/bin/kfp-vision", ".venv/bin/kfp-vision"),
        ("my tools/kfp-vision", "'my tools/kfp-vision'"),
        ("kfp-vision", "kfp-vision"),
        ("/project/kfp_vision/cli/__main__.py", "kfp-vision"),
    ],
)
def test_is_what_was_typed(typed, monkeypatch, path, name):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert typed(path) == name


def test_is_bare_where_the_shell_finds_it(typed, monkeypatch):
    monkeypatch.setenv("PATH", str(BIN))
    assert typed(str(BIN / "kfp-vision")) == "kfp-vision"  # as a shell calls what it has found


def test_an_error_says_it_as_typed(typed, tmp_path):
    command = [".venv/bin/kfp-vision", "run", "--stepz=3"]
    done = subprocess.run(command, cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False)
    assert done.stderr == "error: unrecognized arguments: --stepz=3. See .venv/bin/kfp-vision --help.\n"
