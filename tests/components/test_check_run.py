import json

import pytest
from support import run_component

from kfp_vision import components
from kfp_vision.cli.run import form_defaults
from kfp_vision.cli.run import form_fields as kinds
from kfp_vision.pipelines import image_classification_partitioned

KINDS = kinds(image_classification_partitioned)


@pytest.fixture
def fields(pictures) -> dict[str, object]:
    """Every field of the form, as for a training from scratch on the few pictures."""
    values = form_defaults(image_classification_partitioned)
    whole = {name: int(value) for name, value in values.items() if KINDS[name] == "NUMBER_INTEGER"}
    return values | whole | {"images_uri": str(pictures), "fine_tune": False}


def test_lets_right_values_pass_without_a_word(fields, tmp_path):
    ended = run_component.run(components.check_run, tmp_path, **fields)
    assert ended.succeeded
    assert ended.printed == []
    assert ended.left_behind() == ["executor_output.json", "mlpipeline_ui_metadata"]
    assert ended.outputs["gpus"] == "1"  # a text, as KFP makes a request of no number


@pytest.mark.parametrize(
    ("log_uri", "outputs", "printed"),
    [
        ("", [], []),
        (
            "{folder}",
            [],
            ["the user interface opens TensorBoard only on s3:// and gs://: run tensorboard --logdir {folder}"],
        ),
    ],
)
def test_says_what_the_user_interface_opens_tensorboard_on(fields, tmp_path, log_uri, outputs, printed):
    folder = tmp_path / "logs"
    ended = run_component.run(components.check_run, tmp_path / "root", **fields | {"log_uri": log_uri.format(folder=folder)})
    assert json.loads((ended.folder / "mlpipeline_ui_metadata").read_text()) == {"version": 1, "outputs": outputs}
    assert ended.printed == [line.format(folder=folder) for line in printed]


def test_refuses_a_ratio_above_one(fields, tmp_path):
    ended = run_component.run(components.check_run, tmp_path, **fields | {"validation_ratio": 1.5})
    assert run_component.refusal(ended) == (
        "error: validation_ratio must be at least 0 and below 1; got 1.5. Set it to 0.2, say."
    )


def test_refuses_a_list_of_pictures_to_leave_out_without_the_column_path(fields, tmp_path):
    listing = tmp_path / "list.csv"
    listing.write_text("uri,label\n1.jpg,daisy\n")
    ended = run_component.run(components.check_run, tmp_path, **fields | {"leave_out_uri": str(listing)})
    assert run_component.refusal(ended) == (
        f"error: leave_out_uri must have a column path; got uri, label in {listing}, line 1. "
        "Write path,leave_out in the first line and lines such as daisy/1.jpg,yes below it, in UTF-8."
    )
