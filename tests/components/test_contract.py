"""A component is a contract: what holds of every one of them, and of the folder they lie in."""

import ast
import inspect
import json
from pathlib import Path

import kfp
import pytest
from google.protobuf import json_format

from kfp_vision import components
from kfp_vision.cli.run import form_fields
from kfp_vision.components import images
from kfp_vision.pipelines import (
    batch_prediction,
    hyperparameter_sweep,
    image_classification_partitioned,
    image_search,
    prepare_records,
    train_only,
)

NAMES = components.__all__
FORM_OF = {  # whose fields they check
    "check_run": image_classification_partitioned,
    "check_training": train_only,
    "check_sweep": hyperparameter_sweep,
    "check_preparation": prepare_records,
    "check_prediction": batch_prediction,
    "check_search": image_search,
}
SAYS = {  # what they say to the stages behind them
    "check_run": {"advanced": "STRUCT", "recipe": "STRING", "gpus": "STRING"},
    "check_sweep": {"advanced": "STRUCT", "gpus": "STRING"},
    "check_training": {"gpus": "STRING"},
    "check_preparation": {"Output": "STRUCT"},
}
FOLDER = Path(components.__file__).parent
MOST_LINES = 15
NOT_IN_A_BODY = (
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.Try,
    ast.TryStar,
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.Lambda,
    ast.ClassDef,
)


def function(name: str) -> ast.FunctionDef:
    """The syntax tree of the function that a component is made of."""
    tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    (found,) = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    return found


def spec(name: str) -> dict:
    """What a component compiles to."""
    return json_format.MessageToDict(getattr(components, name).pipeline_spec)


def container(name: str) -> dict:
    (executor,) = spec(name)["deploymentSpec"]["executors"].values()
    return executor["container"]


def inputs_and_outputs(name: str) -> tuple[dict, dict]:
    """Name to definition, of parameters and artifacts together."""
    (component,) = spec(name)["components"].values()
    both = (component.get(f"{side}Definitions", {}) for side in ("input", "output"))
    inputs, outputs = ({**side.get("parameters", {}), **side.get("artifacts", {})} for side in both)
    return inputs, outputs


def test_every_file_of_the_folder_is_exported_and_is_a_component():
    files = {file.stem for file in FOLDER.glob("*.py")} - {"__init__", "images"}
    assert files == set(NAMES)
    assert sorted(NAMES) == NAMES
    for name in NAMES:
        assert isinstance(getattr(components, name), kfp.dsl.base_component.BaseComponent)
        assert getattr(components, name).python_func.__name__ == name


@pytest.mark.parametrize("name", NAMES)
def test_the_body_is_short_and_straight(name):
    statements = function(name).body[1:]  # after the docstring
    source = (FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines()
    lines = [line for line in source[statements[0].lineno - 1 : statements[-1].end_lineno] if line.strip()]
    assert len(lines) <= MOST_LINES
    assert not [node for node in ast.walk(ast.Module(statements, [])) if isinstance(node, NOT_IN_A_BODY)]


@pytest.mark.parametrize("name", NAMES)
def test_the_image_is_ours_and_nothing_is_installed_in_it(name):
    expected = images.GPU_IMAGE if name in ("train_classifier", "train_trial") else images.CPU_IMAGE
    assert container(name)["image"] == expected
    assert "pip" not in " ".join(container(name)["command"]).split()
    assert "kfp==" not in json.dumps(container(name))


@pytest.mark.parametrize("name", NAMES)
def test_everything_that_goes_in_or_comes_out_is_described(name):
    documentation = inspect.getdoc(getattr(components, name).python_func)
    assert documentation.isascii()
    inputs, outputs = inputs_and_outputs(name)
    described = FORM_OF.get(name, getattr(components, name)).component_spec.inputs
    assert [given for given in inputs if not described[given].description] == []
    # Of a single unnamed output KFP carries nothing over; the docstring says it all the same.
    if list(outputs) == ["Output"]:
        assert "\nReturns:\n" in documentation
    else:
        assert [made for made, definition in outputs.items() if not definition.get("description")] == []


@pytest.mark.parametrize("name", FORM_OF)
def test_what_checks_a_form_sees_every_field_of_it(name):
    inputs, outputs = inputs_and_outputs(name)
    assert {given: definition["parameterType"] for given, definition in inputs.items()} == form_fields(FORM_OF[name])
    said = {made: definition["parameterType"] for made, definition in outputs.items() if "parameterType" in definition}
    assert said == SAYS.get(name, {})
    assert outputs.keys() - said.keys() == ({"mlpipeline_ui_metadata"} if "log_uri" in inputs else set())


def test_no_input_has_a_default_that_could_differ_from_the_form():
    for name in NAMES:
        inputs, _ = inputs_and_outputs(name)
        assert [
            given
            for given, definition in inputs.items()
            if (definition.get("isOptional") and definition["parameterType"] != "TASK_FINAL_STATUS")
            or "defaultValue" in definition
        ] == []
