import pytest
from support import run_component

from kfp_vision import components


@pytest.fixture(scope="module")
def fetched(written, tmp_path_factory) -> run_component.Result:
    return run_component.run(
        components.fetch_records, tmp_path_factory.mktemp("fetch"), records_uri=str(written.folder), advanced={}
    )


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_fetches_the_records_of_a_run(fetched, written, part):
    folders = [ended.folder / f"{part}_records" for ended in (fetched, written)]
    fetched_files, written_files = ({file.name: file.read_bytes() for file in folder.iterdir()} for folder in folders)
    assert fetched_files == written_files
    name = f"{part}_records"
    assert fetched.metadata[name]["pictures"] == written.metadata[name]["pictures"] > 0


def test_rebuilds_the_label_map(fetched, split):
    assert (fetched.folder / "label_map" / "labels.txt").read_text() == "0:bellcup\n1:globelet\n"
    assert (split.folder / "label_map" / "labels.txt").read_text() == "0:bellcup\n1:globelet\n"


def test_rejects_a_folder_without_records(image_folder, tmp_path):
    ended = run_component.run(components.fetch_records, tmp_path, records_uri=str(image_folder), advanced={})
    assert run_component.error_line(ended).startswith("error: there must be records of train and validation; got no train in")
