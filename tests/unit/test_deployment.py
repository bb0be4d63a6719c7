import json

import pytest
from exported import version

from kfp_vision import deployment, parameters
from kfp_vision.errors import InputError

SETTINGS = parameters.of_deployment({})


def test_no_target_is_fine():
    deployment.check_target("none", "flowers", SETTINGS)


def test_a_directory_that_is_not_there_yet_is_fine(tmp_path):
    deployment.check_target(str(tmp_path / "deep" / "down"), "flowers", SETTINGS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["", "http://host/models", "ftp://host/models", "{file}"])
def test_what_nothing_can_be_deployed_to_is_refused(tmp_path, target):
    (tmp_path / "file").write_text("no repository")
    with pytest.raises(InputError, match=r"deploy_to must be none, kserve, or a model repository; got .*\. Name a folder, or"):
        deployment.check_target(target.format(file=tmp_path / "file"), "flowers", SETTINGS)


def test_a_repository_of_another_model_is_refused(tmp_path):
    about = tmp_path / "3" / "assets.extra" / "model.json"
    about.parent.mkdir(parents=True)
    about.write_text(json.dumps({"model_name": "dogs", "labels": [], "image_size": 1}))
    deployment.check_target(str(tmp_path), "dogs", SETTINGS)
    with pytest.raises(InputError, match=r"versions of one model; got dogs in .*, and now flowers\. Set deploy_to"):
        deployment.check_target(str(tmp_path), "flowers", SETTINGS)


def decided(recipe: str, repository: object, *, skip_unchanged: bool = True) -> str:
    return deployment.decide_training("pictures", recipe, skip_unchanged, str(repository), "flowers", SETTINGS)


def test_where_nothing_is_deployed_there_is_something_to_train(tmp_path, capsys):
    assert len(decided("fields", tmp_path / "nowhere")) == 64
    assert capsys.readouterr().out == "pictures or fields have changed since flowers was deployed, or it was not\n"


def test_there_is_nothing_to_train_where_the_newest_version_was_trained_from_the_same(tmp_path, capsys):
    version(tmp_path / "1", trained_from=decided("fields", tmp_path))
    capsys.readouterr()
    assert decided("fields", tmp_path) == ""
    assert capsys.readouterr().out == (
        "outcome: nothing new: neither the images nor the fields have changed since flowers was deployed\n"
    )
    assert decided("other fields", tmp_path) != ""
    assert decided("fields", tmp_path, skip_unchanged=False) != ""
    version(tmp_path / "2", trained_from=decided("other fields", tmp_path))
    assert decided("fields", tmp_path) != ""


def test_a_version_that_does_not_say_what_it_was_trained_from_was_trained_from_something_else(tmp_path):
    version(tmp_path / "1")
    assert decided("fields", tmp_path) != ""
