"""Tests are skipped only through `leave_out`, which fails in CI."""

import ast
from pathlib import Path

import pytest
from support import skip

TESTS = Path(__file__).resolve().parents[1]
SKIP_MODULE = Path(skip.__file__).resolve()
FORBIDDEN = {"skip", "skipif", "skipUnless", "skipIf", "importorskip", "xfail", "SkipTest", "Skipped", "exit"}
OWNERS = ("pytest", "mark", "unittest", "case")


def find_other_skips(source: str) -> list[str]:
    """Returns the expressions of a source that skip a test, or expect it to fail, in another way."""
    found = []
    nodes = list(ast.walk(ast.parse(source)))
    caught = {node.value for node in nodes if isinstance(node, ast.Attribute) and node.attr == "Exception"}
    for node in nodes:
        if node in caught:  # such as pytest.skip.Exception, with which a test checks for a skip
            continue
        if isinstance(node, ast.Attribute) and node.attr in FORBIDDEN and ast.unparse(node.value).split(".")[-1] in OWNERS:
            found.append(ast.unparse(node))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in (*OWNERS, "_pytest"):
            found += [f"{node.module}.{name.name}" for name in node.names if name.name in FORBIDDEN]
    return found


def test_tests_are_skipped_only_through_leave_out():
    files = sorted(set(TESTS.rglob("*.py")) - {SKIP_MODULE})
    assert len(files) > 100
    assert {file.name: skips for file in files if (skips := find_other_skips(file.read_text(encoding="utf-8")))} == {}


@pytest.mark.parametrize(
    "line",
    [
        "pytest.skip('no engine')",
        "pytestmark = pytest.mark.skip",
        "@pytest.mark.skipif(True, reason='no engine')\ndef test(): ...",
        "docker = pytest.importorskip('docker')",
        "@pytest.mark.xfail\ndef test(): ...",
        "pytest.param(1, marks=pytest.mark.skip(reason='no engine'))",
        "raise unittest.SkipTest",
        "from pytest import skip",
        "from unittest.case import SkipTest",
    ],
)
def test_detects_every_other_way_to_skip(line):
    assert len(find_other_skips(line)) == 1


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_a_skip_fails_in_ci(monkeypatch, ci, outcome):
    monkeypatch.setenv("CI", ci)
    with pytest.raises((pytest.skip.Exception, pytest.fail.Exception), match="no engine answers") as raised:
        skip.leave_out("no engine answers")
    assert raised.type is outcome
