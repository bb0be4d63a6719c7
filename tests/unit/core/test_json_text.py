"""JSON of anything, from anywhere."""

import json
import math
import re

import pytest

from kfp_vision.core import json_text
from kfp_vision.core.errors import DamagedError

DEEP = "[" * 100_000


@pytest.mark.parametrize("text", [DEEP, '{"a":' * 100_000, DEEP.encode(), "", "{", b"\xff", "1" * 5000])
def test_what_cannot_be_read_is_a_value_error(text):
    with pytest.raises(ValueError, match=r".+"):
        json_text.parse(text)


def test_what_python_writes_for_numbers_that_are_not_finite_is_read():
    found = json_text.parse('[NaN, Infinity, -Infinity, {"a": 1.5}]')
    assert math.isnan(found[0]) and found[1:] == [math.inf, -math.inf, {"a": 1.5}]


def test_numbers_that_are_not_finite_are_written_as_null():
    content = {"a": [1.5, math.nan, (math.inf, "NaN")], "b": {"ü": -math.inf}, "c": True, "d": None}
    text = json_text.write(content)
    assert text == '{"a": [1.5, null, [null, "NaN"]], "b": {"ü": null}, "c": true, "d": null}'
    assert json.loads(text, parse_constant=pytest.fail) == json.loads(json_text.write(content, indent=1))


@pytest.mark.parametrize(
    ("content", "reason"),
    [(DEEP, "nested too deeply"), ("[1]", "it holds list"), ("null", "it holds NoneType"), (None, "No such file or directory")],
)
def test_a_file_that_holds_no_object_is_refused_in_one_line(tmp_path, content, reason):
    file = tmp_path / "verdict.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DamagedError, match=re.escape(f"must hold an object of JSON; got {file} ({reason}). Let the")):
        json_text.read_object(file)
