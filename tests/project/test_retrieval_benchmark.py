"""The retrieval benchmark plants near-duplicates and wrong labels, and the audit finds the near-duplicates."""

import random
from pathlib import Path

import pytest
from PIL import Image
from support import sample_images

from benchmarks import retrieval
from kfp_vision.search import audit, build, near_duplicates

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return sample_images.pictures(tmp_path_factory.mktemp("data") / "pictures", each=6)


@pytest.mark.parametrize("alter", retrieval.ALTERATIONS)
def test_an_altered_copy_differs_and_is_reproducible(images, alter):
    with Image.open(images / "bellcup" / "0001.jpg") as image:
        copies = [alter(image.convert("RGB"), random.Random(seed)) for seed in (1, 1, 2)]
    assert copies[0] == copies[1] != (images / "bellcup" / "0001.jpg").read_bytes()
    assert copies[1] != copies[2] or alter is retrieval.mirror_image


def test_plants_copies_among_all_images(images, tmp_path, monkeypatch):
    monkeypatch.setattr(retrieval, "PLANTED", 8)
    planted = retrieval.plant_copies(images, tmp_path / "planted", 1)
    assert len(planted) == len(set(planted.values())) == 8
    assert all((tmp_path / "planted" / name).is_file() for pair in planted.items() for name in pair)
    assert len(list((tmp_path / "planted").glob("*/*"))) == 12 + 8


def test_mislabelling_moves_the_given_number_of_images_and_loses_none(images, tmp_path, monkeypatch):
    monkeypatch.setattr(retrieval, "WRONG", 3)
    wrong = retrieval.mislabel(images, tmp_path / "wrong", 1)
    names = {file.relative_to(tmp_path / "wrong").as_posix() for file in (tmp_path / "wrong").glob("*/*")}
    assert len(wrong) == 3 and len(names) == 12
    assert {name for name in names if name.partition("/")[0] != name.partition("/")[2].partition("-")[0]} == wrong


def test_finds_nearly_all_planted_copies_of_photographs_and_nothing_else(real_data, tmp_path, monkeypatch):
    for label in ("daisy", "roses", "tulips"):
        (tmp_path / "some" / label).mkdir(parents=True)
        for file in sorted((real_data / "flower_photos" / label).glob("*.jpg"))[:25]:
            (tmp_path / "some" / label / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(retrieval, "PLANTED", 20)
    planted = retrieval.plant_copies(tmp_path / "some", tmp_path / "pictures", 1)
    build.fetch_embedder("", "googlenet", str(real_data / "googlenet" / "bvlc_googlenet.npz"), tmp_path / "model")
    index = retrieval.build_index(tmp_path / "pictures", tmp_path / "model", tmp_path / "index")
    names = [Path(image.path).relative_to(tmp_path / "pictures").as_posix() for image in index.images]
    found = near_duplicates.find_near_duplicates(index, index.neighbours(audit.NEIGHBOURS_PER_IMAGE)[1])
    pairs = {frozenset((names[one.first], names[one.second])) for one in found}
    expected = {frozenset(pair) for pair in planted.items()}
    assert len(pairs & expected) >= 19
    assert not pairs - expected
