import pytest
from support import run_component

from kfp_vision import components
from kfp_vision.cli.run import form_defaults
from kfp_vision.cli.run import form_fields as kinds
from kfp_vision.pipelines import train_only

KINDS = kinds(train_only)


@pytest.fixture
def fields(written) -> dict[str, object]:
    """Every field of the form, as for a training from scratch on the few pictures."""
    values = form_defaults(train_only)
    whole = {name: int(value) for name, value in values.items() if KINDS[name] == "NUMBER_INTEGER"}
    return values | whole | {"records_uri": str(written.folder), "fine_tune": False}


def test_lets_right_values_pass_without_a_word(fields, tmp_path):
    ended = run_component.run(components.check_training, tmp_path, **fields)
    assert ended.succeeded
    assert ended.printed == []
    assert ended.left_behind() == ["executor_output.json", "mlpipeline_ui_metadata"]
    assert ended.outputs["gpus"] == "1"  # a text, as KFP makes a request of no number


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"records_uri": ""}, "records_uri must be set"),
        ({"records_uri": "/no/such/records"}, "records_uri must name something that exists; got /no/such/records"),
        ({"batch_size": 0}, "batch_size must be a whole number above 0; got 0. Set it to 16, say."),
    ],
)
def test_refuses_what_nothing_can_be_trained_with(fields, tmp_path, given, line):
    ended = run_component.run(components.check_training, tmp_path, **fields | given)
    assert run_component.refusal(ended).startswith(f"error: {line}")
