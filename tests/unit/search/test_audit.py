"""What an index tells about the data: copies that were altered, labels that are wrong, a map, a table and a page."""

import csv
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from support import embedding_model, sample_images

from kfp_vision.search import audit, build, label_issues, near_duplicates, projection
from kfp_vision.search import index as search_index
from kfp_vision.search.index import Index

EACH = 20


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


ALTERED = {
    "cropped": lambda image: jpeg(image.crop((20, 10, round(0.85 * image.width), round(0.9 * image.height)))),
    "smaller": lambda image: jpeg(image.resize((image.width // 2, image.height // 2)), 40),
    "mirrored": lambda image: jpeg(ImageOps.mirror(image)),
    "recoloured": lambda image: jpeg(ImageEnhance.Brightness(ImageEnhance.Color(image).enhance(0.4)).enhance(1.2)),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Twenty pictures each of two classes, and altered copies of four of the first one: two there, two in the other."""
    folder = sample_images.pictures(tmp_path_factory.mktemp("data") / "pictures", each=EACH)
    for number, (name, alter) in enumerate(ALTERED.items(), start=1):
        with Image.open(folder / "bellcup" / f"{number:04}.jpg") as image:
            label = "bellcup" if number % 2 else "globelet"
            (folder / label / f"{name}.jpg").write_bytes(alter(image.convert("RGB")))
    return folder


@pytest.fixture(scope="module")
def folder(pictures, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("index")
    build.build_index(build.find_images(str(pictures)), embedding_model.write_model(root / "model"), root / "index")
    return root / "index"


def named(index: Index, place: int) -> str:
    return "/".join(Path(index.images[place].path).parts[-2:])


def test_altered_copies_are_found_and_nothing_else(folder):
    index = Index(folder)
    found = near_duplicates.find_near_duplicates(index, index.neighbours(10)[1])
    pairs = {frozenset((named(index, one.first), named(index, one.second))): one for one in found}
    expected = {
        frozenset(("bellcup/0001.jpg", "bellcup/cropped.jpg")),
        frozenset(("bellcup/0002.jpg", "globelet/smaller.jpg")),
        frozenset(("bellcup/0003.jpg", "bellcup/mirrored.jpg")),
        frozenset(("bellcup/0004.jpg", "globelet/recoloured.jpg")),
    }
    assert set(pairs) == expected
    assert [one.mirrored for pair, one in pairs.items() if "bellcup/mirrored.jpg" in pair] == [True]
    assert sum(one.mirrored for one in found) == 1
    assert all(one.first < one.second and 0.5 < one.alike <= 1 for one in found)


def test_a_mirrored_descriptor_is_that_of_the_mirrored_picture(folder):
    import cv2

    grey = near_duplicates.decode_brightness(Index(folder).thumbnail(0))
    flipped = np.ascontiguousarray(grey[:, ::-1])
    point = cv2.KeyPoint(50.0, 40.0, 12.0, 30.0)
    image = cv2.KeyPoint(grey.shape[1] - 1 - 50.0, 40.0, 12.0, 150.0)
    (_, as_it_is), (_, turned) = (cv2.SIFT.create().compute(one, [at]) for one, at in ((grey, point), (flipped, image)))
    assert np.abs(as_it_is[0]).max() > 50
    np.testing.assert_allclose(as_it_is[0][near_duplicates.MIRRORED_DESCRIPTOR], turned[0], atol=12)


def test_neighbours_are_what_sorting_finds_without_the_picture_itself(folder, monkeypatch):
    monkeypatch.setattr(search_index, "QUERIES_PER_BLOCK", 7)
    index = Index(folder)
    vectors = np.asarray(index.vectors, "float32")
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -np.inf)
    scores, places = index.neighbours(5)
    assert scores.shape == places.shape == (44, 5)
    np.testing.assert_allclose(scores, np.sort(similar, 1)[:, :-6:-1], atol=1e-6)
    assert (places != np.arange(44)[:, None]).all()
    more = index.neighbours(60)
    assert (more[1][:, 43:] == -1).all() and (more[1][:, :43] >= 0).all() and np.isneginf(more[0][:, 43:]).all()


def test_groups_join_copies_of_copies():
    one = [near_duplicates.NearDuplicates(0, 3, False, 9, 1.0), near_duplicates.NearDuplicates(3, 4, True, 9, 1.0)]
    group = near_duplicates.group_near_duplicates(one, 6)
    assert group[0] == group[3] == group[4]
    assert len(set(group.tolist())) == 4
    assert len(set(near_duplicates.group_near_duplicates([], 3).tolist())) == 3


def around(centres: np.ndarray, each: int, seed: int) -> tuple[np.ndarray, list[str]]:
    draw = np.random.default_rng(seed)
    points = np.repeat(centres, each, 0) + 0.35 * draw.normal(size=(len(centres) * each, centres.shape[1]))
    label = [f"class {number}" for number in range(len(centres)) for _ in range(each)]
    return points / np.linalg.norm(points, axis=1, keepdims=True), label


def nearest(points: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    similar = points @ points.T
    np.fill_diagonal(similar, -np.inf)
    places = np.argsort(-similar, 1)[:, :count]
    return np.take_along_axis(similar, places, 1).astype("float32"), places


def test_wrong_labels_are_the_most_suspicious():
    points, label = around(np.eye(8)[:3], 60, 0)
    draw = np.random.default_rng(1)
    wrong = set(draw.choice(180, 12, replace=False).tolist())
    right = list(label)
    for place in wrong:
        label[place] = f"class {(int(label[place][-1]) + 1) % 3}"
    found = label_issues.find_label_issues(label, *nearest(points, 40), np.arange(180))
    assert {one.position for one in found[:12]} == wrong
    assert all(one.instead == right[one.position] and one.share > 0.5 > one.own for one in found[:12])


def test_copies_have_no_vote_on_each_other_and_what_has_no_label_none_at_all():
    label = ["a", "b", "b", "b", ""]
    scores = np.ones((5, 4), "float32")
    places = np.array([[other for other in range(5) if other != place] for place in range(5)])
    assert [one.position for one in label_issues.find_label_issues(label, scores, places, np.arange(5))] == [0]
    assert label_issues.find_label_issues(label, scores, places, np.zeros(5, int)) == []
    assert label_issues.find_label_issues(["a", "a", ""], scores[:3, :2], places[:3, :2] % 3, np.arange(3)) == []


def test_a_map_keeps_what_is_alike_together(folder):
    index = Index(folder)
    made = projection.project_index(index, np.array([3], "int64"))
    assert made.positions.tolist() == list(range(44))
    assert made.points.min() == 0 and made.points.max() == 1
    again = projection.project_index(index, np.array([3], "int64"))
    np.testing.assert_array_equal(made.points, again.points)


def test_a_map_of_very_many_holds_those_that_are_wanted(folder, monkeypatch):
    monkeypatch.setattr(projection, "MAX_IMAGES", 10)
    made = projection.project_index(Index(folder), np.array([7, 40], "int64"))
    assert len(made.positions) == 10 and {7, 40} <= set(made.positions.tolist())
    monkeypatch.setattr(projection, "MAX_IMAGES", 3)
    assert len(projection.project_index(Index(folder), np.array([], "int64")).positions) == 0


@pytest.fixture(scope="module")
def audited(folder, tmp_path_factory) -> tuple[dict, list[dict[str, str]], str]:
    made = tmp_path_factory.mktemp("audit")
    outputs = {"table": made / "findings.csv", "page": made / "page.html"}
    counted = audit.audit_index(folder, validation_ratio=0.2, test_ratio=0.0, **outputs)
    with outputs["table"].open(newline="") as file:
        return counted, list(csv.DictReader(file)), outputs["page"].read_text()


def test_of_copies_one_is_kept_and_of_those_under_two_labels_none(audited, folder):
    counted, rows, _ = audited
    index = Index(folder)
    split = dict(zip((named(index, place) for place in range(44)), audit.assign_splits(index, 0.2, 0.0), strict=True))
    of_copies = {"/".join(Path(row["path"]).parts[-2:]): row for row in rows if row["finding"].startswith("copy")}
    both = {"bellcup/0002.jpg", "globelet/smaller.jpg", "bellcup/0004.jpg", "globelet/recoloured.jpg"}
    assert {name for name, row in of_copies.items() if row["finding"] == "copy under another label"} == both
    for pair in (("bellcup/0001.jpg", "bellcup/cropped.jpg"), ("bellcup/0003.jpg", "bellcup/mirrored.jpg")):
        (out,) = [name for name in pair if name in of_copies]
        (kept,) = set(pair) - {out}
        across = split[out] != split[kept]
        assert of_copies[out]["finding"] == ("copy in another split" if across else "copy")
        assert not across or (split[out], split[kept]) == ("train", "validation")
        assert Path(of_copies[out]["other"]).parts[-2:] == tuple(kept.split("/"))
    assert {row["leave_out"] for row in of_copies.values()} == {"yes"}
    assert (counted["pictures"], counted["copies"], counted["copies_across_labels"]) == (44, 4, 2)
    assert counted["left_out"] == len({row["path"] for row in rows if row["leave_out"] == "yes"})


def test_the_data_stage_takes_the_table(audited, pictures, folder, tmp_path):
    from kfp_vision.dataset import ingest

    _, rows, _ = audited
    table = tmp_path / "findings.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, audit.FINDING_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    made = {"table": tmp_path / "images.csv", "page": tmp_path / "page.html"}
    found = ingest.ingest_images(str(pictures), check_images=True, splits=2, leave_out_uri=str(table), **made)
    out = {row["path"] for row in rows if row["leave_out"] == "yes"}
    assert out and {row.uri for row in found.rows} == {one.path for one in Index(folder).images} - out


def test_the_page_shows_what_was_found_and_a_map(audited):
    counted, _, page = audited
    assert "<h2>Near-duplicates with different labels</h2>" in page and "<h2>Map of the embeddings</h2>" in page
    assert page.count('style="left:') == 44
    assert page.count("<script") == 0
    assert f"{counted['left_out']} images are marked for exclusion" in page


def test_pictures_without_labels_have_copies_and_a_map(folder, pictures, tmp_path):
    loose = tmp_path / "loose"
    loose.mkdir()
    for name in ("0001", "0002", "0003", "0004", "cropped", "mirrored"):
        shutil.copy(pictures / "bellcup" / f"{name}.jpg", loose)
    build.build_index(build.find_images(str(loose)), folder / "model", tmp_path / "index")
    outputs = {"table": tmp_path / "findings.csv", "page": tmp_path / "page.html"}
    counted = audit.audit_index(tmp_path / "index", validation_ratio=0.2, test_ratio=0.0, **outputs)
    assert (counted["copies"], counted["copies_across_labels"], counted["suspicious_labels"]) == (2, 0, 0)
    assert "no label" in outputs["page"].read_text()


def test_one_picture_is_an_index_with_nothing_to_find(folder, pictures, tmp_path):
    (tmp_path / "one").mkdir()
    shutil.copy(pictures / "bellcup" / "0001.jpg", tmp_path / "one")
    build.build_index(build.find_images(str(tmp_path / "one")), folder / "model", tmp_path / "index")
    outputs = {"table": tmp_path / "findings.csv", "page": tmp_path / "page.html"}
    counted = audit.audit_index(tmp_path / "index", validation_ratio=0.2, test_ratio=0.0, **outputs)
    assert counted["copies"] == counted["left_out"] == 0
    assert outputs["table"].read_text() == "path,leave_out,finding,label,instead,other,score\n"
