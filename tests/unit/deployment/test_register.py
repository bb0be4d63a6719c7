"""Registering a model, where a registry does not answer as one; tests/services registers in real ones."""

import pytest
from support.exported_model import version
from support.registry_servers import other_server

from kfp_vision.core import errors
from kfp_vision.deployment import model_card, register
from kfp_vision.reports.results import RESULT_PREFIX
from kfp_vision.storage import atomic


@pytest.mark.parametrize("kind", ["list", "nothing", "object"])
def test_a_server_that_is_no_registry_is_a_warning_that_says_so(tmp_path, capsys, kind):
    model = version(tmp_path / "model" / "serving" / "1")
    (tmp_path / "model" / "training.json").write_text("[]")
    atomic.write_json(tmp_path / "metrics.json", {"images": 3, "split": "test", "accuracy": 0.9})
    verdict = {"model_fingerprint": model.fingerprint, "verdict": {"accepted": True, "reasons": []}}
    atomic.write_json(tmp_path / "verdict.json", verdict)
    files = {"verdict": tmp_path / "verdict.json", "metrics": tmp_path / "metrics.json", "report": tmp_path / "metrics.json"}
    judged = register.Judged(tmp_path / "model", "s3://bucket/model", **files)
    with other_server() as address:
        (done,) = register.register_model(judged, f"mlflow+{address}/{kind}", model_card.Origin(), tmp_path / "registered.json")
    said = "its answer is not understood" if kind == "object" else "a model registry must answer with an object of JSON"
    assert done["kind"] == "mlflow" and done["error"].startswith(said)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{RESULT_PREFIX}warning: flowers is not registered in mlflow: {said}")
    assert line.endswith(". The run is good all the same.")
    assert not done["error"].startswith(errors.InputError.PREFIX)
