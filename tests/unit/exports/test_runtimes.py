"""Loads exported files, and refuses others in one line."""

import pytest

from kfp_vision.core.errors import InputError, NotFoundError
from kfp_vision.exports import formats, runtimes


@pytest.mark.parametrize("name", ["classifier.tflite", "classifier.onnx", "classifier.xml", "CLASSIFIER.ONNX"])
def test_a_file_that_is_none_of_ours_is_refused(name, tmp_path):
    (tmp_path / name).write_bytes(b"<html>not a model</html>")
    with pytest.raises(InputError) as refusal:
        runtimes.open_file(tmp_path / name)
    line = str(refusal.value)
    assert line.startswith(f"error: a model file must be one that export_model wrote; got {tmp_path / name} (")
    assert line.endswith("Give its .tflite, .onnx or .xml file.")
    assert "\n" not in line


def test_a_file_that_does_not_exist_is_refused(tmp_path):
    rule = "a model file must exist on this machine"
    with pytest.raises(NotFoundError, match=rf"{rule}; got .*none.onnx. Give its .tflite, .onnx or .xml file.$"):
        runtimes.open_file(tmp_path / "none.onnx")


def test_a_model_folder_is_no_exported_file():
    paths = ("runs/model", "a.tflite", "a.onnx", "s/a.xml", "A.ONNX")
    assert [formats.is_exported_file(path) for path in paths] == [False, True, True, True, True]
