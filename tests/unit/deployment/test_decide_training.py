"""Whether to train again: not where nothing has changed, unless the deployed version has drifted."""

import hashlib
import json
from dataclasses import asdict, replace

import pytest
from support import exported_model

from kfp_vision.collection.drift import Drift
from kfp_vision.core.advanced import deployment_settings
from kfp_vision.dataset import scan
from kfp_vision.deployment.decide_training import decide_training
from kfp_vision.repository import publish
from kfp_vision.repository.version import Version

RECIPE = "fields"
FOUND = Drift("flowers", 1, "", "2026-05-04T10:00:00+00:00", 60, 100, True, 0.9, 0.001, 0.5, 0.0)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """A repository whose only version was trained from the sample."""
    trained_from = hashlib.sha256(f"{scan.fingerprint_images('sample')} {RECIPE}".encode()).hexdigest()
    return exported_model.version(tmp_path_factory.mktemp("repository") / "1", trained_from=trained_from)


def decide(deployed, collected="") -> bool:
    """Returns whether nothing has changed."""
    given = ("sample", "", RECIPE, True, str(deployed.folder.parent), "flowers", deployment_settings({}))
    return decide_training(*given, collected_uri=f" {collected} " if collected else "").unchanged


@pytest.mark.parametrize(
    ("drift", "unchanged"), [({}, False), ({"drifted": False}, True), ({"fingerprint": "of an earlier version"}, True)]
)
def test_a_drift_of_the_deployed_version_trains_again(tmp_path, deployed, capfd, drift, unchanged):
    (tmp_path / "flowers").mkdir()
    checked = replace(FOUND, **{"fingerprint": deployed.fingerprint, **drift})
    (tmp_path / "flowers" / "drift.json").write_text(json.dumps(asdict(checked)))
    assert decide(deployed, tmp_path) is unchanged
    printed = capfd.readouterr().out
    assert ("trains although neither the images nor the fields have changed: flowers has drifted" in printed) is not unchanged
    assert ("outcome: nothing new: " in printed) is unchanged


def test_without_a_check_nothing_is_trained_again(tmp_path, deployed):
    assert decide(deployed) is True
    assert decide(deployed, tmp_path) is True


def test_a_rollback_to_other_images_trains_again_and_one_to_the_same_does_not(tmp_path, deployed):
    before = exported_model.version(tmp_path / "1", trained_from="of images before")
    publish.publish(deployed, str(tmp_path))
    assert decide(Version(tmp_path / "2")) is True
    assert publish.rollback(str(tmp_path))[1:] == (1, 3)
    assert Version(tmp_path / "3").is_copy_of(before)
    assert decide(Version(tmp_path / "3")) is False
    assert publish.rollback(str(tmp_path))[1:] == (2, 4)
    assert decide(Version(tmp_path / "4")) is True
