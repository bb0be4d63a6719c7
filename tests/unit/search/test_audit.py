"""The audit of an index: near-duplicates, label issues, the map, the table of findings and the page."""

import csv
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from support import embedding_model, sample_images

from kfp_vision.networks import NETWORKS
from kfp_vision.search import audit, build, label_issues, near_duplicates, projection
from kfp_vision.search import index as search_index
from kfp_vision.search.index import Index

pytestmark = pytest.mark.slow

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
def image_folder(tmp_path_factory) -> Path:
    """Writes twenty images each of two classes, and altered copies of four of the first class: two in each class."""
    folder = sample_images.pictures(tmp_path_factory.mktemp("data") / "pictures", each=EACH)
    for number, (name, alter) in enumerate(ALTERED.items(), start=1):
        with Image.open(folder / "bellcup" / f"{number:04}.jpg") as image:
            label = "bellcup" if number % 2 else "globelet"
            (folder / label / f"{name}.jpg").write_bytes(alter(image.convert("RGB")))
    return folder


@pytest.fixture(scope="module")
def folder(image_folder, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("index")
    model = embedding_model.write_model(root / "model", NETWORKS["inception_v1"], depth_multiplier=0.25)
    build.build_index(build.find_images(str(image_folder)), model, root / "index")
    return root / "index"


def file_name(index: Index, position: int) -> str:
    return "/".join(Path(index.images[position].path).parts[-2:])


def test_finds_exactly_the_altered_copies(folder):
    index = Index(folder)
    found = near_duplicates.find_near_duplicates(index, index.neighbours(10)[1])
    pairs = {frozenset((file_name(index, pair.first), file_name(index, pair.second))): pair for pair in found}
    expected = {
        frozenset(("bellcup/0001.jpg", "bellcup/cropped.jpg")),
        frozenset(("bellcup/0002.jpg", "globelet/smaller.jpg")),
        frozenset(("bellcup/0003.jpg", "bellcup/mirrored.jpg")),
        frozenset(("bellcup/0004.jpg", "globelet/recoloured.jpg")),
    }
    assert set(pairs) == expected
    assert [pair.mirrored for names, pair in pairs.items() if "bellcup/mirrored.jpg" in names] == [True]
    assert sum(pair.mirrored for pair in found) == 1
    assert all(pair.first < pair.second and 0.5 < pair.alike <= 1 for pair in found)


def test_a_mirrored_descriptor_equals_that_of_the_mirrored_image(folder):
    import cv2

    grey = near_duplicates.decode_brightness(Index(folder).thumbnail(0))
    flipped = np.ascontiguousarray(grey[:, ::-1])
    point = cv2.KeyPoint(50.0, 40.0, 12.0, 30.0)
    mirrored_point = cv2.KeyPoint(grey.shape[1] - 1 - 50.0, 40.0, 12.0, 150.0)
    (_, original), (_, mirrored) = (
        cv2.SIFT.create().compute(pixels, [at]) for pixels, at in ((grey, point), (flipped, mirrored_point))
    )
    assert np.abs(original[0]).max() > 50
    np.testing.assert_allclose(original[0][near_duplicates.MIRRORED_DESCRIPTOR], mirrored[0], atol=12)


def test_neighbours_equal_sorting_all_similarities_without_the_image_itself(folder, monkeypatch):
    monkeypatch.setattr(search_index, "QUERIES_PER_BLOCK", 7)
    index = Index(folder)
    vectors = np.asarray(index.vectors, "float32")
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -np.inf)
    scores, neighbours = index.neighbours(5)
    assert scores.shape == neighbours.shape == (44, 5)
    np.testing.assert_allclose(scores, np.sort(similar, 1)[:, :-6:-1], atol=1e-6)
    assert (neighbours != np.arange(44)[:, None]).all()
    more = index.neighbours(60)
    assert (more[1][:, 43:] == -1).all() and (more[1][:, :43] >= 0).all() and np.isneginf(more[0][:, 43:]).all()


