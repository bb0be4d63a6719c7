"""The search index: nearest neighbours, building in parts, updates, and damaged or interrupted writes."""

import csv
import io
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import embedding_model, sample_images
from support.exported_model import version
from support.model_servers import until

from kfp_vision.core.errors import InputError
from kfp_vision.dataset.images import Rejected
from kfp_vision.dataset.table import ImageRow
from kfp_vision.engines.choice import ENGINE_VARIABLE
from kfp_vision.engines.engine import OPENVINO_FLOAT32
from kfp_vision.repository.version import exported_version, fetch_version, versions
from kfp_vision.search import ann, build, parts
from kfp_vision.search.embedding import EMBEDDING_BATCH_SIZE, Embedder, encode_thumbnail
from kfp_vision.search.index import Index, IndexInfo
from kfp_vision.serving import find_models


def clustered(number: int, dimension: int, seed: int = 0) -> np.ndarray:
    """Draws unit vectors around overlapping centres in a subspace of lower dimension."""
    draw = np.random.default_rng(seed)
    centres, spread = draw.normal(size=(50, 16)), draw.normal(size=(16, dimension))
    vectors = (centres[draw.integers(0, 50, number)] + 0.7 * draw.normal(size=(number, 16))) @ spread
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("float16")


@pytest.mark.parametrize("chosen", [None, np.arange(3, 900, 7)])
def test_exact_search_equals_sorting_all_similarities(chosen, monkeypatch):
    monkeypatch.setattr(ann, "VECTORS_PER_BLOCK", 100)
    vectors, queries = clustered(1000, 24), clustered(5, 24, seed=1).astype("float32")
    scores, positions = ann.search_exact(vectors, queries, 7, chosen)
    candidates = np.arange(1000) if chosen is None else chosen
    similarities = queries @ vectors[candidates].astype("float32").T
    for row, (found_scores, found) in enumerate(zip(scores, positions, strict=True)):
        order = np.argsort(-similarities[row], kind="stable")[:7]
        assert found.tolist() == candidates[order].tolist()
        np.testing.assert_allclose(found_scores, similarities[row][order], rtol=1e-6)


def test_exact_search_returns_all_vectors_if_fewer_than_requested():
    scores, positions = ann.search_exact(clustered(3, 8), clustered(2, 8).astype("float32"), 10)
    assert scores.shape == positions.shape == (2, 3)


@pytest.mark.slow
def test_approximate_search_reaches_the_target_recall(tmp_path):
    samples = clustered(20_200, 160)
    vectors, queries = samples[:20_000], samples[20_000:].astype("float32")
    result = ann.build_regions(vectors, tmp_path / "regions")
    assert result.recall >= ann.TARGET_RECALL and 0 < result.probes < 512
    regions = ann.read_regions(tmp_path / "regions")
    expected = ann.search_exact(vectors, queries, 10)[1]
    scores, positions = ann.search_approximate(regions, vectors, queries, 10, result.probes)
    assert (
        np.mean([len(set(first_set) & set(second_set)) / 10 for first_set, second_set in zip(positions, expected, strict=True)])
        >= 0.95
    )
    assert (np.diff(scores, axis=1) <= 0).all()
    chosen = np.arange(0, 20_000, 50)
    _, filtered = ann.search_approximate(regions, vectors, queries, 10, result.probes, chosen)
    assert set(filtered.ravel().tolist()) - {-1} <= set(chosen.tolist())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return embedding_model.write_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    """Writes six images each of two classes, one image outside the class folders, and one invalid file."""
    folder = sample_images.pictures(tmp_path_factory.mktemp("data") / "pictures", each=6)
    shutil.copy(folder / "bellcup" / "0001.jpg", folder / "loose.jpg")
    with Image.open(folder / "loose.jpg") as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "loose.jpg")
    (folder / "globelet" / "broken.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def built(model, image_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index") / "index"
    return folder, build.build_index(build.find_images(str(image_folder)), model, folder)


def test_every_readable_image_is_in_the_index(built, image_folder, model):
    folder, built_index = built
    assert (built_index.about.pictures, built_index.computed, built_index.about.recall, built_index.about.probes) == (
        13,
        13,
        1.0,
        0,
    )
    assert [(uri.rsplit("/", 1)[1], label) for uri, label, _ in built_index.refused] == [("broken.jpg", "globelet")]
    index = Index(folder)
    assert {image.label for image in index.images} == {"bellcup", "globelet", ""}
    assert built_index.about.model_fingerprint == exported_version(model).fingerprint
    np.testing.assert_allclose(np.linalg.norm(index.vectors.astype("float32"), axis=1), 1, atol=2e-3)
    with Image.open(io.BytesIO(index.thumbnail(4))) as image:
        assert max(image.size) == 128


