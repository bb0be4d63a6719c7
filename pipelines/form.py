"""What a pipeline says to KFP's pages beyond KFP's compiler: the values of a field, fields like another's, names of groups."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kfp.dsl.graph_component import GraphComponent
from kfp.dsl.tasks_group import TasksGroup
from kfp.pipeline_spec.pipeline_spec_pb2 import ParameterType


def with_choices(choices: Mapping[str, Sequence[str]]) -> Callable[[GraphComponent], GraphComponent]:
    """Adds the values that each root parameter takes to a pipeline: those of `choices`, and true and false of a boolean.

    The SDK refuses `Literal` parameters, but the backend checks and the user interface draws a drop-down for what stands in
    the compiled `literals`; `kfp.local` passes over them.
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


def like(pipeline: GraphComponent, *, without: Sequence[str] = (), **fields: tuple[Any, str]) -> Callable[[Callable], Callable]:
    """Gives a function of a dictionary of fields the form of a pipeline with fields more or less, for `dsl.pipeline` to read.

    Args:
        pipeline: whose fields it has, with their types, defaults and descriptions.
        without: the fields of it that it has not.
        fields: name to default and description, of those that it has besides.
    """

    def shape(stages: Callable[[dict[str, Any]], None]) -> Callable[..., None]:
        signature = inspect.signature(pipeline.pipeline_func)
        kept = [field for name, field in signature.parameters.items() if name not in without]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        new = [inspect.Parameter(name, kind, default=one, annotation=type(one)) for name, (one, _) in fields.items()]
        names = [field.name for field in (*kept, *new)]

        def shaped(*values: Any) -> None:
            stages(dict(zip(names, values, strict=True)))

        _, _, described = (inspect.getdoc(pipeline.pipeline_func) or "").partition("\nArgs:\n")
        lines = [line for line in described.splitlines() if line.split(":")[0].strip() not in without]
        lines += [f"    {name}: {description}" for name, (_, description) in fields.items()]
        shaped.__doc__ = "\n".join([f"{inspect.getdoc(stages)}\n", "Args:", *lines, ""])
        shaped.__name__ = stages.__name__
        shaped.__signature__ = signature.replace(parameters=[*kept, *new])  # type: ignore[attr-defined]
        return shaped

    return shape


@contextmanager
def named(group: TasksGroup) -> Iterator[Any]:
    """Enters a group of stages, and calls it by the name that it was given.

    KFP would call it by its kind and a number, `condition-2`, in the path above a run's graph and wherever its API names it.
    KFP's backend takes any name: nothing in it goes by the kinds (backend/src of KFP 2.17.0).
    """
    with group as entered:
        group.name = group.display_name
        yield entered
