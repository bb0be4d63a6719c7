import pytest
from support import boxed_images, run_component

from kfp_vision import components
from kfp_vision.core.advanced import PREPARATION_ADVANCED

FIELDS = {
    "task": "detection",
    "leave_out_uri": "",
    "labels_uri": "",
    "labels": "one",
    "check_images": True,
    "validation_ratio": 0.2,
    "test_ratio": 0.1,
    "images_per_shard": 10,
    "partitions": 2,
    "advanced": {"max_side": 100},
}


@pytest.fixture
def fields(tmp_path) -> dict[str, object]:
    boxed_images.data(tmp_path / "data", pictures=1)
    return FIELDS | {"images_uri": str(tmp_path / "data")}


def test_valid_values_pass_without_output(fields, tmp_path):
    ended = run_component.run(components.check_preparation, tmp_path, **fields)
    assert ended.succeeded
    assert ended.printed == []


def test_rejects_fields_of_a_training(fields, tmp_path):
    ended = run_component.run(components.check_preparation, tmp_path, **fields | {"advanced": {"momentum": 0.5}})
    assert run_component.error_line(ended) == (
        f"error: advanced of prepare_records must hold known names only ({', '.join(PREPARATION_ADVANCED)}); got "
        "momentum. Take one of these, or leave it out."
    )


@pytest.mark.parametrize(("name", "value"), [("class_folder", "highest"), ("min_images_per_class", 5)])
def test_rejects_settings_of_class_folders_for_detection(fields, tmp_path, name, value):
    ended = run_component.run(components.check_preparation, tmp_path, **fields | {"advanced": {name: value}})
    assert run_component.error_line(ended) == (
        f"error: {name} of advanced must be left out unless task=classification; got {value}. "
        "Leave it out: annotations name the classes."
    )
