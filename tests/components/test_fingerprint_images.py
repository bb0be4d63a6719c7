import shutil

import pytest
from support import run_component

from kfp_vision import components

WITHOUT_LISTS = {"leave_out_uri": "", "labels_uri": "", "labels": "one", "advanced": {}}


def test_changes_only_with_the_images(image_folder, tmp_path):
    folder = shutil.copytree(image_folder, tmp_path / "pictures")

    def fingerprint(name: str) -> str:
        return run_component.run(components.fingerprint_images, tmp_path / name, images_uri=str(folder), **WITHOUT_LISTS).output

    first, repeated = fingerprint("first"), fingerprint("again")
    (folder / "bellcup" / "0001.jpg").unlink()
    assert len(first) == 64 and first == repeated
    assert fingerprint("fewer") != first


def test_rejects_a_missing_path(tmp_path):
    ended = run_component.run(components.fingerprint_images, tmp_path, images_uri="/no/such/pictures", **WITHOUT_LISTS)
    line = run_component.error_line(ended)
    assert "must name something that exists; got /no/such/pictures. Check the path" in line


@pytest.mark.parametrize(("field", "header", "end"), [("leave_out_uri", "path", ""), ("labels_uri", "path,label", ",globelet")])
def test_changes_with_the_lists(image_folder, tmp_path, field, header, end):
    listing = tmp_path / "list.csv"

    def fingerprint(name: str, listed: str) -> str:
        listing.write_text(listed)
        data = WITHOUT_LISTS | {"images_uri": str(image_folder), field: str(listing)}
        return run_component.run(components.fingerprint_images, tmp_path / name, **data).output

    one, other = (f"{header}\nbellcup/000{number}.jpg{end}\n" for number in (1, 2))
    assert fingerprint("one", one) != fingerprint("other", other)
