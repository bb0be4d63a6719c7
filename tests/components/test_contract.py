"""Rules for every component and for its folder."""

import ast
import inspect
import json
from pathlib import Path

import kfp
import pytest
from google.protobuf import json_format

from kfp_vision import components
from kfp_vision.cli.run import form_fields
from kfp_vision.components import container_images
from kfp_vision.pipelines import (
    batch_prediction,
    drift_detection,
    hyperparameter_sweep,
    image_classification_partitioned,
    image_search,
    prepare_records,
    review,
    train_only,
)

NAMES = components.__all__
FORM_OF = {  # the pipeline whose fields each check takes
    "check_run": image_classification_partitioned,
    "check_training": train_only,
    "check_sweep": hyperparameter_sweep,
    "check_preparation": prepare_records,
    "check_prediction": batch_prediction,
    "check_collected": drift_detection,
    "check_search": image_search,
    "check_review": review,
}
PARAMETERS_OUT = {  # parameters passed to later stages
    "check_run": {"advanced": "STRUCT", "recipe": "STRING", "gpus": "STRING", "preset": "STRUCT", "form": "STRUCT"},
    "check_sweep": {"advanced": "STRUCT", "gpus": "STRING", "form": "STRUCT"},
    "check_training": {"gpus": "STRING", "preset": "STRUCT", "form": "STRUCT"},
    "check_preparation": {"Output": "STRUCT"},
    "check_drift": {"drifted": "BOOLEAN"},
}
FOLDER = Path(components.__file__).parent
MAX_LINES = 15
FORBIDDEN_NODES = (
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


def parse_function(name: str) -> ast.FunctionDef:
    """Parses the function of a component."""
    tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    (found,) = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    return found


def compiled_spec(name: str) -> dict:
    """Returns the compiled specification of a component."""
    return json_format.MessageToDict(getattr(components, name).pipeline_spec)


def container(name: str) -> dict:
    (executor,) = compiled_spec(name)["deploymentSpec"]["executors"].values()
    return executor["container"]


def inputs_and_outputs(name: str) -> tuple[dict, dict]:
    """Returns the definitions of all inputs and outputs, parameters and artifacts, by name."""
    (component,) = compiled_spec(name)["components"].values()
    definitions = (component.get(f"{side}Definitions", {}) for side in ("input", "output"))
    inputs, outputs = ({**side.get("parameters", {}), **side.get("artifacts", {})} for side in definitions)
    return inputs, outputs


def test_every_file_is_an_exported_component():
    files = {file.stem for file in FOLDER.glob("*.py")} - {"__init__", "container_images"}
    assert files == set(NAMES)
    assert sorted(NAMES) == NAMES
    for name in NAMES:
        assert isinstance(getattr(components, name), kfp.dsl.base_component.BaseComponent)
        assert getattr(components, name).python_func.__name__ == name


@pytest.mark.parametrize("name", NAMES)
def test_the_body_is_short_without_loops_or_branches(name):
    statements = parse_function(name).body[1:]  # after the docstring
    source = (FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines()
    lines = [line for line in source[statements[0].lineno - 1 : statements[-1].end_lineno] if line.strip()]
    assert len(lines) <= MAX_LINES
    assert not [node for node in ast.walk(ast.Module(statements, [])) if isinstance(node, FORBIDDEN_NODES)]


@pytest.mark.parametrize("name", NAMES)
def test_uses_our_image_and_installs_nothing(name):
    expected = container_images.GPU_IMAGE if name in ("train_classifier", "train_trial") else container_images.CPU_IMAGE
    assert container(name)["image"] == expected
    assert "pip" not in " ".join(container(name)["command"]).split()
    assert "kfp==" not in json.dumps(container(name))


@pytest.mark.parametrize("name", NAMES)
def test_all_inputs_and_outputs_are_described(name):
    documentation = inspect.getdoc(getattr(components, name).python_func)
    assert documentation.isascii()
    inputs, outputs = inputs_and_outputs(name)
    described = FORM_OF.get(name, getattr(components, name)).component_spec.inputs
    assert [port for port in inputs if not described[port].description] == []
    # KFP drops the description of a single unnamed output, so check the docstring.
    if list(outputs) == ["Output"]:
        assert "\nReturns:\n" in documentation
    else:
        assert [port for port, definition in outputs.items() if not definition.get("description")] == []


@pytest.mark.parametrize("name", FORM_OF)
def test_a_check_takes_every_field_of_its_form(name):
    inputs, outputs = inputs_and_outputs(name)
    assert {port: definition["parameterType"] for port, definition in inputs.items()} == form_fields(FORM_OF[name])
    parameters = {port: definition["parameterType"] for port, definition in outputs.items() if "parameterType" in definition}
    assert parameters == PARAMETERS_OUT.get(name, {})
    assert outputs.keys() - parameters.keys() == ({"mlpipeline_ui_metadata"} if "log_uri" in inputs else set())


def test_no_input_has_a_default():
    for name in NAMES:
        inputs, _ = inputs_and_outputs(name)
        assert [
            port
            for port, definition in inputs.items()
            if (definition.get("isOptional") and definition["parameterType"] != "TASK_FINAL_STATUS")
            or "defaultValue" in definition
        ] == []
