"""The two widths of the tests: the quick ones by default, every one of them in CI."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import skip

ROOT = Path(__file__).resolve().parents[2]
FILE = """
import pytest

@pytest.mark.slow
def test_slow(): ...

def test_quick(): ...
"""


def outcomes(folder: Path, ci: str, *options: str) -> dict[str, int]:
    """Runs the tests of a file under our settings; returns the number of tests by outcome."""
    tests = folder / "tests"
    tests.mkdir()
    for name in ("conftest.py", "support"):
        (tests / name).symlink_to(ROOT / "tests" / name)
    (tests / "test_two.py").write_text(FILE)
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text(encoding="utf-8"), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | ({"CI": ci} if ci else {})
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (skip.SLOW_REASON in done.stdout) == ("skipped" in done.stdout)
    counts = done.stdout.splitlines()[-1].partition(" in ")[0].split(", ")
    return {outcome: int(count) for count, outcome in (one.split() for one in counts)}


@pytest.mark.parametrize(
    ("ci", "options", "expected"),
    [("", (), {"passed": 1, "skipped": 1}), ("", ("--all",), {"passed": 2}), ("true", (), {"passed": 2})],
)
def test_slow_tests_run_if_asked_for_and_always_in_ci(tmp_path, ci, options, expected):
    assert outcomes(tmp_path, ci, *options) == expected


def test_ci_runs_the_test_command_of_the_readme_and_no_other_pytest():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    lines = [line.strip() for line in script.splitlines()]
    assert "export CI=true" in lines
    assert lines[-1] == "make test" and "\nmake test\n" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "pytest" not in script


def pytest_words(**variables: str) -> list[str]:
    """Returns the words of the pytest command of `make test` after `-m pytest`, with some environment variables set."""
    environment = {name: value for name, value in os.environ.items() if name not in {"CI", "WORKERS", "MAKEFLAGS"}} | variables
    command = ["make", "--dry-run", "test"]
    printed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    (pytest_line,) = [line for line in printed.splitlines() if "-m pytest" in line]
    return pytest_line.split("-m pytest")[1].split()


def test_the_command_of_ci_deselects_nothing():
    assert {"-k", "-m", "--deselect", "--ignore", "--last-failed", "--lf"}.isdisjoint(pytest_words(CI="true"))


@pytest.mark.parametrize(
    ("variables", "workers"), [({}, "2"), ({"CI": "true"}, "3"), ({"WORKERS": "4"}, "4"), ({"CI": "true", "WORKERS": "4"}, "4")]
)
def test_ci_runs_three_files_at_a_time_and_people_two(variables, workers):
    assert pytest_words(**variables)[:2] == ["--numprocesses", workers]
