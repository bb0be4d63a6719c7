from support import run_component

from kfp_vision import components
from kfp_vision.dataset import scan

VALUES = {"images_uri": "sample", "leave_out_uri": "", "recipe": "fields", "model_name": "flowers"}


def test_there_is_something_to_train_until_a_model_of_it_is_deployed(tmp_path, trained, deployed):
    def decided(name: str, **given: object) -> run_component.Ended:
        return run_component.run(components.decide_training, tmp_path / name, **VALUES, advanced={}, **given)

    at_first = decided("first", skip_unchanged=False, deploy_to="none")
    assert at_first.outputs["fingerprint"] == scan.fingerprint_images("sample")
    assert len(at_first.outputs["trained_from"]) == 64 and at_first.printed == []
    # The deployed model was not trained from these.
    again = decided("again", skip_unchanged=True, deploy_to=str(deployed.metadata["endpoint"]["repository"]))
    assert again.outputs == at_first.outputs == again.outputs | {"unchanged": False}
    assert again.printed == ["images or fields have changed since flowers was deployed, or it was never deployed"]


def test_refuses_a_cluster_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    ended = run_component.run(
        components.decide_training, tmp_path, **VALUES, advanced={}, skip_unchanged=True, deploy_to="kserve"
    )
    assert run_component.refusal(ended).startswith(
        "error: deploy_to=kserve must run in a cluster, or find the configuration of one"
    )
