"""URIs of registered models; tests/services resolves them with real registries."""

import pytest
from support.json_server import json_server
from support.registry_servers import other_server

from kfp_vision.core.errors import InputError
from kfp_vision.repository.registered import resolve
from kfp_vision.storage import uris


@pytest.mark.parametrize("uri", ["models/flowers", "/models/flowers", "s3://models/flowers/1", "file:///models", "", "sample"])
def test_any_other_uri_stays_as_it_is(uri):
    assert resolve(uri) == uri


@pytest.mark.parametrize(
    "uri",
    [
        "models:/flowers",
        "models:/",
        "models://flowers/1",
        "models:/flowers/1/2",
        "models:/flowers@champion/1",
        "models:/flow'ers/1",
        "models:/m-0123456789abcdef0123456789abcdef/1",
        "models:/m-0123456789abcdef",
        "model-registry://m-0123456789abcdef0123456789abcdef",
        "model-registry://flowers",
        "model-registry://flowers@champion",
    ],
)
def test_a_uri_without_model_and_version_is_rejected_before_anybody_is_asked(uri):
    with pytest.raises(InputError, match="the URI of a registered model must name a model and a version; got "):
        resolve(uri)


@pytest.mark.parametrize("uri", ["models:/flowers/1", "model-registry://flowers/1"])
def test_the_command_line_leaves_such_a_uri_as_it_is_and_no_images_are_there(uri):
    assert uris.absolute_uri(uri) == uri
    with pytest.raises(InputError, match=r"images_uri must be a local path, `sample`, or begin with one of s3://"):
        uris.check_uri(uri, "images_uri")


def test_mlflow_without_an_address_is_said(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(InputError, match=r"the address of MLflow must begin with http://.* Set MLFLOW_TRACKING_URI, or write"):
        resolve("models:/flowers/1")


@pytest.mark.parametrize("source", ["models:/round/1", "runs:/8a2f/model", "mlflow-artifacts:/1/models/roses"])
def test_a_version_that_lies_where_nothing_is_read_from_is_rejected(monkeypatch, source):
    with json_server(lambda *request: (200, {"model_version": {"source": source}})) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        rule = "a registered model must lie on a disk, or at one of s3://, .*; got models:/round/1, which is"
        with pytest.raises(InputError, match=f"{rule} {source}. Copy it to a bucket"):
            resolve("models:/round/1")


@pytest.mark.parametrize("version", ["/1", "/latest", "@champion"])
@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        ("list", "a model registry must answer with an object of JSON; got something else from"),
        ("nothing", "a model registry must answer with an object of JSON; got something else from"),
        ("object", "MLflow must have the version, with a place to load it from; got no flowers"),
    ],
)
def test_the_answers_of_another_server_are_rejected_in_one_line(monkeypatch, kind, rule, version):
    with other_server() as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{address}/{kind}")
        with pytest.raises(InputError, match=rule):
            resolve(f"models:/flowers{version}")
