import json

import pytest

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
