"""The run form of a pipeline as a table: each field's name, default and meaning, from the docstring of the pipeline."""

import json
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from kfp.dsl.graph_component import GraphComponent

from kfp_vision.pipelines.form import Field

LONGEST_DEFAULT = 32  # characters; a longer one has a line of its own


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
