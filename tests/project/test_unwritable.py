"""Every stage with outputs calls functions of the library that say in one line that a disk is full, or a folder read-only."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PREFLIGHT = {"check_run", "check_sweep", "check_training"}  # write a link to TensorBoard, which is a kilobyte


def functions_called(stage: Path) -> list[ast.FunctionDef]:
    """Returns the functions of the library that a component calls."""
    tree = ast.parse(stage.read_text())
    modules = {
        alias.asname or alias.name: (line.module, alias.name)
        for line in ast.walk(tree)
        if isinstance(line, ast.ImportFrom) and line.module and line.module.startswith("kfp_vision")
        for alias in line.names
    }
    found = []
    for call in (node.func for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if isinstance(call, ast.Attribute) and isinstance(call.value, ast.Name) and call.value.id in modules:
            package, module = modules[call.value.id]
            found.append((f"{package}.{module}", call.attr))
        elif isinstance(call, ast.Name) and call.id in modules:
            found.append(modules[call.id])
    return [
        node
        for module, name in found
        if (file := ROOT / f"{module.replace('.', '/')}.py").is_file()
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == name
    ]


def is_in_one_line(function: ast.FunctionDef) -> bool:
    return any(ast.unparse(decorator).startswith("unwritable.in_one_line(") for decorator in function.decorator_list)


@pytest.mark.parametrize(
    "stage",
    [
        stage
        for stage in sorted((ROOT / "components").glob("*.py"))
        if "dsl.Output[" in stage.read_text() and stage.stem not in PREFLIGHT
    ],
    ids=lambda stage: stage.stem,
)
def test_a_stage_with_outputs_says_in_one_line_that_it_cannot_write(stage):
    writing = [function.name for function in functions_called(stage) if is_in_one_line(function)]
    assert set(writing) - {"write_json"}  # which only writes the metrics
