"""The commands on the pages: those of README.md and docs, and which of them the tests run."""

import ast
import re
import shlex
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(file for file in (ROOT / "docs").rglob("*.md") if "/_" not in file.as_posix())])
FENCE = re.compile(r"^ *```(?P<language>\w+)\n(?P<text>.*?)^ *```$", re.DOTALL | re.MULTILINE)
GENERATED = re.compile(r"<!-- generated: .*?<!-- end -->", re.DOTALL)
BIN = Path(sys.executable).parent
KFP = ".venv/bin/kfp --endpoint http://localhost:3000 "
FINDERS = {"find_command": "", "find_kfp_command": KFP, "find_program": ""}


def blocks(page: Path, language: str) -> list[str]:
    """Returns the code blocks of a page in a language, without those in generated tables."""
    text = GENERATED.sub("", page.read_text(encoding="utf-8"))
    return [match["text"] for match in FENCE.finditer(text) if match["language"] == language]


def split_commands(block: str) -> list[str]:
    """Splits a block into commands, each of which may take several lines, in a quote or after a backslash."""
    commands, begun = [], ""
    for line in block.splitlines(keepends=True):
        begun += line
        try:
            shlex.split(begun)
        except ValueError:  # a quote is open
            continue
        if not begun.endswith("\\\n"):
            commands.append(begun.strip())
            begun = ""
    assert not begun, f"the block ends within a command: {begun}"
    return [command for command in commands if command]


@cache
def all_commands() -> dict[str, str]:
    """Returns each command of a bash block, with the page that shows it first."""
    return _first_pages("bash", split_commands)


@cache
def all_programs() -> dict[str, str]:
    """Returns each Python block, with the page that shows it first."""
    return _first_pages("python", lambda block: [block])


def find_command(beginning: str) -> str:
    """Returns the only command of the pages with this beginning."""
    return _find(all_commands(), beginning)


def find_kfp_command(beginning: str) -> list[str]:
    """Returns the words of the only command of the pages with this beginning, after KFP's program and its endpoint."""
    return words(_find(all_commands(), KFP + beginning))


def find_program(part: str) -> str:
    """Returns the only Python block of the pages with this text in it."""
    (found,) = [block for block in all_programs() if part in block]
    return found


def words(command: str) -> list[str]:
    """Splits a command into words, with this environment's programs in place of those in `.venv/bin`."""
    plain = shlex.split(command.replace("\\\n", " "))  # shlex keeps a line break after a backslash; a shell does not
    return [str(BIN / word.removeprefix(".venv/bin/")) if word.startswith(".venv/bin/") else word for word in plain]


def asked_for() -> list[str]:
    """Returns the beginnings of commands, and parts of programs, that tests ask for in order to run them."""
    found = []
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if name in FINDERS:
                    found.append(FINDERS[name] + str(node.args[0].value))
    return found


def _first_pages(language: str, split: Callable[[str], list[str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for page in PAGES:
        for block in blocks(page, language):
            for one in split(block):
                found.setdefault(one, page.relative_to(ROOT).as_posix())
    return found


def matching(commands: Iterable[str], beginning: str) -> list[str]:
    """Returns the command that is this, or else those that begin with it."""
    return [beginning] if beginning in commands else [command for command in commands if command.startswith(beginning)]


def _find(commands: dict[str, str], beginning: str) -> str:
    found = matching(commands, beginning)
    assert len(found) == 1, f"{len(found)} commands begin with {beginning}: {found}"
    return found[0]
