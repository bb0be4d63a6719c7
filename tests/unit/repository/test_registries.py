"""The field `register_in`; tests/services registers in real servers."""

import pytest

from kfp_vision.core.errors import InputError
from kfp_vision.repository.registries import parse_registries


@pytest.mark.parametrize(
    ("field", "parsed"),
    [
        ("", []),
        ("mlflow", [("mlflow", "")]),
        (" mlflow , model-registry,", [("mlflow", ""), ("model-registry", "")]),
        ("mlflow+http://host:5000", [("mlflow", "http://host:5000")]),
        ("model-registry+https://host/x", [("model-registry", "https://host/x")]),
    ],
)
def test_names_of_registries_are_parsed(field, parsed):
    assert parse_registries(field) == parsed


@pytest.mark.parametrize(
    "field",
    [
        *("wandb", "MLflow", "mlflow+", "mlflow+host:5000", "http://host:5000", "mlflow mlflow"),
        *("mlflow+http://", "mlflow+http://:5000", "mlflow+http://host:99999", "mlflow+http://host:port"),
    ],
)
def test_another_name_is_rejected_in_one_line(field):
    with pytest.raises(InputError, match="register_in must name mlflow or model-registry, or both, comma-separated; got "):
        parse_registries(field)


@pytest.mark.parametrize("field", ["mlflow+http://anna:s3cret@host:5000", "mlflow+anna:s3cret@host:5000"])
def test_a_password_in_an_address_is_rejected_and_not_printed(field):
    with pytest.raises(InputError, match="must not contain a user name or password") as refusal:
        parse_registries(field)
    assert "s3cret" not in str(refusal.value)
