import json
from pathlib import Path

import pytest
from support import colour_index, colour_model, run_component

from kfp_vision import components
from kfp_vision.repository.version import versions
from kfp_vision.search.index import Index


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a model, pictures, and their index."""
    root = tmp_path_factory.mktemp("made")
    colour_index.write(colour_index.write_model(root / "model"), colour_index.write_pictures(root / "photos"), root / "index")
    return root


def deployed(made: Path, root: Path, deploy_to: Path) -> run_component.Ended:
    return run_component.run(components.deploy_index, root, {"index": made / "index"}, deploy_to=str(deploy_to))


def test_an_index_comes_to_lie_with_its_model(made, tmp_path):
    ended = deployed(made, tmp_path, made / "model")
    place = made / "model" / "serving"
    told = json.loads((ended.folder / "deployed").read_text())
    assert {name: told[name] for name in ("repository", "model_name", "version", "pictures")} == {
        "repository": str(place),
        "model_name": "colours",
        "version": 1,
        "pictures": 24,
    }
    assert ended.metadata["deployed"]["repository"] == str(place)
    assert ended.printed == [f"outcome: index of 24 images deployed beside version 1 of colours in {place}"]
    there = Index(place / "index")
    assert there.images == Index(made / "index").images and there.about.generation == told["generation"]
    assert [version.number for version in versions(place)] == [1]
    vector = there.embedder().embed_one(colour_index.picture(3))  # by the model that it lies with
    assert there.search(vector[None], 1)[0][0].path.endswith("03.png")


def test_refuses_to_lie_with_another_model(made, tmp_path):
    colour_model.write_version(tmp_path / "other" / "1", scale=1 / 10)
    line = run_component.refusal(deployed(made, tmp_path / "root", tmp_path / "other"))
    assert line.startswith("error: an index must be deployed beside its model, colours ")
    assert line.endswith(f"; got another one as version 1 in {tmp_path / 'other'}. Run image_search with it as model_uri.")
    assert not (tmp_path / "other" / "index").exists()


def test_refuses_a_place_without_a_model(made, tmp_path):
    assert run_component.refusal(deployed(made, tmp_path / "root", tmp_path / "nowhere")) == (
        f"error: deploy_to must hold a model for the index to be deployed beside; got none in {tmp_path / 'nowhere'}. "
        "Deploy the model there first."
    )