@pytest.mark.parametrize(("size", "small"), [((500, 375), (128, 96)), ((3000, 20), (128, 1)), ((90, 60), (90, 60))])
def test_a_thumbnail_is_never_larger_than_its_image(size, small):
    original = Image.new("RGB", size, (90, 120, 30))
    with Image.open(io.BytesIO(encode_thumbnail(original))) as image:
        assert (image.size, original.size) == (small, size)


@pytest.mark.slow
def test_an_image_is_its_own_nearest_neighbour(built, image_folder):
    folder, _ = built
    index = Index(folder)
    vector = index.embedder().embed_one((image_folder / "globelet" / "0002.jpg").read_bytes())
    assert vector.shape == (index.about.dimension,) and vector.dtype == np.float32
    (hits,) = index.search(vector[None], 20)
    assert len(hits) == 13 and hits[0].path.endswith("globelet/0002.jpg")
    assert hits[0].similarity == pytest.approx(1, abs=2e-3)
    assert [hit.similarity for hit in hits] == sorted((hit.similarity for hit in hits), reverse=True)
    (of_one_label,) = index.search(vector[None], 20, "bellcup")
    assert len(of_one_label) == 6 and {hit.label for hit in of_one_label} == {"bellcup"}


@pytest.mark.slow
def test_embeddings_are_the_normalized_inputs_of_the_classification_head(model, monkeypatch):
    monkeypatch.setenv(ENGINE_VARIABLE, OPENVINO_FLOAT32)
    import keras

    from kfp_vision import networks

    classifier = keras.saving.load_model(model / "classifier.keras")
    body, _ = networks.split_head(classifier)
    grey = np.full((1, 64, 64, 3), 90, "float32")
    expected = np.asarray(body(grey))[0]
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (90, 90, 90)).save(file, "PNG")
    vector = Embedder(exported_version(model)).embed_one(file.getvalue())
    np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-5)
    with pytest.raises(Rejected):
        Embedder(exported_version(model)).embed_one(b"no picture")


@pytest.mark.slow
def test_embeddings_and_rejections_keep_the_order_over_several_batches(model):
    embedder = Embedder(exported_version(model))
    draw = np.random.default_rng(1)
    inputs: list[bytes | Rejected] = []
    for number in range(3 * EMBEDDING_BATCH_SIZE + 5):
        file = io.BytesIO()
        Image.fromarray(draw.integers(0, 255, (6, 8, 3), "uint8")).resize((80, 60)).save(file, "PNG")
        inputs.append(Rejected("gone") if number % 40 == 39 else b"no picture" if number % 30 == 29 else file.getvalue())
    found = list(embedder.embed(iter(inputs), pad_batches=True))
    assert len(found) == len(inputs)
    for number in (0, 1, 29, 31, 32, 39, 63, 64, 79, 95, 96, 100):
        if number % 40 == 39 or number % 30 == 29:
            assert str(found[number]) == ("gone" if number % 40 == 39 else "not an image in a known format")
        else:
            np.testing.assert_allclose(found[number][0], embedder.embed_one(inputs[number]), atol=1e-5)
    assert len({embedding[0].tobytes() for embedding in found if not isinstance(embedding, Rejected)}) == len(inputs) - 5


@pytest.mark.slow
def test_an_update_reuses_known_embeddings_and_removes_missing_images(built, model, image_folder, tmp_path):
    folder = shutil.copytree(built[0], tmp_path / "index")
    rows = build.find_images(str(image_folder))
    fewer = [row for row in rows if row.label == "globelet"]
    smaller = build.build_index(fewer, model, folder, before=folder)
    assert (smaller.about.pictures, smaller.computed, smaller.about.generation) == (6, 0, 2)
    assert sorted(path.name for path in folder.iterdir()) == ["2", "index.json", "model"]
    larger = build.build_index(rows, model, folder, before=folder)
    assert (larger.about.pictures, larger.computed) == (13, 7)
    first, updated = Index(built[0]), Index(folder)
    assert updated.images == first.images
    np.testing.assert_array_equal(updated.vectors, first.vectors)
    assert [updated.thumbnail(position) for position in range(13)] == [first.thumbnail(position) for position in range(13)]


