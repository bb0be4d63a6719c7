"""Extends what KFP puts into a pipeline's form, and reads it: choices of fields, forms derived from others, names of groups."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format
from kfp.dsl.graph_component import GraphComponent
from kfp.dsl.tasks_group import TasksGroup
from kfp.pipeline_spec.pipeline_spec_pb2 import ParameterType

TYPES = {
    "STRING": "text",
    "NUMBER_INTEGER": "whole number",
    "NUMBER_DOUBLE": "number",
    "BOOLEAN": "true or false",
    "LIST": "list",
    "STRUCT": "dictionary",
}


@dataclass(frozen=True)
class Field:
    """A field of a run form.

    Attributes:
        name: as in `-p name=value`, and in the form of the Kubeflow page.
        type: in words, such as `whole number`.
        default: the value if the field is left as it is.
        description: what it is.
        choices: the allowed values of a drop-down; empty if any value may be given.
    """

    name: str
    type: str
    default: Any
    description: str
    choices: tuple[str, ...] = ()


def read_form(pipeline: GraphComponent) -> list[Field]:
    """Lists the fields of a pipeline's form.

    Args:
        pipeline: an entry of `kfp_vision.pipelines.PIPELINES`.

    Returns:
        The fields, in the order of the pipeline's signature.
    """
    declared = pipeline.pipeline_spec.root.input_definitions.parameters
    return [_field(name, declared[name]) for name in pipeline.component_spec.inputs]


def _field(name: str, declared: Any) -> Field:
    kind = ParameterType.ParameterTypeEnum.Name(declared.parameter_type)
    default = json_format.MessageToDict(declared.default_value)
    choices = tuple(literal.string_value for literal in declared.literals if literal.WhichOneof("kind") == "string_value")
    whole = kind == "NUMBER_INTEGER"
    return Field(name, TYPES[kind], int(default) if whole else default, declared.description.strip(), choices)


def with_choices(choices: Mapping[str, Sequence[str]]) -> Callable[[GraphComponent], GraphComponent]:
    """Declares the allowed values of fields: those in `choices`, and true and false for every boolean.

    The SDK rejects `Literal` parameters, but the backend enforces the compiled `literals` and the user interface draws a
    drop-down for them; `kfp.local` ignores them.

    Args:
        choices: allowed values by name of the field.

    Returns:
        A decorator of pipelines, which changes the pipeline in place.
    """

    def add(pipeline: GraphComponent) -> GraphComponent:
        for name, parameter in pipeline.pipeline_spec.root.input_definitions.parameters.items():
            if parameter.parameter_type == ParameterType.BOOLEAN:
                for state in (True, False):
                    parameter.literals.add().bool_value = state
            for choice in choices.get(name, ()):
                parameter.literals.add().string_value = choice
        return pipeline

    return add


def like(
    pipeline: GraphComponent, *, without: Sequence[str] = (), **fields: tuple[Any, str]
) -> Callable[[Callable[[dict[str, Any]], None]], Callable[..., None]]:
    """Gives a function of a dictionary the form of a pipeline, with fields removed, changed or added, for `dsl.pipeline`.

    Args:
        pipeline: the pipeline whose fields, types, defaults and descriptions are taken.
        without: names of the fields to remove.
        **fields: default and description of each field to add, or to change in its place.

    Returns:
        A decorator of functions that take all fields as one dictionary.

    Example:
        ```python
        @dsl.pipeline(name="partitioned")
        @like(image_classification, partitions=(4, "number of machines that write records in parallel."))
        def partitioned(fields: dict[str, Any]) -> None: ...
        ```
    """

    def shape(stages: Callable[[dict[str, Any]], None]) -> Callable[..., None]:
        signature = inspect.signature(pipeline.pipeline_func)
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        new = {name: inspect.Parameter(name, kind, default=one, annotation=type(one)) for name, (one, _) in fields.items()}
        kept = {name: field for name, field in signature.parameters.items() if name not in without}
        form = kept | new
        names = list(form)

        def shaped(*values: Any) -> None:
            stages(dict(zip(names, values, strict=True)))

        _, _, described = (inspect.getdoc(pipeline.pipeline_func) or "").partition("\nArgs:\n")
        lines = {line.split(":")[0].strip(): line for line in described.splitlines()}
        lines |= {name: f"    {name}: {description}" for name, (_, description) in fields.items()}
        shaped.__doc__ = "\n".join([f"{inspect.getdoc(stages)}\n", "Args:", *(lines[name] for name in form), ""])
        shaped.__name__ = stages.__name__
        shaped.__signature__ = signature.replace(parameters=list(form.values()))  # type: ignore[attr-defined]
        return shaped

    return shape


@contextmanager
def named(group: TasksGroup) -> Iterator[Any]:
    """Enters a group of stages under the name it was given.

    Without this KFP names the group after its kind and a number, such as `condition-2`, in the path above a run's graph and in
    its API. KFP's backend accepts any name: nothing in it depends on the kinds (backend/src of KFP 2.17.0).

    Args:
        group: a new group with a display name.

    Yields:
        What entering the group gives, such as a loop's item.
    """
    with group as entered:
        group.name = group.display_name
        yield entered
