import pytest
from support import boxed_images, run_component

from kfp_vision import components

FIELDS = {
    "task": "detection",
    "leave_out_uri": "",
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
        "error: advanced of prepare_records must hold known names only (max_refused_ratio, check_pixels, max_side, "
        "conflicting_labels, name_encoding, store_wait_seconds); got momentum. Take one of these, or leave it out."
    )