def index_files(folder) -> dict[str, bytes]:
    """Returns the content of each file of the current generation of an index."""
    generation = json.loads((folder / "index.json").read_text())["generation"]
    return {path.name: path.read_bytes() for path in (folder / str(generation)).iterdir()}


def build_in_parts(rows, model, root, partitions: int, before=None) -> tuple[list[parts.PartInfo], build.BuildResult]:
    """Builds an index in the given number of parts and joins them in `root / "index"`."""
    folders = [root / f"part {number}" for number in range(partitions)]
    written = [
        build.build_part(rows, model, folder, before, partition=number, partitions=partitions)
        for number, folder in enumerate(folders)
    ]
    return written, build.join_index_parts(folders, model, root / "index")


@pytest.mark.slow
@pytest.mark.parametrize("partitions", [1, 3])
def test_an_index_joined_from_parts_equals_one_built_at_once(built, model, image_folder, tmp_path, partitions):
    written, joined = build_in_parts(build.find_images(str(image_folder)), model, tmp_path, partitions)
    assert index_files(tmp_path / "index") == index_files(built[0])
    assert joined == built[1]  # including the rejected image
    image_counts = [part.pictures for part in written]
    assert sum(image_counts) == 13 and max(image_counts) - min(image_counts) <= 1 + 1  # one part has the rejected image
    vector = np.asarray(Index(built[0]).vectors[3:4], "float32")
    assert Index(tmp_path / "index").search(vector, 5) == Index(built[0]).search(vector, 5)


@pytest.mark.slow
def test_an_index_of_more_parts_than_images_equals_one_built_at_once(model, image_folder, tmp_path):
    rows = build.find_images(str(image_folder))[:2]
    whole = build.build_index(rows, model, tmp_path / "whole")
    written, joined = build_in_parts(rows, model, tmp_path, 3)
    assert [part.pictures for part in written] == [0, 1, 1]
    assert (joined, index_files(tmp_path / "index")) == (whole, index_files(tmp_path / "whole"))


@pytest.mark.slow
def test_parts_compute_only_images_missing_in_the_earlier_index(built, model, image_folder, tmp_path):
    rows = build.find_images(str(image_folder))
    build.build_index([row for row in rows if row.label == "bellcup"], model, tmp_path / "before")
    written, joined = build_in_parts(rows, model, tmp_path, 2, tmp_path / "before")
    assert [part.computed for part in written] == [3, 4]  # the rejected image counts as work
    assert [part.pictures for part in written] == [9, 4]
    assert (joined.computed, joined.about) == (7, built[1].about)
    assert index_files(tmp_path / "index") == index_files(built[0])


def test_parts_have_consecutive_rows_and_equal_work():
    rows = [ImageRow(str(number), "", 0, str(number), str(number)) for number in range(103)]
    for known in (set(), {row.content_id for row in rows}, {str(number) for number in range(40, 80)}):
        shares = [parts.part_rows(rows, known, number, 4) for number in range(4)]
        assert [row for share in shares for row in share] == rows
        new = [len([row for row in share if row.content_id not in known]) for share in shares]
        assert max(new) - min(new) <= 1
    assert [len(parts.part_rows(rows[:2], set(), number, 3)) for number in range(3)] == [0, 1, 1]
    assert parts.part_rows([], set(), 0, 2) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda part: (part / "part.json").unlink(), "a part of an index must be whole; got "),
        (lambda part: (part / "part.json").write_text("{}"), "a part of an index must be whole; got "),
        (lambda part: (part / "part.json").write_text("[" * 100_000), "a part of an index must be whole; got "),
        (lambda part: (part / "vectors").write_bytes(b"short"), "a part of an index must be whole; got "),
        (lambda part: (part / "thumbnails").unlink(), "a part of an index must be whole; got "),
        (lambda part: (part / "thumbnails.npy").write_bytes(b""), "a part of an index must be whole; got "),
        (
            lambda part: (part / "pictures.csv").write_text("path,label,content_id\n"),
            "a part of an index must be whole; got 0 rows",
        ),
        (
            lambda part: (part / "part.json").write_text(
                json.dumps(json.loads((part / "part.json").read_text()) | {"model_fingerprint": "another"})
            ),
            "all parts of an index must be computed with its model; got another in ",
        ),
    ],
)
def test_a_damaged_part_is_rejected_in_one_line_and_leaves_no_index(model, image_folder, part_folders, tmp_path, damage, line):
    folders = [shutil.copytree(folder, tmp_path / folder.name) for folder in part_folders]
    damage(folders[1])
    with pytest.raises(InputError) as refused:
        build.join_index_parts(folders, model, tmp_path / "index")
    assert str(refused.value).startswith(f"error: {line}") and "\n" not in str(refused.value)
    assert not (tmp_path / "index" / "index.json").exists()


