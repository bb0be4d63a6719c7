import shutil

from support import run_component

from kfp_vision import components


def test_stays_while_the_pictures_stay_and_changes_with_them(pictures, tmp_path):
    folder = shutil.copytree(pictures, tmp_path / "pictures")

    def fingerprint(name: str) -> str:
        return run_component.run(
            components.fingerprint_images, tmp_path / name, images_uri=str(folder), leave_out_uri="", advanced={}
        ).output

    first, again = fingerprint("first"), fingerprint("again")
    (folder / "bellcup" / "0001.jpg").unlink()
    assert len(first) == 64 and first == again
    assert fingerprint("fewer") != first


def test_refuses_a_path_where_nothing_lies(tmp_path):
    ended = run_component.run(
        components.fingerprint_images, tmp_path, images_uri="/no/such/pictures", leave_out_uri="", advanced={}
    )
    line = run_component.refusal(ended)
    assert "must name something that exists; got /no/such/pictures. Check the path" in line


def test_changes_with_the_list_of_pictures_to_leave_out(pictures, tmp_path):
    listing = tmp_path / "list.csv"

    def fingerprint(name: str, listed: str) -> str:
        listing.write_text(listed)
        data = {"images_uri": str(pictures), "leave_out_uri": str(listing), "advanced": {}}
        return run_component.run(components.fingerprint_images, tmp_path / name, **data).output

    assert fingerprint("one", "path\nbellcup/0001.jpg\n") != fingerprint("other", "path\nbellcup/0002.jpg\n")
