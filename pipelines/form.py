"""What a pipeline says to the run form beyond KFP's compiler: which values a field takes."""

from collections.abc import Callable, Mapping, Sequence

from kfp.dsl.graph_component import GraphComponent
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
