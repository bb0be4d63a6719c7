"""The run form of a pipeline as a table: each field's name, default and meaning, from the docstring of the pipeline."""

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format
from kfp.dsl.graph_component import GraphComponent
from kfp.pipeline_spec.pipeline_spec_pb2 import ParameterType

TYPES = {
    "STRING": "text",
    "NUMBER_INTEGER": "whole number",
    "NUMBER_DOUBLE": "number",
    "BOOLEAN": "true or false",
    "LIST": "list",
    "STRUCT": "dictionary",
}
LONGEST_DEFAULT = 32  # characters; a longer one has a line of its own


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


def form(pipeline: GraphComponent) -> list[Field]:
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


def summary(pipeline: GraphComponent) -> str:
    """Returns the first sentence of a pipeline's description.

    Args:
        pipeline: an entry of `kfp_vision.pipelines.PIPELINES`.
    """
    return description(pipeline).partition(". ")[0].rstrip(".") + "."


def description(pipeline: GraphComponent) -> str:
    """Returns what a pipeline does, in one line: text for `kfp pipeline create --description`, or for the page that uploads.

    Args:
        pipeline: an entry of `kfp_vision.pipelines.PIPELINES`.
    """
    return " ".join(pipeline.pipeline_spec.pipeline_info.description.split())


def table(fields: Sequence[Field], width: int) -> Iterator[str]:
    """Renders fields for a terminal.

    Args:
        fields: the fields.
        width: columns of the terminal.

    Yields:
        The lines.
    """
    defaults = {field.name: show(field.default) for field in fields}
    first = max(len("field"), *(len(field.name) for field in fields))
    second = max(len("default"), *(len(text) for text in defaults.values() if len(text) <= LONGEST_DEFAULT))
    margin = " " * (first + second + 4)
    yield f"{'field':{first}}  {'default':{second}}  what it is"
    for field in fields:
        text = defaults[field.name]
        described = field.description
        if field.choices:
            described += f" One of {', '.join(field.choices)}."
        head = f"{field.name:{first}}  {text if len(text) <= LONGEST_DEFAULT else '':{second}}  "
        yield from textwrap.wrap(described, max(width, len(margin) + 24), initial_indent=head, subsequent_indent=margin)
        if len(text) > LONGEST_DEFAULT:
            yield f"{margin}Default: {text}"


def show(value: Any) -> str:
    """Formats a default as it is typed after `-p name=`.

    Args:
        value: the value.

    Returns:
        The text; `""` for an empty text.
    """
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(value)