@pytest.fixture(scope="module")
def part_folders(model, image_folder, tmp_path_factory):
    """Builds two parts; returns their folders."""
    root = tmp_path_factory.mktemp("parts")
    build_in_parts(build.find_images(str(image_folder)), model, root, 2)
    return [root / "part 0", root / "part 1"]


@pytest.mark.slow
def test_an_interrupted_update_keeps_the_old_index(built, model, image_folder, tmp_path, monkeypatch):
    folder = shutil.copytree(built[0], tmp_path / "index")
    monkeypatch.setattr(ann, "MAX_EXACT", 0)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ann, "build_regions", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build.build_index(build.find_images(str(image_folder)), model, folder, before=folder)
    assert Index(folder).about == built[1].about
    assert sorted(path.name for path in folder.iterdir()) == ["1", "index.json", "model"]


BUILD = "import sys; from pathlib import Path; from kfp_vision.search import build; "
BUILD += "build.build_index(build.find_images(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))"


@pytest.mark.slow
@pytest.mark.parametrize("written", [".index.*", ".index.*/*/vectors"])
def test_a_killed_update_keeps_the_old_index_and_the_next_update_succeeds(built, model, image_folder, tmp_path, written):
    folder = shutil.copytree(built[0], tmp_path / "index")
    command = [sys.executable, "-c", BUILD, str(image_folder), str(model), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until(lambda: list(tmp_path.glob(written)))
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert Index(folder).about == built[1].about
    vector = Index(folder).embedder().embed_one((image_folder / "globelet" / "0002.jpg").read_bytes())
    assert Index(folder).search(vector[None], 1)[0][0].path.endswith("globelet/0002.jpg")
    assert build.build_index(build.find_images(str(image_folder)), model, folder).about.generation == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index"]


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda folder: (folder / "index.json").unlink(), "there must be an index; got none in "),
        (lambda folder: (folder / "index.json").write_text("{"), "index.json must hold the metadata of an index; got "),
        (
            lambda folder: (folder / "index.json").write_text("[" * 100_000),
            "index.json must hold the metadata of an index; got ",
        ),
        (lambda folder: (folder / "1" / "vectors").write_bytes(b"short"), "an index must be whole; got "),
        (
            lambda folder: (folder / "1" / "pictures.csv").write_text("path,label,content_id,split\n"),
            "an index must be whole; got 0 rows",
        ),
        (lambda folder: (folder / "1" / "thumbnails").unlink(), "an index must be whole; got "),
        (
            lambda folder: (folder / "1" / "thumbnails").write_bytes(b"short"),
            "an index must be whole; got 5 bytes of ",
        ),
        (lambda folder: (folder / "1" / "thumbnails.npy").write_bytes(b""), "an index must be whole; got "),
    ],
)
def test_a_damaged_index_is_rejected_in_one_line(built, tmp_path, damage, line):
    folder = shutil.copytree(built[0], tmp_path / "index")
    damage(folder)
    with pytest.raises(InputError) as refused:
        Index(folder)
    assert str(refused.value).startswith(f"error: {line}")


def test_a_query_of_wrong_dimension_or_unknown_label_is_rejected(built):
    index = Index(built[0])
    with pytest.raises(InputError, match=r"vectors must have the \d+ dimensions of the index; got 3\. Search with the model"):
        index.search(np.zeros((1, 3), "float32"), 1)
    vector = np.zeros((1, index.about.dimension), "float32")
    with pytest.raises(
        InputError, match=r"label must be one of , bellcup, globelet; got tulip\. Leave it out to search all images"
    ):
        index.search(vector, 1, "tulip")


def test_a_model_without_embeddings_is_rejected(tmp_path):
    import tensorflow as tf

    class Old(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
        def names(self, image_bytes):
            return {"probabilities": tf.ones((tf.shape(image_bytes)[0], 2)) / 2}

    old_version = version(tmp_path / "1")
    old = Old()
    tf.saved_model.save(old, str(old_version.folder), signatures={"serving_default": old.names})
    with pytest.raises(
        InputError, match=r"a model must compute embeddings to be searched with; got none from .*\. Train it again"
    ):
        Embedder(old_version)


@pytest.mark.slow
def test_an_index_of_another_model_is_rebuilt(built, model, image_folder, tmp_path, capsys):
    folder = shutil.copytree(built[0], tmp_path / "index")
    about = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(about | {"model_fingerprint": "another"}))
    rows = [row for row in build.find_images(str(image_folder)) if row.label == "bellcup"]
    built_index = build.build_index(rows, model, tmp_path / "new", before=folder)
    assert (built_index.about.pictures, built_index.computed) == (6, 6)
    assert "the earlier index was built with another model: computing all embeddings" in capsys.readouterr().out


