"""Whether a local run is unnecessary, told before any of its stages."""

import hashlib
import json
from dataclasses import asdict

import pytest
from support import exported_model

from kfp_vision.cli import run
from kfp_vision.collection.drift import Drift
from kfp_vision.dataset import scan
from kfp_vision.pipelines import PIPELINES

RECIPE = "fields"


@pytest.mark.parametrize("drifted", [False, True])
def test_a_drift_of_the_deployed_version_makes_a_run_necessary(tmp_path, capfd, drifted):
    trained_from = hashlib.sha256(f"{scan.fingerprint_images('sample')} {RECIPE}".encode()).hexdigest()
    deployed = exported_model.version(tmp_path / "repository" / "1", trained_from=trained_from)
    found = Drift("flowers", 1, deployed.fingerprint, "2026-05-04T10:00:00+00:00", 60, 100, drifted, 0.9, 0.001, 0.5, 0.0)
    (tmp_path / "collected" / "flowers").mkdir(parents=True)
    (tmp_path / "collected" / "flowers" / "drift.json").write_text(json.dumps(asdict(found)))
    form = {"images_uri": "sample", "skip_unchanged": True, "deploy_to": str(deployed.folder.parent), "model_name": "flowers"}
    form["advanced"] = {"collected_uri": str(tmp_path / "collected")}
    values = run.complete_form(PIPELINES["image_classification"], form)
    assert run.is_unchanged(run.form_defaults(PIPELINES["image_classification"]) | values, RECIPE) is not drifted
    assert ("flowers has drifted" in capfd.readouterr().out) is drifted
