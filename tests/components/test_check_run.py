import json

import pytest
from support import run_component

from kfp_vision import components
from kfp_vision.cli.run import form_defaults
from kfp_vision.cli.run import form_fields as kinds
from kfp_vision.pipelines import image_classification_partitioned

KINDS = kinds(image_classification_partitioned)


@pytest.fixture
def fields(image_folder) -> dict[str, object]:
    """Returns all fields of the form, for a training from scratch on the few images."""
    values = form_defaults(image_classification_partitioned)
    integers = {name: int(value) for name, value in values.items() if KINDS[name] == "NUMBER_INTEGER"}
    return values | integers | {"images_uri": str(image_folder), "fine_tune": False}


def test_valid_values_pass_without_output(fields, tmp_path):
    ended = run_component.run(components.check_run, tmp_path, **fields)
    assert ended.succeeded
    assert ended.printed == []
    assert ended.left_behind() == ["executor_output.json", "mlpipeline_ui_metadata"]
    assert ended.outputs["gpus"] == "1"  # text, since KFP makes no resource request of a number


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
def test_writes_the_tensorboard_link(fields, tmp_path, log_uri, outputs, printed):
    folder = tmp_path / "logs"
    ended = run_component.run(components.check_run, tmp_path / "root", **fields | {"log_uri": log_uri.format(folder=folder)})
    assert json.loads((ended.folder / "mlpipeline_ui_metadata").read_text()) == {"version": 1, "outputs": outputs}
    assert ended.printed == [line.format(folder=folder) for line in printed]


def test_rejects_a_ratio_above_one(fields, tmp_path):
    ended = run_component.run(components.check_run, tmp_path, **fields | {"validation_ratio": 1.5})
    assert run_component.error_line(ended) == (
        "error: validation_ratio must be at least 0 and below 1; got 1.5. Set it to 0.2, say."
    )


def test_rejects_an_exclusion_list_without_the_column_path(fields, tmp_path):
    listing = tmp_path / "list.csv"
    listing.write_text("uri,label\n1.jpg,daisy\n")
    ended = run_component.run(components.check_run, tmp_path, **fields | {"leave_out_uri": str(listing)})
    assert run_component.error_line(ended) == (
        f"error: leave_out_uri must have a column path; got uri, label in {listing}, line 1. "
        "Write path,leave_out in the first line and lines such as daisy/1.jpg,yes below it, in UTF-8."
    )


@pytest.mark.parametrize(
    ("images_uri", "line"),
    [
        (
            "sample?labels=several",
            "error: images_uri=sample?labels=several must be read with labels=several; got labels=one. "
            "Set labels to several, or images_uri to sample.",
        ),
        (
            "{folder}/list.jsonl",
            "error: with labels=one, every line of an import file must give one label; "
            "got several labels in {folder}/list.jsonl, line 1. "
            "Set labels to several if an image may have several of them, or leave one in each line.",
        ),
    ],
)
def test_data_of_several_labels_needs_the_field_labels(fields, tmp_path, images_uri, line):
    (tmp_path / "list.jsonl").write_text('{"uri": "1.jpg", "label": ["daisy", "rose"]}\n')
    values = fields | {"images_uri": images_uri.format(folder=tmp_path)}
    ended = run_component.run(components.check_run, tmp_path / "one", **values)
    assert run_component.error_line(ended) == line.format(folder=tmp_path)
    ended = run_component.run(components.check_run, tmp_path / "several", **values | {"labels": "several"})
    assert ended.succeeded
