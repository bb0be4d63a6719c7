import shutil

from support import run_component

from kfp_vision import components


def test_changes_only_with_the_images(image_folder, tmp_path):
    folder = shutil.copytree(image_folder, tmp_path / "pictures")

    def fingerprint(name: str) -> str:
        return run_component.run(
            components.fingerprint_images, tmp_path / name, images_uri=str(folder), leave_out_uri="", labels="one", advanced={}
        ).output

    first, repeated = fingerprint("first"), fingerprint("again")
    (folder / "bellcup" / "0001.jpg").unlink()
    assert len(first) == 64 and first == repeated
    assert fingerprint("fewer") != first


def test_rejects_a_missing_path(tmp_path):
    ended = run_component.run(
        components.fingerprint_images, tmp_path, images_uri="/no/such/pictures", leave_out_uri="", labels="one", advanced={}
    )
    line = run_component.error_line(ended)
    assert "must name something that exists; got /no/such/pictures. Check the path" in line


def test_changes_with_the_exclusion_list(image_folder, tmp_path):
    listing = tmp_path / "list.csv"

    def fingerprint(name: str, listed: str) -> str:
        listing.write_text(listed)
        data = {"images_uri": str(image_folder), "leave_out_uri": str(listing), "labels": "one", "advanced": {}}
        return run_component.run(components.fingerprint_images, tmp_path / name, **data).output

    assert fingerprint("one", "path\nbellcup/0001.jpg\n") != fingerprint("other", "path\nbellcup/0002.jpg\n")
