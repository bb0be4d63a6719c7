import json

import pytest
from support import run_component
from support.registry_servers import KubeflowRegistry

from kfp_vision import components
from kfp_vision.repository.version import exported_version

pytestmark = pytest.mark.slow


def test_registers_the_evaluated_model_and_goes_on_without_a_registry_that_fails(deploy_inputs, evaluated, tmp_path):
    inputs = {name: deploy_inputs[name] for name in ("model", "verdict", "metrics")} | {"report": evaluated.folder / "report"}
    with KubeflowRegistry().running() as registry:
        wanted = f"model-registry+{registry.url},mlflow+http://127.0.0.1:9"
        done = run_component.run(components.register_model, tmp_path, inputs, register_in=wanted, **run_component.ORIGIN)
    assert done.succeeded and registry.refused == []
    (version,) = registry.versions.values()
    fingerprint = exported_version(deploy_inputs["model"]).fingerprint
    assert version["customProperties"]["kfp_vision.fingerprint"]["string_value"] == fingerprint
    (artifact,) = registry.artifacts.values()
    assert (artifact["uri"], artifact["modelSourceId"]) == (str(deploy_inputs["model"]), run_component.ORIGIN["run_id"])
    first, second = json.loads((done.folder / "registered").read_text())["registries"]
    assert (first["version"], second["kind"]) == ("1", "mlflow") and second["error"]
    assert done.printed[0] == "outcome: flowers registered in model-registry as version 1"
    assert done.printed[1].startswith("outcome: warning: flowers is not registered in mlflow: ")
