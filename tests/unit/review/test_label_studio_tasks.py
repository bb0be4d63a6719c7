"""Tasks for Label Studio: what they name is found again in what it exports."""

import json

import pytest
from support import mixed_colours

from kfp_vision.dataset.import_files import read_import_file
from kfp_vision.dataset.import_lines import LabelRule
from kfp_vision.review import label_studio_tasks


@pytest.fixture(scope="module")
def version(tmp_path_factory) -> mixed_colours.Version:
    return mixed_colours.write_version(tmp_path_factory.mktemp("repository") / "1")


@pytest.mark.parametrize("name", ["1.jpg", "a&b=c.jpg", "a+b c.jpg", "50%20.jpg", "a#1?d=2.jpg", "玫瑰.jpg"])
def test_an_image_of_any_name_is_found_again(tmp_path, version, name):
    (tmp_path / name).write_bytes(b"an image")
    task = label_studio_tasks.to_task(str(tmp_path / name), ["red"], [("red", 0.9)], version)
    answer = {"result": [{"type": "choices", "from_name": "label", "to_name": "image", "value": {"choices": ["red", "blue"]}}]}
    (tmp_path / "export.json").write_text(json.dumps([task | {"id": 1, "annotations": [answer]}]))
    (entry,) = read_import_file(str(tmp_path / "export.json"), LabelRule.of_fields("several")).entries
    assert (entry.uri, entry.label) == (str(tmp_path / name), "blue\tred")
