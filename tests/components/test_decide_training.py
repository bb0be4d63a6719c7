import pytest
from support import run_component

from kfp_vision import components
from kfp_vision.dataset import scan

pytestmark = pytest.mark.slow

VALUES = {
    "images_uri": "sample",
    "leave_out_uri": "",
    "labels_uri": "",
    "labels": "one",
    "recipe": "fields",
    "model_name": "flowers",
}


def test_trains_until_a_model_of_the_same_data_is_deployed(tmp_path, trained, deployed):
    def decide(name: str, **fields: object) -> run_component.Result:
        return run_component.run(components.decide_training, tmp_path / name, **VALUES, advanced={}, **fields)

    without_deployed_model = decide("first", skip_unchanged=False, deploy_to="none")
    assert without_deployed_model.outputs["fingerprint"] == scan.fingerprint_images("sample")
    assert len(without_deployed_model.outputs["trained_from"]) == 64 and without_deployed_model.printed == []
    # The deployed model was trained from other images.
    with_deployed_model = decide("again", skip_unchanged=True, deploy_to=str(deployed.metadata["endpoint"]["repository"]))
    assert with_deployed_model.outputs == without_deployed_model.outputs == with_deployed_model.outputs | {"unchanged": False}
    assert with_deployed_model.printed == ["images or fields have changed since flowers was deployed, or it was never deployed"]


def test_reads_the_lists_by_the_separator_of_advanced(tmp_path):
    listing = tmp_path / "labels.csv"
    (tmp_path / "1.jpg").touch()
    listing.write_text("path,label\n1.jpg,daisy\trose\n")
    values = VALUES | {"labels": "several", "labels_uri": str(listing), "advanced": {"label_separator": "tab"}}
    decided = run_component.run(
        components.decide_training, tmp_path / "decided", **values, skip_unchanged=False, deploy_to="none"
    )
    names = ("images_uri", "leave_out_uri", "labels_uri", "labels", "advanced")
    data = {name: values[name] for name in names}
    fingerprinted = run_component.run(components.fingerprint_images, tmp_path / "fingerprinted", **data)
    assert decided.outputs["fingerprint"] == fingerprinted.output != scan.fingerprint_images("sample", labels="several")


def test_rejects_a_missing_cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    ended = run_component.run(
        components.decide_training, tmp_path, **VALUES, advanced={}, skip_unchanged=True, deploy_to="kserve"
    )
    assert run_component.error_line(ended).startswith(
        "error: deploy_to=kserve must run in a cluster, or find the configuration of one"
    )
