"""Parses the field `formats`, and says what a format needs."""

import pytest

from kfp_vision.core.errors import InputError
from kfp_vision.exports import formats


def test_names_are_parsed_in_their_order_with_white_space_around_them():
    parsed = formats.parse_formats(" openvino_int8, litert")
    assert [(form.name, form.runtime, form.calibrated) for form in parsed] == [
        ("openvino_int8", "openvino", True),
        ("litert", "litert", False),
    ]


def test_empty_is_no_format():
    assert formats.parse_formats("") == []


@pytest.mark.parametrize(
    ("given", "end"),
    [
        ("onxx", "comma-separated, or empty; got onxx. Did you mean onnx?"),
        (" ", 'comma-separated, or empty; got "". Take one of these, or leave it out.'),
        ("litert,", 'comma-separated, or empty; got "". Take one of these, or leave it out.'),
        ("onnx,onnx", "error: formats must name each format once; got onnx. Leave it out the second time."),
        (["onnx"], "comma-separated, or empty; got ['onnx']. Write it as text, such as litert,openvino."),
    ],
)
def test_other_names_are_refused(given, end):
    with pytest.raises(InputError) as refusal:
        formats.parse_formats(given)
    assert str(refusal.value).endswith(end)


def test_a_missing_package_is_one_line():
    with pytest.raises(InputError) as refusal:
        formats.check_installed(["json", "no_such_runtime"], "format onnx")
    assert str(refusal.value) == (
        "error: format onnx must have its packages; got no no_such_runtime. "
        "Install kfp-vision[exports], also in the container image of the stages."
    )


def test_every_package_of_a_format_is_checked_without_importing_it():
    assert formats.FORMATS["openvino_int8"].packages == ("nncf", "openvino")
    formats.check_packages(formats.FORMATS.values())