def test_groups_include_copies_of_copies():
    pairs = [near_duplicates.NearDuplicates(0, 3, False, 9, 1.0), near_duplicates.NearDuplicates(3, 4, True, 9, 1.0)]
    group = near_duplicates.group_near_duplicates(pairs, 6)
    assert group[0] == group[3] == group[4]
    assert len(set(group.tolist())) == 4
    assert len(set(near_duplicates.group_near_duplicates([], 3).tolist())) == 3


def clustered(centres: np.ndarray, per_class: int, seed: int) -> tuple[np.ndarray, list[str]]:
    generator = np.random.default_rng(seed)
    points = np.repeat(centres, per_class, 0) + 0.35 * generator.normal(size=(len(centres) * per_class, centres.shape[1]))
    label = [f"class {number}" for number in range(len(centres)) for _ in range(per_class)]
    return points / np.linalg.norm(points, axis=1, keepdims=True), label


def nearest(points: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    similar = points @ points.T
    np.fill_diagonal(similar, -np.inf)
    neighbours = np.argsort(-similar, 1)[:, :count]
    return np.take_along_axis(similar, neighbours, 1).astype("float32"), neighbours


def test_wrong_labels_rank_first_among_label_issues():
    points, label = clustered(np.eye(8)[:3], 60, 0)
    generator = np.random.default_rng(1)
    mislabelled = set(generator.choice(180, 12, replace=False).tolist())
    correct = list(label)
    for position in mislabelled:
        label[position] = f"class {(int(label[position][-1]) + 1) % 3}"
    found = label_issues.find_label_issues(label, *nearest(points, 40), np.arange(180))
    assert {issue.position for issue in found[:12]} == mislabelled
    assert all(issue.instead == correct[issue.position] and issue.share > 0.5 > issue.own for issue in found[:12])


def test_copies_and_unlabelled_images_do_not_vote_on_labels():
    label = ["a", "b", "b", "b", ""]
    scores = np.ones((5, 4), "float32")
    neighbours = np.array([[neighbour for neighbour in range(5) if neighbour != position] for position in range(5)])
    assert [issue.position for issue in label_issues.find_label_issues(label, scores, neighbours, np.arange(5))] == [0]
    assert label_issues.find_label_issues(label, scores, neighbours, np.zeros(5, int)) == []
    assert label_issues.find_label_issues(["a", "a", ""], scores[:3, :2], neighbours[:3, :2] % 3, np.arange(3)) == []


def test_a_projection_covers_all_images_and_is_reproducible(folder):
    index = Index(folder)
    projected = projection.project_index(index, np.array([3], "int64"))
    assert projected.positions.tolist() == list(range(44))
    assert projected.points.min() == 0 and projected.points.max() == 1
    repeated = projection.project_index(index, np.array([3], "int64"))
    np.testing.assert_array_equal(projected.points, repeated.points)


def test_a_large_projection_is_sampled_and_includes_the_requested_images(folder, monkeypatch):
    monkeypatch.setattr(projection, "MAX_IMAGES", 10)
    projected = projection.project_index(Index(folder), np.array([7, 40], "int64"))
    assert len(projected.positions) == 10 and {7, 40} <= set(projected.positions.tolist())
    monkeypatch.setattr(projection, "MAX_IMAGES", 3)
    assert len(projection.project_index(Index(folder), np.array([], "int64")).positions) == 0


@pytest.fixture(scope="module")
def audited(folder, tmp_path_factory) -> tuple[dict, list[dict[str, str]], str]:
    projected = tmp_path_factory.mktemp("audit")
    outputs = {"table": projected / "findings.csv", "page": projected / "page.html"}
    counts = audit.audit_index(folder, validation_ratio=0.2, test_ratio=0.0, **outputs)
    with outputs["table"].open(newline="") as file:
        return counts, list(csv.DictReader(file)), outputs["page"].read_text()


def test_excludes_all_but_one_copy_and_every_copy_with_conflicting_labels(audited, folder):
    counts, rows, _ = audited
    index = Index(folder)
    split = dict(zip((file_name(index, position) for position in range(44)), audit.assign_splits(index, 0.2, 0.0), strict=True))
    copies = {"/".join(Path(row["path"]).parts[-2:]): row for row in rows if row["finding"].startswith("copy")}
    conflicting = {"bellcup/0002.jpg", "globelet/smaller.jpg", "bellcup/0004.jpg", "globelet/recoloured.jpg"}
    assert {name for name, row in copies.items() if row["finding"] == "copy under another label"} == conflicting
    for pair in (("bellcup/0001.jpg", "bellcup/cropped.jpg"), ("bellcup/0003.jpg", "bellcup/mirrored.jpg")):
        (excluded,) = [name for name in pair if name in copies]
        (kept,) = set(pair) - {excluded}
        across = split[excluded] != split[kept]
        assert copies[excluded]["finding"] == ("copy in another split" if across else "copy")
        assert not across or (split[excluded], split[kept]) == ("train", "validation")
        assert Path(copies[excluded]["other"]).parts[-2:] == tuple(kept.split("/"))
    assert {row["leave_out"] for row in copies.values()} == {"yes"}
    assert (counts["pictures"], counts["copies"], counts["copies_across_labels"]) == (44, 4, 2)
    assert counts["left_out"] == len({row["path"] for row in rows if row["leave_out"] == "yes"})


def test_ingest_images_accepts_the_table_as_exclusion_list(audited, image_folder, folder, tmp_path):
    from kfp_vision.dataset import ingest

    _, rows, _ = audited
    table = tmp_path / "findings.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, audit.FINDING_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    projected = {"table": tmp_path / "images.csv", "page": tmp_path / "page.html"}
    found = ingest.ingest_images(str(image_folder), check_images=True, splits=2, leave_out_uri=str(table), **projected)
    excluded = {row["path"] for row in rows if row["leave_out"] == "yes"}
    assert excluded and {row.uri for row in found.rows} == {image.path for image in Index(folder).images} - excluded


def test_the_page_shows_findings_and_the_map(audited):
    counts, _, page = audited
    assert "<h2>Near-duplicates with different labels</h2>" in page and "<h2>Map of the embeddings</h2>" in page
    assert page.count('style="left:') == 44
    assert page.count("<script") == 0
    assert f"{counts['left_out']} images are marked for exclusion" in page


def test_unlabelled_images_are_audited_for_copies(folder, image_folder, tmp_path):
    loose = tmp_path / "loose"
    loose.mkdir()
    for name in ("0001", "0002", "0003", "0004", "cropped", "mirrored"):
        shutil.copy(image_folder / "bellcup" / f"{name}.jpg", loose)
    build.build_index(build.find_images(str(loose)), folder / "model", tmp_path / "index")
    outputs = {"table": tmp_path / "findings.csv", "page": tmp_path / "page.html"}
    counts = audit.audit_index(tmp_path / "index", validation_ratio=0.2, test_ratio=0.0, **outputs)
    assert (counts["copies"], counts["copies_across_labels"], counts["suspicious_labels"]) == (2, 0, 0)
    assert "no label" in outputs["page"].read_text()


def test_an_index_of_one_image_has_no_findings(folder, image_folder, tmp_path):
    (tmp_path / "one").mkdir()
    shutil.copy(image_folder / "bellcup" / "0001.jpg", tmp_path / "one")
    build.build_index(build.find_images(str(tmp_path / "one")), folder / "model", tmp_path / "index")
    outputs = {"table": tmp_path / "findings.csv", "page": tmp_path / "page.html"}
    counts = audit.audit_index(tmp_path / "index", validation_ratio=0.2, test_ratio=0.0, **outputs)
    assert counts["copies"] == counts["left_out"] == 0
    assert outputs["table"].read_text() == "path,leave_out,finding,label,instead,other,score\n"
