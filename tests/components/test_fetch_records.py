import pytest
from support import run_component

from kfp_vision import components


@pytest.fixture(scope="module")
def fetched(written, tmp_path_factory) -> run_component.Ended:
    return run_component.run(
        components.fetch_records, tmp_path_factory.mktemp("fetch"), records_uri=str(written.folder), advanced={}
    )


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_takes_the_records_from_where_a_run_has_left_them(fetched, written, part):
    folders = [ended.folder / f"{part}_records" for ended in (fetched, written)]
    brought, there = ({file.name: file.read_bytes() for file in folder.iterdir()} for folder in folders)
    assert brought == there
    name = f"{part}_records"
    assert fetched.metadata[name]["pictures"] == written.metadata[name]["pictures"] > 0


def test_makes_the_label_map_anew(fetched, split):
    assert (fetched.folder / "label_map" / "labels.txt").read_text() == "0:bellcup\n1:globelet\n"
    assert (split.folder / "label_map" / "labels.txt").read_text() == "0:bellcup\n1:globelet\n"


def test_refuses_a_place_without_records(pictures, tmp_path):
    ended = run_component.run(components.fetch_records, tmp_path, records_uri=str(pictures), advanced={})
    assert run_component.refusal(ended).startswith(
        "error: there must be records of train, validation and test; got no train in"
    )
