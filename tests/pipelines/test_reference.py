"""The generated tables of the reference pages match the code, and change with it."""

import argparse
import re
import shutil
from pathlib import Path

import pytest

from kfp_vision.cli import commands
from kfp_vision.core.errors import InputError
from kfp_vision.pipelines import reference

PARSER = commands.build_parser()


@pytest.fixture
def pages(tmp_path, monkeypatch) -> Path:
    """Puts a copy of the pages in their place, and returns its folder."""
    folder = tmp_path / "reference"
    shutil.copytree(reference.FOLDER, folder)
    monkeypatch.setattr(reference, "FOLDER", folder)
    return folder


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_the_committed_pages_are_up_to_date():
    remedy = "run kfp-vision compile, and commit"
    assert reference.out_of_date(PARSER) == [], remedy


@pytest.mark.slow
def test_a_changed_cell_is_outdated_and_written_anew(pages, capsys):
    before = (pages / "fields.md").read_text(encoding="utf-8")
    edit(pages / "fields.md", "| `6000` |", "| `600` |")
    assert reference.out_of_date(PARSER) == [pages / "fields.md"]
    assert commands.main(["compile", "--check"]) == 1
    rule = f"error: every table of a page must match the code; got outdated {pages / 'fields.md'}. Run kfp-vision compile"
    assert capsys.readouterr().err.startswith(rule[:120])
    assert pages / "fields.md" in reference.write_pages(PARSER)
    assert (pages / "fields.md").read_text(encoding="utf-8") == before


def test_text_outside_the_tables_stays(pages):
    edit(pages / "stages.md", "# Stages\n", "# Stages, by hand\n")
    assert reference.out_of_date(PARSER) == []


def test_a_new_option_of_the_command_line_makes_its_page_outdated(pages):
    parser = commands.build_parser()
    parser._subparsers._group_actions[0].choices["serve"].add_argument("--new", default=3, help="a new one (%(default)s)")
    assert reference.out_of_date(parser) == [pages / "command-line.md"]
    reference.write_pages(parser)
    assert "| `--new NEW` | A new one (3) |" in (pages / "command-line.md").read_text(encoding="utf-8")


def test_arguments_are_written_as_a_person_types_them():
    parser = argparse.ArgumentParser(prog="kfp-vision")
    command = parser.add_subparsers(dest="command").add_parser("try", help="try it")
    command.add_argument("uris", nargs="*", metavar="URI", help="any number of them")
    command.add_argument("--tag", nargs=2, metavar=("VERSION", "TAG"), help="two values")
    parser._subparsers._group_actions[0].add_parser("rest", help="no arguments")
    text = reference.command_descriptions(parser)
    for line in (
        "kfp-vision try [URI...] [OPTIONS]",
        "kfp-vision rest [OPTIONS]",
        "| `[URI...]` | Any",
        "| `--tag VERSION TAG` | Two",
    ):
        assert line in text


def test_rejects_a_table_that_does_not_exist(pages):
    (pages / "new.md").write_text("<!-- generated: fields of nothing -->\n<!-- end -->\n")
    with pytest.raises(InputError, match=r"must be one of advanced, .*; got fields of nothing in new\.md"):
        reference.render_pages(PARSER)


def test_without_pages_as_in_an_installed_package_there_is_nothing_to_write(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "FOLDER", tmp_path / "reference")
    assert reference.write_pages(PARSER) == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (True, "`true`"),
        (0.0025, "`0.0025`"),
        (6000.0, "`6000`"),
        (32 / 255, "`0.1255`"),
        ("sgd", "`sgd`"),
        ("", ""),
        ([], "`[]`"),
        ({}, "`{}`"),
        (["sgd", "momentum"], '`["sgd", "momentum"]`'),
    ],
)
def test_a_default_is_shown_as_a_person_types_it(value, shown):
    assert reference.format_default(value) == shown


def test_a_cell_may_hold_a_bar_and_line_breaks():
    assert reference.table(("a", "b"), [("x|y", "one\ntwo.")]) == "| a | b |\n| --- | --- |\n| x\\|y | one two |"


def test_a_stage_is_described_with_what_its_pod_may_use():
    text = reference.stage_descriptions().split("## train_classifier\n")[1].split("\n## ")[0]
    assert "container image `kfp-vision-gpu`. Requests 2 cores and 4Gi of memory" in text
    assert "may use 16 cores, 32Gi, and 500Gi below `/tmp`; ends after 14 days." in text
    assert "| `train_records` | training images | Dataset |" in text and re.search(
        r"\| `gpus` \| gpu_count as text.* \| text \|", text
    )
    assert re.search(r"\| `model` \| Folder with classifier\.keras.* \| Model \|", text)


def test_the_inputs_of_a_check_are_described_as_in_its_form():
    text = reference.stage_descriptions().split("## check_search\n")[1].split("\n## ")[0]
    assert "| `nearest` | number of results per query image | whole number |" in text
