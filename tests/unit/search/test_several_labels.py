"""Search and audit where images have several labels: filters, labels of hits, label issues one by one, the page."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import colour_model, colour_sets, zip_names

from kfp_vision.cli.commands import main
from kfp_vision.core.errors import InputError
from kfp_vision.dataset.table import ImageRow, join_labels, md5_hex
from kfp_vision.search import audit, build, label_issues, near_duplicates
from kfp_vision.search.index import Index
from kfp_vision.search.query import LocalSearcher, search_images
from kfp_vision.storage import several_sample

# The labels that some images have instead of theirs: one lacks green, one has blue although it is not, one has none.
LACKS_GREEN, HAS_BLUE, HAS_NONE = 65, 5, 25
CHANGED = {LACKS_GREEN: ("red",), HAS_BLUE: ("blue", "red"), HAS_NONE: ()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return colour_sets.write_index(tmp_path_factory.mktemp("sets"), CHANGED)


def test_a_label_is_searched_among_all_images_that_have_it(folder):
    index = Index(folder)
    assert index.several
    assert list(index.by_label) == ["", "blue", "green", "red"]
    for label in ("red", "green", "blue"):
        expected = [n for n in range(colour_sets.COUNT) if label in CHANGED.get(n, colour_sets.true_labels(n))]
        assert index.positions_with_label(label).tolist() == expected
    with pytest.raises(InputError, match=r"blue, green, red; got blue\|red\."):
        index.positions_with_label("blue|red")


def test_labels_that_seem_to_be_several_are_told_before_the_images_are_indexed(tmp_path, capsys):
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(colour_sets.picture(number))
    (tmp_path / "a.csv").write_text("uri,label\n0.png,red\n1.png,blue\n2.png,blue|red\n3.png,red\n")
    build.list_images(str(tmp_path / "a.csv"), 1, tmp_path / "table.csv")
    note = "Labels such as blue|red seem to be several: set labels to several if they are."
    assert capsys.readouterr().out.splitlines() == [note, "4 images to index"]
    build.list_images(str(tmp_path / "a.csv"), 1, tmp_path / "table.csv", "several")
    assert note not in capsys.readouterr().out


def test_hits_show_all_labels(folder, tmp_path):
    searcher = LocalSearcher(Index(folder), 3, "green")
    (near,) = searcher.nearest([colour_sets.picture(85)])  # red and blue
    assert {hit.label for hit in near.hits} <= {"green|red", "blue|green"}
    found = search_images(
        folder,
        str(folder.parent / "pictures" / "070.png"),
        count=2,
        label="",
        table=tmp_path / "near.csv",
        page=tmp_path / "near.html",
    )
    assert found == {"queries": 1, "unreadable": 0}
    with (tmp_path / "near.csv").open(newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["green|red", "green|red"]
    assert "<bdi>green|red</bdi>" in (tmp_path / "near.html").read_text()


def test_says_how_the_names_in_an_archive_of_queries_are_read(folder, tmp_path, capsys):
    files = {"花朵/玫瑰.png".encode("gbk"): colour_sets.picture(70), b"notes": b"no image"}
    queries = str(zip_names.write_zip(tmp_path / "gbk.zip", files))
    search_images(folder, f"{queries} ", count=2, label="", table=tmp_path / "near.csv", page=tmp_path / "page")
    assert main(["search", "--index", str(folder), "--nearest", "2", "--json", queries]) == 0
    printed = capsys.readouterr()
    note, skipped = f"The names in {queries} are not UTF-8, and are read as GBK (", "1 file skipped: not an image (notes)"
    for lines in (printed.out.splitlines()[:2], printed.err.splitlines()):
        assert lines[0].startswith(note) and lines[1:] == [skipped]


def test_the_audit_finds_missed_and_wrong_labels_one_by_one(folder, tmp_path, capsys):
    outputs = {"table": tmp_path / "findings.csv", "page": tmp_path / "audit.html"}
    counts = audit.audit_index(folder, validation_ratio=0.2, test_ratio=0.1, **outputs)
    with outputs["table"].open(newline="") as file:
        rows = [(Path(row["path"]).stem, row) for row in csv.DictReader(file)]
    found = {(name, row["finding"], row["label"], row["instead"], row["leave_out"]) for name, row in rows}
    assert found == {
        ("065", "label that most neighbours have", "red", "green|red", "yes"),
        ("005", "label that few neighbours have", "blue|red", "red", "yes"),
        ("025", "label that most neighbours have", "", "green", "yes"),
    }
    assert (counts["suspicious_labels"], counts["left_out"]) == (3, 3)
    page = outputs["page"].read_text()
    assert "red; lacks green: " in page and "no label; lacks green: " in page and "blue|<wbr>red; without blue: " in page


def test_finds_planted_errors_of_labels_of_all_frequencies_and_little_else():
    generator = np.random.default_rng(0)
    frequencies = np.array([0.5, 0.3, 0.2, 0.1, 0.05])
    true = generator.random((1500, len(frequencies))) < frequencies
    background, parts = generator.normal(size=64), generator.normal(size=(len(frequencies), 64))
    points = background + true @ parts + 0.4 * generator.normal(size=(1500, 64))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    given, planted = true.copy(), set()
    for label in range(len(frequencies)):
        for has in (False, True):  # three that gain the label, three that lose it
            for position in generator.choice(np.flatnonzero(true[:, label] == has), 3, replace=False).tolist():
                given[position, label] = not has
                planted.add((position, f"label {label}", has))
    labels = [[f"label {number}" for number in np.flatnonzero(row)] for row in given]
    similar = points @ points.T
    np.fill_diagonal(similar, -np.inf)
    near = np.argsort(-similar, 1)[:, :40]
    scores = np.take_along_axis(similar, near, 1).astype("float32")
    found = label_issues.find_set_issues(labels, scores, near, np.arange(1500))
    right = planted & {(issue.position, issue.instead, issue.missed) for issue in found}
    assert len(right) >= 0.75 * len(planted)
    assert len(right) >= 0.9 * len(found)  # a rare label is not in question wherever it is
    assert [issue.share for issue in found] == sorted((issue.share for issue in found), reverse=True)


def test_images_that_share_one_flower_are_no_copies_but_a_part_of_an_image_is(tmp_path):
    """Two pairs of drawn images with a flower in common, which are alike by their features, and one with a part of itself."""
    with Image.open(io.BytesIO(several_sample.draw("0138.jpg"))) as whole:
        part = io.BytesIO()
        whole.crop((20, 10, whole.width, round(0.8 * whole.height))).save(part, "JPEG", quality=90)
    drawn = {name: several_sample.draw(name) for name in ("0138.jpg", "0192.jpg", "0024.jpg", "0519.jpg")}
    rows = []
    for name, encoded in (drawn | {"part.jpg": part.getvalue()}).items():
        (tmp_path / name).write_bytes(encoded)
        label = "tulip" if name == "part.jpg" else join_labels(several_sample.labels_of(name))
        rows.append(ImageRow(str(tmp_path / name), label, len(encoded), md5_hex(encoded), name))
    colour_model.write_version(tmp_path / "model" / "serving" / "1")
    build.build_index(rows, tmp_path / "model", tmp_path / "index")
    index = Index(tmp_path / "index")
    found = near_duplicates.find_near_duplicates(index, index.neighbours(4)[1])
    assert {frozenset(Path(index.images[at].path).name for at in (copy.first, copy.second)) for copy in found} == {
        frozenset(("0138.jpg", "part.jpg"))
    }


def test_copies_do_not_vote_and_images_without_voters_are_not_in_question():
    labels = [["a"], ["b"], ["b"], []]
    scores, positions = np.ones((4, 3), "float32"), np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
    assert label_issues.find_set_issues(labels, scores, positions, np.zeros(4, int)) == []
    assert label_issues.find_set_issues([[], []], scores[:2, :1], np.array([[1], [0]]), np.arange(2)) == []
