"""What a server collects: options before variables, off by default, and each wrong value named."""

import pytest

from kfp_vision.collection.settings import CollectSettings, read_settings
from kfp_vision.core.errors import FieldError


def test_nothing_is_collected_by_default(tmp_path):
    assert read_settings(environment={}) is None
    assert read_settings("", environment={"KFP_VISION_COLLECT": str(tmp_path)}) is None
    assert read_settings(environment={"KFP_VISION_COLLECT_SHARE": "2"}) is None


def test_options_come_before_variables(tmp_path):
    environment = {"KFP_VISION_COLLECT": str(tmp_path / "a"), "KFP_VISION_COLLECT_SHARE": "0.5"}
    environment |= {"KFP_VISION_COLLECT_IMAGES": "True", "KFP_VISION_COLLECT_DAYS": "7", "KFP_VISION_COLLECT_MAX_MB": "1.5"}
    assert read_settings(environment=environment) == CollectSettings(str(tmp_path / "a"), 0.5, True, 7, 1.5)
    given = read_settings(str(tmp_path / "b"), 1.0, False, 1, 20.0, environment)
    assert given == CollectSettings(str(tmp_path / "b"), 1.0, False, 1, 20.0)
    assert read_settings(str(tmp_path), environment={}) == CollectSettings(str(tmp_path), 0.1, False, 30, 1000)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"share": 0.0}, "--collect-share must be a number above 0 and at most 1; got 0.0. Set it to 0.1, say."),
        ({"share": float("nan")}, "--collect-share must be a number above 0 and at most 1"),
        ({"days": 1.5}, "--collect-days must be a whole number above 0 and at most 3650; got 1.5. Set it to 30, say."),
        ({"max_mb": -1.0}, "--collect-max-mb must be a number above 0; got -1.0. Set it to 1000, say."),
    ],
)
def test_a_wrong_option_is_named(tmp_path, given, message):
    with pytest.raises(FieldError) as caught:
        read_settings(str(tmp_path), environment={}, **given)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["share", "images", "days", "max_mb"])
def test_an_option_without_a_place_is_refused(tmp_path, name):
    option = f"--collect-{name.replace('_', '-')}"
    message = f"^error: {option} must come with --collect; got no --collect. Say where to collect, or leave {option} out.$"
    with pytest.raises(FieldError, match=message):
        read_settings(environment={}, **{name: 1})
    assert read_settings(environment={"KFP_VISION_COLLECT": str(tmp_path)}, **{name: 1})
    assert read_settings("none", environment={}, **{name: 1}) is None  # as it was asked for


@pytest.mark.parametrize(
    ("variable", "value", "rule"),
    [
        ("SHARE", "ten", "must be a number above 0"),
        ("IMAGES", "perhaps", "must be true or false"),
        ("DAYS", "0", "whole number"),
    ],
)
def test_a_wrong_variable_is_named(tmp_path, variable, value, rule):
    environment = {"KFP_VISION_COLLECT": str(tmp_path), f"KFP_VISION_COLLECT_{variable}": value}
    with pytest.raises(FieldError, match=f"^error: KFP_VISION_COLLECT_{variable} must be .*{value}") as caught:
        read_settings(environment=environment)
    assert rule in str(caught.value)


def test_the_place_must_be_a_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(FieldError, match=r"^error: --collect must name a folder; got "):
        read_settings(str(tmp_path / "file"), environment={})
    with pytest.raises(FieldError, match=r"^error: KFP_VISION_COLLECT must name a folder or a bucket folder"):
        read_settings(environment={"KFP_VISION_COLLECT": "https://example.org/x"})