def write_index_files(folder: Path, vectors: np.ndarray, *, regions: bool) -> Path:
    """Writes an index of vectors with dummy thumbnails, and returns its folder."""
    generation_folder, number = folder / "1", len(vectors)
    generation_folder.mkdir(parents=True)
    (generation_folder / "vectors").write_bytes(vectors.tobytes())
    lines = [f"{position}.jpg,{'odd' if position % 2 else 'even'},{position:032x}," for position in range(number)]
    (generation_folder / "pictures.csv").write_text("\n".join(["path,label,content_id,split", *lines, ""]))
    (generation_folder / "thumbnails").write_bytes(b"x" * number)
    np.save(generation_folder / "thumbnails.npy", np.arange(number + 1))
    found = ann.build_regions(vectors, generation_folder / "regions") if regions else ann.Recall(1.0, 0)
    about = IndexInfo("flowers", "any", vectors.shape[1], number, 1, found.recall, found.probes)
    (folder / "index.json").write_text(json.dumps(asdict(about)))
    return folder


@pytest.mark.parametrize("read", ["joined", "opened"])
def test_the_table_may_have_cells_beyond_the_limit_of_csv(tmp_path, read):
    long = "\t".join(f"{number:05}" for number in range(30_000))  # the labels of one image
    folder = write_index_files(tmp_path, clustered(2, 24), regions=False)
    table = folder / "1" / "pictures.csv"
    table.write_text(table.read_text().replace("odd", long))
    csv.field_size_limit(131_072)  # Python's
    if read == "opened":
        assert Index(folder).images[1].labels == long.split("\t")
    else:
        (tmp_path / "joined").mkdir()
        parts.concatenate_parts([folder / "1"], tmp_path / "joined")
        assert (tmp_path / "joined" / "pictures.csv").read_bytes() == table.read_bytes()


@pytest.mark.parametrize("regions", [False, True])
def test_a_preloaded_index_finds_the_same_after_its_files_are_removed(tmp_path, regions):
    folder = write_index_files(tmp_path, clustered(12_000, 24), regions=regions)
    queries = clustered(5, 24, seed=1).astype("float32")
    opened, preloaded = Index(folder), Index(folder)
    preloaded.preload()
    for label in ("", "odd"):
        expected, found = (index.search(queries, 7, label) for index in (opened, preloaded))
        assert [[hit.content_id for hit in row] for row in found] == [[hit.content_id for hit in row] for row in expected]
        np.testing.assert_allclose(similarities(found), similarities(expected), rtol=1e-5)
    before = preloaded.search(queries, 7)
    assert preloaded.thumbnail(3) == b"x"
    (folder / "1" / "thumbnails").write_bytes(b"")  # truncated in place, as by overwriting it
    assert preloaded.thumbnail(3) == b""
    shutil.rmtree(folder)
    assert preloaded.search(queries, 7) == before


def similarities(found: list) -> list[list[float]]:
    return [[hit.similarity for hit in row] for row in found]


@pytest.mark.slow
def test_an_index_without_a_model_uses_a_version_beside_it(built, model, tmp_path):
    repository = shutil.copytree(model / "serving", tmp_path / "place")
    folder = shutil.copytree(built[0], repository / "index", ignore=shutil.ignore_patterns("model"))
    assert Index(folder).embedder().fingerprint == built[1].about.model_fingerprint
    shutil.rmtree(repository / "1")
    with pytest.raises(InputError, match=r"an index must have its model, flowers, in its folder or beside it; got none in"):
        Index(folder).embedder()


def test_an_index_beside_versions_is_neither_a_version_nor_a_model(built, model, tmp_path):
    repository = shutil.copytree(model / "serving", tmp_path / "models" / "flowers")
    shutil.copytree(built[0], repository / "index")
    assert [found.number for found in versions(repository)] == [1]
    assert find_models.find_models(tmp_path / "models") == {"flowers": repository}
    assert fetch_version(str(repository), tmp_path / "fetched").fingerprint == exported_version(model).fingerprint
    shutil.rmtree(repository / "1")
    with pytest.raises(InputError, match="there must be a model to serve"):
        find_models.find_models(repository)
