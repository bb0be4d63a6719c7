import json
from pathlib import Path

import pytest
from support import colour_index, colour_model, run_component

from kfp_vision import components
from kfp_vision.repository.version import versions
from kfp_vision.search.index import Index


@pytest.fixture(scope="module")
def indexed_folder(tmp_path_factory) -> Path:
    """Writes a folder with a model, images, and their index."""
    root = tmp_path_factory.mktemp("made")
    colour_index.write(colour_index.write_model(root / "model"), colour_index.write_pictures(root / "photos"), root / "index")
    return root


def deploy(indexed_folder: Path, root: Path, deploy_to: Path) -> run_component.Result:
    values = {"deploy_to": str(deploy_to), "advanced": {}}
    return run_component.run(components.deploy_index, root, {"index": indexed_folder / "index"}, **values)


@pytest.mark.slow
def test_deploys_an_index_beside_its_model(indexed_folder, tmp_path):
    ended = deploy(indexed_folder, tmp_path, indexed_folder / "model")
    repository = indexed_folder / "model" / "serving"
    summary = json.loads((ended.folder / "deployed").read_text())
    assert {name: summary[name] for name in ("repository", "model_name", "version", "pictures")} == {
        "repository": str(repository),
        "model_name": "colours",
        "version": 1,
        "pictures": 24,
    }
    assert ended.metadata["deployed"]["repository"] == str(repository)
    assert ended.printed == [f"outcome: index of 24 images deployed beside version 1 of colours in {repository}"]
    deployed_index = Index(repository / "index")
    assert (
        deployed_index.images == Index(indexed_folder / "index").images
        and deployed_index.about.generation == summary["generation"]
    )
    assert [version.number for version in versions(repository)] == [1]
    vector = deployed_index.embedder().embed_one(colour_index.picture(3))  # with the model beside it
    assert deployed_index.search(vector[None], 1)[0][0].path.endswith("03.png")


def test_rejects_a_repository_of_another_model(indexed_folder, tmp_path):
    colour_model.write_version(tmp_path / "other" / "1", scale=1 / 10)
    line = run_component.error_line(deploy(indexed_folder, tmp_path / "root", tmp_path / "other"))
    assert line.startswith("error: an index must be deployed beside its model, colours ")
    assert line.endswith(f"; got another one as version 1 in {tmp_path / 'other'}. Run image_search with it as model_uri.")
    assert not (tmp_path / "other" / "index").exists()


def test_rejects_a_folder_without_a_model(indexed_folder, tmp_path):
    assert run_component.error_line(deploy(indexed_folder, tmp_path / "root", tmp_path / "nowhere")) == (
        f"error: deploy_to must hold a model for the index to be deployed beside; got none in {tmp_path / 'nowhere'}. "
        "Deploy the model there first."
    )
