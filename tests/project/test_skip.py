"""What cannot run here is left out in one way alone, which CI does not let pass."""

import ast
from pathlib import Path

import pytest
from support import skip

TESTS = Path(__file__).resolve().parents[1]
WAY = Path(skip.__file__).resolve()
OTHER_WAYS = {"skip", "skipif", "skipUnless", "skipIf", "importorskip", "xfail", "SkipTest", "Skipped", "exit"}
OF = ("pytest", "mark", "unittest", "case")


def other_ways(source: str) -> list[str]:
    """The lines of a source that leave a test out, or let it fail, in another way."""
    found = []
    nodes = list(ast.walk(ast.parse(source)))
    caught = {node.value for node in nodes if isinstance(node, ast.Attribute) and node.attr == "Exception"}
    for node in nodes:
        if node in caught:  # such as pytest.skip.Exception, by which a test sees that another is left out
            continue
        if isinstance(node, ast.Attribute) and node.attr in OTHER_WAYS and ast.unparse(node.value).split(".")[-1] in OF:
            found.append(ast.unparse(node))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in (*OF, "_pytest"):
            found += [f"{node.module}.{name.name}" for name in node.names if name.name in OTHER_WAYS]
    return found


def test_no_test_is_left_out_in_another_way():
    files = sorted(set(TESTS.rglob("*.py")) - {WAY})
    assert len(files) > 100
    assert {file.name: ways for file in files if (ways := other_ways(file.read_text(encoding="utf-8")))} == {}


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
def test_every_other_way_is_seen(line):
    assert len(other_ways(line)) == 1


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_in_ci_what_is_left_out_fails(monkeypatch, ci, outcome):
    monkeypatch.setenv("CI", ci)
    with pytest.raises((pytest.skip.Exception, pytest.fail.Exception), match="no engine answers") as ended:
        skip.leave_out("no engine answers")
    assert ended.type is outcome
