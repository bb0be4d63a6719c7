"""Papers, tags and aliases beside the versions of a repository in a folder; tests/services checks the same in buckets."""

import json
import shutil
from pathlib import Path

import pytest
from support.exported_model import version

from kfp_vision.core.errors import InputError
from kfp_vision.repository import papers, publish
from kfp_vision.repository.version import Version, versions


def write(folder: Path, one: Version, card: str = "# flowers\n") -> Path:
    """Writes papers of a version as `model_card.write_papers` lays them out."""
    folder.mkdir(parents=True)
    facts = {"metadata": papers.hash_metadata(one.about), "fingerprint": one.fingerprint, "figures": {"accuracy": 0.9}}
    (folder / "README.md").write_text(card)
    (folder / "pipeline.yaml").write_text("root: {}\n")
    (folder / "papers.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture
def place(tmp_path) -> str:
    """Creates a repository of three versions, each with papers."""
    path = tmp_path / "repository"
    for number in (1, 2, 3):
        one = version(tmp_path / f"model-{number}" / "1", weights=b"%d" % number, step=number)
        assert publish.publish(one, str(path)) == number
        papers.publish_papers(write(tmp_path / f"papers-{number}", one, f"# card {number}\n"), str(path), number)
    return str(path)


def published(place: str) -> list[Version]:
    return versions(Path(place))


def files(place: str) -> list[str]:
    folder = Path(place) / "papers"
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def test_papers_lie_beside_the_version_and_leave_its_fingerprint(tmp_path, place):
    assert published(place)[1].fingerprint == Version(tmp_path / "model-2" / "1").fingerprint
    assert files(place)[:3] == ["1/README.md", "1/papers.json", "1/pipeline.yaml"]
    assert [papers.read_card(place, one) for one in published(place)] == ["# card 1\n", "# card 2\n", "# card 3\n"]


def test_papers_of_another_version_of_the_same_number_do_not_count(tmp_path, place):
    shutil.rmtree(Path(place) / "3")
    assert publish.publish(version(tmp_path / "other" / "1", step=99), place) == 3
    assert papers.read_papers(place, published(place)[-1]) is None
    with pytest.raises(InputError, match=r"must have papers to show its card; got none of version 3 in .*\. Versions get them"):
        papers.read_card(place, published(place)[-1])


def test_an_older_repository_without_papers_goes_on_working(tmp_path):
    place = str(tmp_path / "repository")
    for number in (1, 2, 3):
        publish.publish(version(tmp_path / f"m{number}" / "1", weights=b"%d" % number), place, kept=2)
    assert [one.number for one in published(place)] == [2, 3]
    assert papers.read_papers(place, published(place)[0]) is None
    assert publish.rollback(place) == ("flowers", 2, 4)
    assert not (Path(place) / "papers").exists()


def test_removing_a_version_removes_its_papers_and_tags(tmp_path, place):
    papers.change_tags(place, 1, add=["old"])
    assert publish.publish(version(tmp_path / "new" / "1", weights=b"4"), place, kept=2) == 4
    assert [one.number for one in published(place)] == [3, 4]
    assert files(place) == ["3/README.md", "3/papers.json", "3/pipeline.yaml"]
    assert sorted(path.name for path in (Path(place) / "papers").iterdir()) == ["3"]


def test_a_version_with_an_alias_is_kept(tmp_path, place):
    papers.set_alias(place, "champion", 1)
    publish.publish(version(tmp_path / "new" / "1", weights=b"4"), place, kept=2)
    assert [one.number for one in published(place)] == [1, 3, 4]


def test_an_alias_names_one_version(place):
    papers.set_alias(place, "champion", 1)
    papers.set_alias(place, "challenger", 3)
    papers.set_alias(place, "champion", 2)
    assert papers.read_aliases(place) == {"champion": 2, "challenger": 3}
    papers.remove_papers(place, 2)
    assert papers.read_aliases(place) == {"challenger": 3}
    papers.set_alias(place, "challenger", None)
    assert papers.read_aliases(place) == {}
    with pytest.raises(InputError, match="an alias must be one of champion, challenger; got king"):
        papers.set_alias(place, "king", 1)


@pytest.mark.parametrize(("name", "number"), [("2", 2), ("champion", 1), ("newest", 3)])
def test_a_version_is_found_by_number_alias_or_newest(place, name, number):
    papers.set_alias(place, "champion", 1)
    assert papers.find_number(place, published(place), name) == number


@pytest.mark.parametrize("name", ["7", "challenger", "0", "-1", "reviewed"])
def test_a_name_of_no_version_is_rejected_in_one_line(place, name):
    with pytest.raises(InputError, match=rf"got {name} in .*, which has versions 1, 2, 3\. See kfp-vision models"):
        papers.find_number(place, published(place), name)


def test_an_alias_of_a_version_that_is_gone_names_none(place):
    papers.set_alias(place, "champion", 2)
    shutil.rmtree(Path(place) / "2")
    with pytest.raises(InputError, match=r"got champion in .*, which has versions 1, 3"):
        papers.find_number(place, published(place), "champion")


def test_tags_are_added_once_and_removed(place):
    assert papers.change_tags(place, 2, add=["reviewed", "by anna"]) == ["by anna", "reviewed"]
    assert papers.change_tags(place, 2, add=["reviewed"]) == ["by anna", "reviewed"]
    assert papers.change_tags(place, 2, remove=["by anna"]) == ["reviewed"]
    assert (papers.read_tags(place, 2), papers.read_tags(place, 3)) == (["reviewed"], [])
    with pytest.raises(InputError, match="must be there to be removed; got by anna, and version 2 has reviewed"):
        papers.change_tags(place, 2, remove=["by anna"])


@pytest.mark.parametrize("tag", ["", " reviewed", "two\nlines", "x" * 101])
def test_an_invalid_tag_is_rejected(place, tag):
    with pytest.raises(InputError, match="a tag must be one line of at most 100 characters"):
        papers.change_tags(place, 1, add=[tag])
    assert papers.read_tags(place, 1) == []


def test_deploying_again_replaces_the_papers_and_keeps_the_tags(tmp_path, place):
    papers.change_tags(place, 3, add=["reviewed"])
    papers.publish_papers(write(tmp_path / "again", published(place)[-1], "# new card\n"), place, 3)
    assert papers.read_card(place, published(place)[-1]) == "# new card\n"
    assert papers.read_tags(place, 3) == ["reviewed"]


def test_rollback_to_an_alias_takes_the_papers_along(place):
    papers.set_alias(place, "champion", 1)
    assert publish.rollback(place, "champion") == ("flowers", 1, 4)
    assert papers.read_card(place, published(place)[-1]) == "# card 1\n"
    assert papers.read_aliases(place) == {"champion": 1}


def test_damaged_papers_are_named(place):
    (Path(place) / "papers" / "aliases.json").write_text("{")
    with pytest.raises(InputError, match=r"papers must be JSON .*aliases\.json"):
        papers.read_aliases(place)


@pytest.mark.parametrize("content", ["[]", '{"tags": "gold"}', '{"tags": [1]}'])
def test_tags_of_another_kind_are_named(place, content):
    papers.change_tags(place, 1, add=["gold"])
    (Path(place) / "papers" / "1" / "tags.json").write_text(content)
    with pytest.raises(InputError, match=r"papers must be JSON .*tags\.json"):
        papers.read_tags(place, 1)


@pytest.mark.parametrize("content", ["[]", '{"champion": "1"}'])
def test_aliases_of_another_kind_are_named(place, content):
    (Path(place) / "papers" / "aliases.json").write_text(content)
    with pytest.raises(InputError, match=r"papers must be JSON .*aliases\.json"):
        papers.read_aliases(place)


@pytest.mark.parametrize("name", ["9" * 5000, "\uff11", "01", "-1", "²", "", "champion", "newest "])
def test_only_a_version_that_is_there_is_found(place, name):
    with pytest.raises(InputError, match=r"a version must be a number, champion, challenger or newest, and be there; got "):
        papers.find_number(place, published(place), name)
    if name:
        with pytest.raises(InputError, match="there must be a version to go back to"):
            publish.rollback(place, name)


@pytest.mark.parametrize(
    "changed",
    [
        {"figures": [1]},
        {"figures": {"accuracy": "0.9"}},
        {"intervals": {"accuracy": ["x", 1]}},
        {"intervals": {"accuracy": 1}},
        {"verdict": "yes"},
        {"verdict": {"reasons": 7}},
        {"date": 7},
    ],
)
def test_papers_of_other_types_are_named(place, changed):
    file = Path(place) / "papers" / "3" / "papers.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    with pytest.raises(InputError, match=r"papers must be JSON as this library writes them; got .*3/papers\.json\. Delete"):
        papers.read_papers(place, published(place)[-1])


def test_files_that_are_not_of_this_library_are_named(place):
    folder = Path(place) / "papers"
    (folder / "3" / "README.md").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"got .*README\.md\. Delete the file"):
        papers.read_card(place, published(place)[-1])
    (folder / "aliases.json").write_text('{"champion": true}')
    with pytest.raises(InputError, match=r"got .*aliases\.json\. Delete the file"):
        papers.read_aliases(place)
    (folder / "aliases.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"got .*aliases\.json\. Delete the file"):
        papers.read_aliases(place)
    (folder / "3" / "tags.json").write_text(json.dumps({"tags": ["\x1b[2J"]}))  # would clear the terminal
    with pytest.raises(InputError, match=r"got .*tags\.json\. Delete the file"):
        papers.read_tags(place, 3)


def test_an_alias_that_is_not_known_is_left_out(place):
    (Path(place) / "papers" / "aliases.json").write_text('{"champion": 2, "other": 1}')
    assert papers.read_aliases(place) == {"champion": 2}
