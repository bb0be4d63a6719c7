"""`kfp-vision models`: what it prints, and what it changes in a repository."""

import json
from pathlib import Path

import pytest
from support.exported_model import version

from kfp_vision import cli
from kfp_vision.deployment import model_card
from kfp_vision.repository import papers, publish
from kfp_vision.repository.version import VERSION_FILE

EVALUATION = {
    "images": 150,
    "split": "validation",
    "accuracy": 0.8866,
    "accuracy_interval": [0.826, 0.928],
    "macro_f1": 0.88,
    "verdict": {"accepted": True, "reasons": ["no min_accuracy is set"]},
}


@pytest.fixture
def place(tmp_path) -> str:
    """Creates a repository of a version without papers and one with papers."""
    path = str(tmp_path / "repository")
    old, new = version(tmp_path / "old" / "1"), version(tmp_path / "new" / "1", weights=b"new", network="resnet50")
    publish.publish(old, path)
    publish.publish(new, path)
    model_card.write_papers(new, EVALUATION, model_card.Origin(run_id="8a2f"), tmp_path / "papers")
    papers.publish_papers(tmp_path / "papers", path, 2)
    return path


def printed(capsys, *arguments: str) -> list[str]:
    assert cli.main(["models", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def refused(capsys, *arguments: str, code: int = 1) -> str:
    assert cli.main(["models", *arguments]) == code
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_lists_the_versions_with_figure_alias_and_tags(capsys, place):
    assert printed(capsys, place, "--tag", "newest", "reviewed") == ["version 2: reviewed"]
    assert printed(capsys, place, "--alias", "champion", "1") == ["champion is version 1"]
    head, names, new, old = printed(capsys, place)
    assert head == f"flowers in {place}; servers answer with version 2"
    assert names.split() == ["version", "date", "figure", "alias", "tags"]
    date = papers.read_papers(place, publish.repository_at(place).versions()[-1])["date"][:10]
    assert new.split() == ["2", date, *["accuracy", "0.8866", "(0.8260", "to", "0.9280)"], "-", "reviewed"]
    assert {line.index(cell) for line, cell in ((names, "tags"), (new, "reviewed"))} == {names.index("tags")}
    assert old.split() == ["1", "-", "-", "champion", "-"]


def test_prints_a_line_of_json_per_version(capsys, place):
    new, old = map(json.loads, printed(capsys, place, "--json"))
    assert (new["version"], new["served"], new["network"], new["run_id"]) == (2, True, "resnet50", "8a2f")
    assert (new["figures"], new["accepted"]) == ({"accuracy": 0.8866, "macro_f1": 0.88}, True)
    assert (old["version"], old["served"], old["figures"], old["accepted"]) == (1, False, None, None)


def test_several_tags_at_a_time_are_all_taken(capsys, place):
    tags = ["--tag", "1", "night", "--tag", "newest", "reviewed", "--tag", "1", "old"]
    assert printed(capsys, place, *tags) == ["version 1: night, old", "version 2: reviewed"]
    assert printed(capsys, place, "--untag", "1", "old", "--untag", "1", "night") == ["version 1: no tags"]


def test_shows_a_card_and_takes_tags_and_aliases_back(capsys, place):
    assert printed(capsys, place, "--show", "2")[0] == "---"
    assert "a version must have papers" in refused(capsys, place, "--show", "1")
    printed(capsys, place, "--tag", "2", "reviewed")
    assert printed(capsys, place, "--untag", "2", "reviewed") == ["version 2: no tags"]
    printed(capsys, place, "--alias", "challenger", "2")
    assert printed(capsys, place, "--unalias", "challenger") == ["challenger is no version"]
    assert papers.read_aliases(place) == {}


def test_imports_a_model(capsys, place, tmp_path):
    version(tmp_path / "bare" / "serving" / "1", weights=b"bare")
    bare = str(tmp_path / "bare")
    assert "Name the folder of a run or a repository with papers, or add --force" in refused(capsys, place, "--import", bare)
    line = f"flowers: version 3 of {place} is the model of {bare}"
    assert printed(capsys, place, "--import", bare, "--force") == [line]
    assert Path(place, "3", "saved_model.pb").exists()


def test_what_cannot_be_done_is_one_line(capsys, place, tmp_path):
    assert f"got 7 in {place}, which has versions 1, 2. See" in refused(capsys, place, "--show", "7")
    assert "an alias must be one of champion, challenger; got king" in refused(capsys, place, "--alias", "king", "1")
    assert "--force must come with --import" in refused(capsys, place, "--force", code=2)
    assert "must hold a version; got none in" in refused(capsys, str(tmp_path / "nowhere"))


def test_a_damaged_version_does_not_hide_the_others(capsys, place):
    Path(place, "2", VERSION_FILE).write_text("{")
    head, _, new, old = printed(capsys, place)
    assert head == f"flowers in {place}; servers answer with version 1"
    assert new.split() == ["2", "-", "damaged", "-", "-"] and old.split()[0] == "1"
    assert [(row["served"], row["damaged"]) for row in map(json.loads, printed(capsys, place, "--json"))] == [
        (False, True),
        (True, False),
    ]
    Path(place, "1", VERSION_FILE).unlink()
    assert "a version must have valid metadata; got" in refused(capsys, place)
