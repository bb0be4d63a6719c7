"""The images of instances: any text gives bytes or a reason, and standard base64 is decoded as it always was."""

import base64
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import colour_model

from kfp_vision.serving.instances import InvalidInstance, read_image

RED = colour_model.picture("red")
TEXT = base64.b64encode(RED).decode()
BEGINNINGS = [TEXT, base64.encodebytes(RED).decode(), f"data:image/jpeg;base64,{TEXT}", str(TEXT.encode()), json.dumps(TEXT)]


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(BEGINNINGS), st.integers(0, len(TEXT)), st.text(max_size=5), st.integers(0, len(TEXT)))
def test_every_text_gives_an_image_or_a_reason_in_one_line(text, start, inserted, end):
    read = read_image(text[:start] + inserted + text[end:], "instances[0]")
    if not isinstance(read, bytes):
        assert isinstance(read, InvalidInstance)
        assert str(read).startswith("instances[0] must be base64 of an image file; got ") and "\n" not in str(read)
        assert len(str(read)) < 400


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["b64", "image", "x"]), inner, max_size=2),
    )
)
def test_every_json_value_gives_an_image_or_a_reason(value):
    assert isinstance(read_image(value, "instances[0]"), bytes | InvalidInstance)


@given(st.binary(min_size=1, max_size=200))
def test_line_breaks_padding_and_alphabet_change_no_byte(content):
    content = b"\xff\xd8\xff" + content
    standard, safe = base64.b64encode(content).decode(), base64.urlsafe_b64encode(content).decode()
    for text in (standard, safe, safe.rstrip("="), base64.encodebytes(content).decode(), f"data:image/jpeg;base64,{safe}"):
        assert read_image({"b64": text}, "instances[0]") == content


def test_spaces_in_place_of_plus_are_told_from_lines_that_were_joined():
    content = b"\xff\xd8\xff" + random.Random(3).randbytes(300)
    joined = base64.encodebytes(content).decode().strip().replace("\n", " ")
    assert read_image(joined, "x") == content
    lost = base64.b64encode(content).decode()
    assert "+" in lost
    assert f"a space at {lost.index('+')}, where a + may have been" in str(read_image(lost.replace("+", " "), "x"))


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 500])
def test_base64_may_be_in_objects_of_three_levels(depth):
    instance: object = TEXT
    for _ in range(depth):
        instance = {"image": instance}
    read = read_image(instance, "x")
    assert read == RED if depth < 4 else str(read).startswith("x.image.image.image.image must be base64 of an image file; got")
