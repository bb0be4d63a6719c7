import pytest
from support import run_component

from kfp_vision import components
from kfp_vision.cli.run import form_defaults
from kfp_vision.cli.run import form_fields as kinds
from kfp_vision.pipelines import train_only

KINDS = kinds(train_only)


@pytest.fixture
def fields(written) -> dict[str, object]:
    """Returns all fields of the form, for a training from scratch on the few images."""
    values = form_defaults(train_only)
    integers = {name: int(value) for name, value in values.items() if KINDS[name] == "NUMBER_INTEGER"}
    return values | integers | {"records_uri": str(written.folder), "fine_tune": False}


def test_valid_values_pass_without_output(fields, tmp_path):
    ended = run_component.run(components.check_training, tmp_path, **fields)
    assert ended.succeeded
    assert ended.printed == []
    assert ended.left_behind() == ["executor_output.json", "mlpipeline_ui_metadata"]
    assert ended.outputs["gpus"] == "1"  # text, since KFP makes no resource request of a number


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"records_uri": ""}, "records_uri must be set"),
        ({"records_uri": "/no/such/records"}, "records_uri must name something that exists; got /no/such/records"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1 to 65536; got 0. Set it to 16, say."),
    ],
)
def test_rejects_invalid_values(fields, tmp_path, changes, line):
    ended = run_component.run(components.check_training, tmp_path, **fields | changes)
    assert run_component.error_line(ended).startswith(f"error: {line}")
