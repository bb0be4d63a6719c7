"""The origins of pages elsewhere: which are taken, and in which form."""

import pytest

from kfp_vision.core.errors import FieldError
from kfp_vision.serving import cors


@pytest.mark.parametrize(
    ("value", "origins"),
    [
        ("", []),
        (" , ", []),
        ("*", ["*"]),
        ("https://a.example, *", ["*"]),
        ("https://a.example", ["https://a.example"]),
        (" HTTPS://A.Example/ ,http://localhost:3000\n", ["https://a.example", "http://localhost:3000"]),
        (
            "https://a.example:443,http://a.example:80,http://a.example:443",
            ["https://a.example", "http://a.example", "http://a.example:443"],
        ),
        ("https://a.example,https://a.example/", ["https://a.example"]),
        ("http://[::1]:8080,http://10.0.0.7", ["http://[::1]:8080", "http://10.0.0.7"]),
        ("capacitor://localhost", ["capacitor://localhost"]),
    ],
)
def test_origins_are_read_as_browsers_send_them(value, origins, monkeypatch):
    monkeypatch.setenv("KFP_VISION_CORS_ORIGINS", "https://environment.example")
    assert cors.read_origins(value) == origins
    assert cors.read_origins() == ["https://environment.example"]
    monkeypatch.setenv("KFP_VISION_CORS_ORIGINS", value)
    assert cors.read_origins() == origins


@pytest.mark.parametrize(
    "origin",
    [
        "a.example",
        "https://a.example/page",
        "https://*.a.example",
        "https://",
        "https://a.example:port",
        "https://a.example:99999",
        "https://me@a.example",
        "https://a.example?x",
        "https://a..example",
        "https://a.example https://b.example",
        "null",
    ],
)
def test_what_is_no_origin_is_rejected_by_name(origin, monkeypatch):
    with pytest.raises(FieldError, match=r"^error: --cors-origins must be \* or origins of the form https://host"):
        cors.read_origins(f"https://good.example,{origin}")
    monkeypatch.setenv("KFP_VISION_CORS_ORIGINS", origin)
    with pytest.raises(FieldError, match=r"^error: KFP_VISION_CORS_ORIGINS must be \* or origins"):
        cors.read_origins()


def test_the_setting_is_off_by_default(monkeypatch):
    monkeypatch.delenv("KFP_VISION_CORS_ORIGINS", raising=False)
    assert cors.read_origins() == []
